"""Settings as frozen dataclasses: validated when made, round-tripped through JSON beside weights.

Invariants: `from_dict(type, to_dict(x)) == x`; an unknown or missing key or a value outside its
range raises `ConfigError`; nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from sr3.errors import ConfigError

Prediction = Literal["eps", "v", "x0", "residual"]
Spacing = Literal["uniform", "log_snr", "karras"]
SamplerName = Literal["ancestral", "ddim", "dpmpp"]

MOST_SEED = 2**31 - 1  # so that every seed fits a table, a link and any generator

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _above_0(config: object, *names: str) -> None:
    """Raise ConfigError for a setting that is not a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        _require(0 < value < math.inf, f"{name} must be finite and above 0; got {value}.")


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that is not in 0..MOST_SEED."""
    _require(0 <= seed <= MOST_SEED, f"a seed must be in 0..{MOST_SEED}; got {seed}.")


def _choice(name: str, value: str, kind: Any) -> None:
    allowed = typing.get_args(kind)
    _require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the network. The defaults are the public 16 -> 128 model (97,807,491 parameters)."""

    low_res: int = 16  # side of the low-resolution input, pixels
    high_res: int = 128  # side of the image that is denoised, pixels
    channels: int = 64  # width of the first level
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)  # width of each level, in units of `channels`
    blocks: int = 2  # residual blocks a level (one more on the way up)
    attention_sizes: tuple[int, ...] = (16,)  # sides of the feature maps that attend
    norm_groups: int = 32
    dropout: float = 0.2
    patch: int = 1  # pixel-unshuffle factor before the stem; 1 for the paper's network
    embedding: Literal["level", "log_snr"] = "level"  # how the noise level enters the sinusoids

    def __post_init__(self) -> None:
        for name in ("low_res", "high_res", "channels", "blocks", "norm_groups", "patch"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} must be at least 1; got {value}.")
        _require(len(self.multipliers) >= 1, "multipliers must name at least one level.")
        _require(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}.")
        _choice("embedding", self.embedding, Literal["level", "log_snr"])
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        _require(
            self.high_res % factor == 0,
            f"high_res must be a multiple of {factor} (patch x 2 ** (levels - 1)); "
            f"got {self.high_res}.",
        )
        for multiplier in self.multipliers:
            _require(multiplier >= 1, f"multipliers must be at least 1; got {multiplier}.")
            width = self.channels * multiplier
            _require(
                width % self.norm_groups == 0,
                f"each level's width must be a multiple of norm_groups={self.norm_groups}; "
                f"got {width}.",
            )


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear betas, as the public SR3 code trains and samples with."""

    beta_start: float = 1e-6
    beta_end: float = 1e-2
    steps: int = 2000

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"schedule steps must be at least 1; got {self.steps}.")
        _require(
            0 < self.beta_start <= self.beta_end < 1,
            "betas must satisfy 0 < beta_start <= beta_end < 1; "
            f"got {self.beta_start} and {self.beta_end}.",
        )


SAMPLERS: Mapping[str, str] = types.MappingProxyType(  # what they are called
    {
        "dpmpp": "DPM-Solver++ (2M)",
        "ddim": "DDIM",
        "ancestral": "Ancestral (the SR3 paper)",
    }
)


@dataclass(frozen=True)
class SamplerConfig:
    """How an image is drawn: the method, its network evaluations and the optional refinements."""

    sampler: SamplerName = "dpmpp"
    steps: int = 10  # network evaluations
    spacing: Spacing = "log_snr"
    start: int = 2000  # first time step; under the schedule's last one, begin from the noised
    # low-resolution estimate instead of pure noise
    end: int = 1  # last time step evaluated (log_snr, karras; uniform's is start / steps)
    eta: float = 0.0  # 0 deterministic, 1 ancestral (ddim alone)
    clamp: bool = True  # hold the clean estimate in [-1, 1]
    consistency: bool = True  # make the clean estimate reduce to exactly the input

    def __post_init__(self) -> None:
        _choice("sampler", self.sampler, SamplerName)
        _choice("spacing", self.spacing, Spacing)
        _require(self.steps >= 1, f"steps must be at least 1; got {self.steps}.")
        _require(
            1 <= self.end <= self.start,
            f"start must be at least end, and end at least 1; got {self.start} and {self.end}.",
        )
        _require(0 <= self.eta < math.inf, f"eta must be finite, 0 or more; got {self.eta}.")


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to use a set of weights; `config.json` of a checkpoint folder."""

    network: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prediction: Prediction = "eps"
    residual_scale: float = 0.15  # root mean square of x0 - condition (prediction "residual")
    sampling: SamplerConfig = field(default_factory=SamplerConfig)  # recommended settings

    def __post_init__(self) -> None:
        _choice("prediction", self.prediction, Prediction)
        _above_0(self, "residual_scale")
        _require(
            self.sampling.start <= self.schedule.steps,
            f"start must be within the {self.schedule.steps} steps of the schedule; "
            f"got {self.sampling.start}.",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. A run ends after `steps` updates or `minutes`, never both."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    warmup: int = 100  # updates of linear rise
    decay: float = 0.4  # last share of the run over which the rate falls linearly to zero
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0  # gradient norm
    loss: Literal["l1", "l2"] = "l2"
    levels: Literal["uniform", "log_snr", "focused"] = "focused"  # how time steps are drawn
    range: tuple[int, int] = (0, 2000)  # time steps (A, B]: levels between them alone
    weight_cap: float = 25.0  # most weight of a level, in units of the noisiest one's
    flips: bool = True
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            (self.steps is None) != (self.minutes is None),
            "give either steps or minutes for a training run, and not both.",
        )
        _require(
            self.steps is None or self.steps >= 1, f"steps must be at least 1; got {self.steps}."
        )
        if self.minutes is not None:
            _above_0(self, "minutes")
        _above_0(self, "learning_rate", "clip", "weight_cap")
        _require(self.warmup >= 0, f"warmup must be 0 or more; got {self.warmup}.")
        _require(
            0 <= self.weight_decay < math.inf,
            f"weight_decay must be finite, 0 or more; got {self.weight_decay}.",
        )
        _require(self.batch >= 1, f"batch must be at least 1; got {self.batch}.")
        _choice("optimizer", self.optimizer, Literal["adamw", "muon"])
        _choice("loss", self.loss, Literal["l1", "l2"])
        _choice("levels", self.levels, Literal["uniform", "log_snr", "focused"])
        _choice("precision", self.precision, Literal["float32", "bfloat16"])
        check_seed(self.seed)
        _require(0 <= self.ema < 1, f"ema must be in [0, 1); got {self.ema}.")
        _require(0 <= self.decay <= 1, f"decay must be in [0, 1]; got {self.decay}.")
        _require(len(self.range) == 2, f"range must be two time steps A:B; got {self.range}.")
        first, last = self.range
        _require(
            0 <= first < last,
            f"a range of time steps A:B needs 0 <= A < B; got {first}:{last}.",
        )


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dictionary of a config dataclass (tuples become lists when dumped)."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass `kind` from a dictionary such as parsed JSON.

    Raises ConfigError for an unknown or a missing key, a wrong type or a value outside its range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} must be an object of settings; got {values!r}.")
    hints = _hints(typing.cast(Any, kind))
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{kind.__name__} has no setting {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(hints)}."
        )
    if lacking := [name for name in _without_default(kind) if name not in values]:
        raise ConfigError(f"{kind.__name__} lacks {', '.join(map(repr, lacking))}: add it.")
    return kind(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def name_changes(theirs: Mapping[str, Any], ours: Mapping[str, Any], within: str = "") -> str:
    """Where two sets of settings differ, for a message: `network.channels 64 there, 32 here`."""
    found = []
    for name in {**theirs, **ours}:
        there, here = (values.get(name, "missing") for values in (theirs, ours))
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            found.append(name_changes(there, here, f"{within}{name}."))
        elif there != here:
            found.append(f"{within}{name} {_brief(there)} there, {_brief(here)} here")
    return "; ".join(filter(None, found))


def _brief(value: Any) -> str:
    """A setting's value in a message; of a hash its first digits."""
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


@cache  # a type: there are few, and resolving their names takes a hundred times as long
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _without_default(kind: Any) -> list[str]:
    """The settings of a dataclass that have no default."""
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def _convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint` says, checked: nested dataclasses, tuples, optionals, numbers, literals."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(name, value, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{name} must be a list; got {value!r}.")
        return tuple(_convert(name, item, arguments[0]) for item in value)
    if origin is Literal:
        _choice(name, value, hint)
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _require(right, f"{name} must be of type {hint.__name__}; got {value!r}.")
    return value
