"""A network's quick copy: its tensors, with convolutions that are made ready once.

`quicken` gives a copy of a network that shares all its tensors but convolves with what was laid out
once (`sr3.convolutions`); what its blocks add, and the activation before a convolution, is done
where the numbers are at hand instead of in passes of its own.

Invariants: the network itself is never changed; a copy is made anew where weights of its
convolutions were changed in place; in float32 what a layer does with a picture does not depend on
the batch, whose size torch's norms and linear layers choose their sums by; in bfloat16 a copy
gives the bits that the network gives under autocast; only on a CPU, no gradient, and no training.
"""

from __future__ import annotations

import copy
import threading
import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr3.convolutions import ALONE, Along, Doubled, Packed, Winograd, doubles, one_by_one, tile_of
from sr3.unet import ResidualBlock, Upsample


class Quick(nn.Module):
    """A convolution that is made ready at its first picture, for that picture's size."""

    def __init__(
        self, conv: nn.Conv2d, tiles: bool, precision: torch.dtype, doubled: bool = False
    ) -> None:
        """With `doubled` pictures are first doubled in size, as `Upsample` does."""
        super().__init__()
        # A copy, so that the original may go; a tuple, since its weights are not this module's.
        self._conv = (copy.copy(conv),)
        self._tiles, self._precision, self._doubled = tiles, precision, doubled
        self._ready: dict[int, Winograd | Packed | Doubled] = {}

    @property
    def nbytes(self) -> int:
        """The memory of what was made ready."""
        return sum(each.nbytes for each in self._ready.values())

    def forward(self, x: Tensor, along: Along = ALONE) -> Tensor:
        ready = self._ready.get(x.shape[2])
        if ready is None:
            ready = self._ready[x.shape[2]] = self._made_for(x.shape)
        if isinstance(ready, Doubled):
            doubled: Tensor = ready(x)
            return doubled
        if self._doubled:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = ready(x, along)
        return out

    def _made_for(self, shape: torch.Size) -> Winograd | Packed | Doubled:
        conv, (batch, channels, *sides) = self._conv[0], shape
        if self._doubled:
            if self._tiles and doubles(conv, min(sides)):
                return Doubled(conv.weight.detach(), conv.bias)
            sides = [2 * side for side in sides]
        outputs = tile_of(conv, min(sides)) if self._tiles else 0
        if outputs:
            return Winograd(conv.weight.detach(), conv.bias, outputs)
        return Packed(conv, (batch, channels, *sides), self._precision)

    @property
    def bias(self) -> Tensor | None:
        """(k,)."""
        return self._conv[0].bias

    def onto(self, out: Tensor, x: Tensor) -> Tensor:
        """A 1x1 convolution of x without its bias, added to `out`, which is changed."""
        weight = self._conv[0].weight.detach().flatten(1)
        pixels, x = out.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        if pixels.is_contiguous():
            pixels.view(-1, len(weight)).addmm_(x.reshape(-1, x.shape[3]), weight.t())
            return out
        return out.add_(F.linear(x, weight).permute(0, 3, 1, 2))


class QuickBlock(ResidualBlock):
    """A residual block of quick convolutions, which take the rest of its work with them.

    What is added is added in another order than by `ResidualBlock`; nothing is dropped out.
    """

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(x, Along(norm=self.norm1, shift=self.embed(embedding)))
        if isinstance(self.skip, Quick):
            h = self.conv2(h, Along(norm=self.norm2, shift=self.skip.bias))
            h = self.skip.onto(h, x)
        else:
            h = self.conv2(h, Along(norm=self.norm2, rest=x))
        out: Tensor = self.attention(h)
        return out


class QuickLinear(nn.Linear):
    """Each row a product of its own: how many there are would choose the kernel."""

    def forward(self, x: Tensor) -> Tensor:
        rows, weight = x[:, None], self.weight.t().expand(len(x), -1, -1)
        bias = x.new_zeros(1) if self.bias is None else self.bias
        return torch.baddbmm(bias, rows, weight)[:, 0]


