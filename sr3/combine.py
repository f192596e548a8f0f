"""Checkpoints made of others: a small change to a parent, a splice of two, a blend of two.

`config.json` of such a folder is a `Recipe`; its parents are named and hashed, never copied:

    delta         parent + what fine-tuning changed (float16 or 8-bit differences, or low-rank
                  factors)
    spliced       the parent for noise levels above time step `step` (noisier), the tuned one at
                  and below it, an image at a time
    interpolated  parent + weight (tuned - parent), any weight (WiSE-FT, 2109.01903)

Invariants: nothing here reads or writes a file; a parent's tensors are never changed; the identity
of a recipe follows from its parents' hashes and its parameter, not from what they are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sr3.config import ModelConfig, to_dict
from sr3.errors import CheckpointError, ConfigError
from sr3.schedule import NoiseSchedule

Kind = Literal["delta", "spliced", "interpolated"]
LEFT, RIGHT = ".left", ".right"  # a change's low-rank factors, behind the weight's own name
SCALE = ".scale"  # of an 8-bit change's steps, a number an output channel, in units of UNIT
UNIT = 2.0**-16  # float16 has few numbers as small as a step


@dataclass(frozen=True)
class Parent:
    """A checkpoint that another one is made of."""

    name: str  # as registered, or a path from the folder of the one that is made
    sha256: str  # its identity (`checkpoints.hash_of`)


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made of others; `parents` is the original, then the tuned one."""

    kind: Kind
    parents: tuple[Parent, ...]
    step: int | None = None  # spliced: the last time step (1..T) of the tuned one
    weight: float | None = None  # interpolated: 0 the original, 1 the tuned one
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        wanted = {"delta": (1, False, False), "spliced": (2, True, False)}
        shape = len(self.parents), self.step is not None, self.weight is not None
        if shape != wanted.get(self.kind, (2, False, True)):
            raise ConfigError(
                f"a checkpoint of kind {self.kind!r} needs one parent (delta), two and a step "
                "(spliced), or two and a weight (interpolated)."
            )
        last = self.model.schedule.steps
        if self.step is not None and not 1 <= self.step < last:
            raise ConfigError(f"a splice needs a time step in 1..{last - 1}; got {self.step}.")
        if self.weight is not None and not -100 < self.weight < 100:
            raise ConfigError(f"weight must be a number such as 0.5; got {self.weight}.")

    @property
    def identity(self) -> str:
        """SHA-256 of all but the parents' names."""
        values = to_dict(self) | {"parents": [parent.sha256 for parent in self.parents]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {name: value for name, value in to_dict(self).items() if value is not None}

    def describe(self) -> str:
        """One sentence for a card or a listing."""
        names = [parent.name for parent in self.parents]
        match self.kind:
            case "delta":
                return f"{names[0]}, fine-tuned."
            case "spliced":
                return f"{names[0]} above time step {self.step}, {names[1]} from it down."
            case "interpolated":
                return f"{names[0]} + {self.weight:g} x ({names[1]} - {names[0]})."


def same_network(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two models differ in nothing but weights and recommended sampling."""
    fields = ("network", "schedule", "prediction", "residual_scale")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def same_chain(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether two networks can be asked at the same levels; a distilled one learnt only those of
    its own chain, which ends elsewhere."""
    return one.sampling.end == other.sampling.end


# --------------------------------------------------------------------------------------- weights
def difference(parent: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What fine-tuning changed, as it is stored: float16, unchanged tensors left out."""
    changes = {name: (tuned[name] - parent[name]).half() for name in parent}
    return {name: change for name, change in changes.items() if bool(change.any())}


def quantize(delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A change in half the bytes: matrices and kernels as int8, with a scale an output channel.

    The error of an entry is at most half a step, 1/254 of its channel's greatest change.
    """
    small: dict[str, Tensor] = {}
    for name, change in delta.items():
        if change.ndim < 2 or name.endswith((LEFT, RIGHT)) or change.dtype == torch.int8:
            small[name] = change
            continue
        # Through the precision that it is stored in, so that steps and scale belong together.
        scale = (change.float().flatten(1).abs().amax(dim=1) / 127 / UNIT).clamp(min=1e-4).half()
        small[name] = (change.float() / _along(scale, change)).round().clamp(-127, 127).char()
        small[name + SCALE] = scale
    return small


def _along(scale: Tensor, change: Tensor) -> Tensor:
    """The size of a step of each output channel, in the shape that multiplies a change."""
    return UNIT * scale.float().view(-1, *[1] * (change.ndim - 1))


def add_delta(
    parent: Mapping[str, Tensor], delta: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """`parent` plus a stored change; tensors that the change does not name are the parent's own.

    Raises CheckpointError for a change that is of another network, told of as `what`.
    """
    weights = dict(parent)
    lefts = {name.removesuffix(LEFT) for name in delta if name.endswith(LEFT)}
    rights = {name.removesuffix(RIGHT) for name in delta if name.endswith(RIGHT)}
    plain = {name for name in delta if not name.endswith((LEFT, RIGHT, SCALE))}
    scaled = {name.removesuffix(SCALE) for name in delta if name.endswith(SCALE)}
    coarse = {name for name in plain if delta[name].dtype == torch.int8}
    odd = sorted(
        (lefts ^ rights) | (lefts & plain) | ((lefts | plain) - set(parent)) | (scaled ^ coarse)
    )
    if odd:
        raise CheckpointError(f"{what} does not fit its parent: {odd[0]} is not a change of it.")
    try:
        for name in plain:
            change = _shaped(delta[name].float(), parent[name])
            if name in scaled:
                change = change * _along(delta[name + SCALE], change)
            weights[name] = parent[name] + change.to(parent[name].device)
        for name in lefts:
            product = delta[name + LEFT].float() @ delta[name + RIGHT].float()
            flat = _shaped(product, parent[name].flatten(1)).to(parent[name].device)
            weights[name] = parent[name] + flat.view_as(parent[name])
    except RuntimeError as error:  # shapes that cannot be multiplied
        raise CheckpointError(f"{what} does not fit its parent: {name}: {error}.") from error
    return weights


def _shaped(change: Tensor, like: Tensor) -> Tensor:
    """`change`, which must have the shape of `like`: no broadcasting."""
    if change.shape != like.shape:
        raise RuntimeError(f"its shape is {tuple(change.shape)}, expected {tuple(like.shape)}")
    return change


def interpolate(
    parent: Mapping[str, Tensor], tuned: Mapping[str, Tensor], weight: float
) -> dict[str, Tensor]:
    """parent + weight (tuned - parent), tensor by tensor; exact at 0 and 1.

    A tensor that the two share, or that is one of theirs, is their own and no copy.
    """
    if weight in (0, 1):
        return dict(tuned if weight else parent)
    return {
        name: tensor
        if tensor.data_ptr() == tuned[name].data_ptr()
        else torch.lerp(tensor, tuned[name], weight)
        for name, tensor in parent.items()
    }


# ---------------------------------------------------------------------------------------- splice
class Spliced(nn.Module):
    """Two networks as one: `noisier` above a time step, `cleaner` at and below it.

    Each image of a batch goes to the one that its noise level asks for; where all ask for one,
    the batch goes to it whole, so its output is that network's own, bit for bit.
    """

    def __init__(
        self, noisier: nn.Module, cleaner: nn.Module, schedule: NoiseSchedule, step: int
    ) -> None:
        super().__init__()
        self.noisier, self.cleaner = noisier, cleaner
        self.level = schedule.level(step).float()  # samplers may hand on float32 levels

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The two, and what they are made of where they are spliced too."""
        pair = self.noisier, self.cleaner
        return *pair, *(p for each in pair if isinstance(each, Spliced) for p in each.parts)

    def at(self, noise_level: float) -> nn.Module:
        """The network that a level (sqrt(alpha_bar)) asks for."""
        clean = bool(torch.tensor(noise_level).float() >= self.level)
        found = self.cleaner if clean else self.noisier
        return found.at(noise_level) if isinstance(found, Spliced) else found

    def forward(self, condition: Tensor, noisy: Tensor, noise_level: Tensor) -> Tensor:
        """`condition`, `noisy` (batch, 3, h, w); `noise_level` (batch,) -> (batch, 3, h, w)."""
        clean = (noise_level.detach().cpu().float() >= self.level).tolist()
        if all(clean) or not any(clean):
            network = self.cleaner if clean[0] else self.noisier
            out: Tensor = network(condition, noisy, noise_level)
            return out
        parts: dict[bool, Any] = {}
        for side, network in ((False, self.noisier), (True, self.cleaner)):
            places = [index for index, here in enumerate(clean) if here is side]
            parts[side] = iter(network(condition[places], noisy[places], noise_level[places]))
        return torch.stack([next(parts[side]) for side in clean])