class QuickNorm(nn.GroupNorm):
    """The same bits for a picture in any batch."""

    def forward(self, x: Tensor) -> Tensor:
        found = [super(QuickNorm, self).forward(part) for part in one_by_one(x)]
        return torch.cat(found) if len(found) > 1 else found[0]


# ------------------------------------------------------------------------------------ a network's
_EACH = {ResidualBlock: QuickBlock, nn.GroupNorm: QuickNorm, nn.Linear: QuickLinear}
_Way = tuple[bool, torch.dtype]  # with tiles, in a precision
# A convolution's tensors by name and how often each was changed.
_State = tuple[tuple[str, Tensor | None, int], ...]
_Mark = tuple[nn.Conv2d, _State]  # what it was when a copy was made
_quick: weakref.WeakKeyDictionary[nn.Module, tuple[_Way, list[_Mark], nn.Module]]
_quick = weakref.WeakKeyDictionary()
_parts: weakref.WeakKeyDictionary[nn.Conv2d, dict[tuple[_Way, bool], tuple[_State, Quick]]]
_parts = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def quicken(
    network: nn.Module, tiles: bool = True, precision: torch.dtype = torch.float32
) -> nn.Module:
    """A copy of a network that shares its tensors, with quick convolutions; the same one while no
    weight changes. Networks that share layers (a splice and its parents) share what is laid out.

    `precision` is what the copy is asked in: bfloat16 under autocast, and without `tiles`.
    """
    way = tiles, precision
    with _lock:
        held = _quick.get(network)
        if held is not None and held[0] == way and all(_unchanged(*mark) for mark in held[1]):
            return held[2]
        marks: list[_Mark] = []
        made = _copied(network, way, marks)
        _quick[network] = way, marks, made
        return made


def _state(conv: nn.Conv2d) -> _State:
    return tuple(
        (name, each, 0 if each is None else each._version)
        for name, each in conv._parameters.items()
    )


def _unchanged(conv: nn.Conv2d, state: _State) -> bool:
    now = conv._parameters  # as its attributes, but asked for at every step
    for name, each, changes in state:
        if now.get(name) is not each or (each is not None and each._version != changes):
            return False
    return True


def _copied(module: nn.Module, way: _Way, marks: list[_Mark]) -> nn.Module:
    """The module without its own dictionary of children, convolutions replaced. Under the lock."""
    if isinstance(module, nn.Conv2d):
        return _part(module, way, marks)
    exact = way[1] == torch.float32
    if type(module) is Upsample and _can(module.conv) and exact:
        return _part(module.conv, way, marks, doubled=True)
    made = copy.copy(module)
    if type(module) in _EACH and not module.training and exact:
        made.__class__ = _EACH[type(module)]
    made._modules = {
        name: None if child is None else _copied(child, way, marks)
        for name, child in module._modules.items()
    }
    return made


def _can(conv: nn.Conv2d) -> bool:
    """Whether it is a convolution such as our networks have."""
    return conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def _part(conv: nn.Conv2d, way: _Way, marks: list[_Mark], doubled: bool = False) -> nn.Module:
    """The quick one of a convolution, made once while its weights do not change."""
    marks.append((conv, _state(conv)))
    if not _can(conv):
        return conv
    held = _parts.setdefault(conv, {}).get((way, doubled))
    if held is None or not _unchanged(conv, held[0]):
        held = _state(conv), Quick(conv, *way, doubled)
        _parts[conv][way, doubled] = held
    return held[1]


def quick_parts(network: nn.Module) -> list[Quick]:
    """What was made ready for a network beside its own weights; shared ones are the same object."""
    with _lock:
        held = _quick.get(network)
        parts = held[2].modules() if held is not None else ()
        return [part for part in parts if isinstance(part, Quick)]
