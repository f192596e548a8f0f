"""Convolutions of a CPU, made ready once: weights in the kernel's own layout, or Winograd's tiles.

torch lays out the weights of a convolution anew at every call, which takes as long as the
convolution itself where the picture is small. `quicken` gives a copy of a network that shares all
its tensors but convolves with what was laid out once; where it pays, 3x3 kernels run over tiles of
m x m outputs by F(m x m, 3x3), with (m + 2)^2 instead of 9 m^2 multiplications a pair of channels.

Invariants: the network itself is never changed; a copy is made anew where a weight of it was
changed in place; a plain layout gives torch's own values, tiles give them within 1e-4 of the
greatest (about 1e-5 is measured); only float32 on a CPU, and no gradient.

Source: Lavin and Gray 2016 (arXiv 1509.09308), section 4.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter

import torch
from torch import Tensor, nn

WORK = 4 << 20  # bytes of tiles that are in work at once, so that they stay in the caches
CHANNELS = 128  # harmonic mean of inputs and outputs from which tiles pay
SMALL = 1 << 17  # pairs of channels up to which F(4x4)'s weights stay in the caches
RESERVE = 30 << 18  # float32 numbers of 30 MiB, the largest block whose pages glibc may keep
GAIN = 1.05  # tiles must be this much faster on this machine

# Lavin and Gray's B^T, G and A^T, for one axis; at the points 0, 1, -1 (2, -2) and infinity.
_TRANSFORMS = {
    2: (
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: (
        (
            (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
        ),
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}  # fmt: skip


class Winograd(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1: (batch, c, h, w) -> (batch, k, h, w)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, outputs: int = 4) -> None:
        """`weight` (k, c, 3, 3), `bias` (k,); `outputs` a side of a tile, 2 or 4."""
        super().__init__()
        inner, kernel, outer = (
            torch.tensor(rows, dtype=torch.float64) for rows in _TRANSFORMS[outputs]
        )
        self.outputs, self.tile = outputs, outputs + 2
        # A transform of both axes is one product with a Kronecker square.
        self.inner = torch.kron(inner, inner).float()  # (tile^2, tile^2)
        self.outer = torch.kron(outer, outer).float()  # (outputs^2, tile^2)
        turned = torch.kron(kernel, kernel).float() @ weight.permute(2, 3, 1, 0).reshape(9, -1)
        self.weight = turned.view(self.tile**2, weight.shape[1], weight.shape[0])
        self.bias = weight.new_zeros(weight.shape[0]) if bias is None else bias

    @property
    def nbytes(self) -> int:
        """The memory of the transformed weights."""
        return self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """Float32 of any size; the result is channels_last."""
        batch, _, height, width = x.shape
        m = self.outputs
        padded = self._padded(x)
        rows, columns = -(-height // m), -(-width // m)  # of tiles
        out = x.new_empty(batch, rows * m, columns * m, self.weight.shape[2])
        widest = max(self.weight.shape[1:])
        row = 4 * self.tile**2 * columns * widest  # bytes of a row of tiles
        many = max(WORK // (row * rows), 1)  # whole pictures at once, or else some of one's rows
        count = rows if many > 1 else max(WORK // row, 1)
        for start in range(0, batch, many):
            pictures, targets = padded[start : start + many], out[start : start + many]
            for first in range(0, rows, count):
                some = min(count, rows - first)
                self._convolve(pictures[:, first * m :], targets[:, first * m : (first + some) * m])
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _padded(self, x: Tensor) -> Tensor:
        """Zeros around, up to whole tiles: (batch, h', w', c)."""
        batch, channels, height, width = x.shape
        sides = (-(-side // self.outputs) * self.outputs + 2 for side in (height, width))
        padded = x.new_empty(batch, *sides, channels)
        padded[:, 0] = padded[:, height + 1 :] = 0
        padded[:, 1:, 0] = padded[:, 1:, width + 1 :] = 0
        padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
        return padded

    def _convolve(self, pictures: Tensor, target: Tensor) -> None:
        """Some rows of tiles: `target` (n, rows m, columns m, k) from the top of (n, h', w', c)."""
        m, tile = self.outputs, self.tile
        (next_, down, right, _), (_, inputs, outputs) = pictures.stride(), self.weight.shape
        n, rows, columns = target.shape[0], target.shape[1] // m, target.shape[2] // m
        tiles = pictures.as_strided(
            (tile, tile, n, rows, columns, inputs),
            (down, right, next_, m * down, m * right, 1),
            pictures.storage_offset(),
        )
        turned = self.inner @ tiles.reshape(tile**2, -1)
        products = torch.bmm(turned.view(tile**2, -1, inputs), self.weight)
        found = (self.outer @ products.view(tile**2, -1)).view(m, m, n, rows, columns, outputs)
        places = target.view(n, rows, m, columns, m, outputs).permute(2, 4, 0, 1, 3, 5)
        torch.add(found, self.bias, out=places)


class Packed(nn.Module):
    """torch's own convolution with its weights laid out once."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size) -> None:
        """`shape` of the input that it is made for; others are right too, and may be slower."""
        super().__init__()
        self.padding, self.stride = list(map(int, conv.padding)), list(conv.stride)
        self.bias, self.nbytes = conv.bias, conv.weight.nbytes
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), self.padding, self.stride, [1, 1], 1, list(shape)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, "none", [], ""
        )
        return out


class Quick(nn.Module):
    """A convolution that is made ready at its first picture, for that picture's size."""

    def __init__(self, conv: nn.Conv2d, tiles: bool) -> None:
        super().__init__()
        # A copy, so that the original may go; a tuple, since its weights are not this module's.
        self._conv = (copy.copy(conv),)
        self._tiles = tiles
        self._ready: dict[int, Winograd | Packed] = {}

    @property
    def nbytes(self) -> int:
        """The memory of what was made ready."""
        return sum(each.nbytes for each in self._ready.values())

    def forward(self, x: Tensor) -> Tensor:
        ready = self._ready.get(x.shape[2])
        if ready is None:
            conv = self._conv[0]
            outputs = tile_of(conv, min(x.shape[2:])) if self._tiles else 0
            ready = (
                Winograd(conv.weight.detach(), conv.bias, outputs)
                if outputs
                else Packed(conv, x.shape)
            )
            self._ready[x.shape[2]] = ready
        out: Tensor = ready(x)
        return out


def tile_of(conv: nn.Conv2d, side: int) -> int:
    """The outputs a side of a tile that pay for pictures of this side; 0 where none do.

    From times of the layers of our networks (`benchmarks/fast.py`), for a batch of 1 to 8; a rule
    and not a timing, so that a checkpoint gives the same bits in each process.
    """
    k, c = conv.weight.shape[:2]
    plain = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == (1, 1)
    if not plain or 2 * k * c < CHANNELS * (k + c) or side < 16:
        return 0
    return 4 if side >= 32 or k * c <= SMALL else 2


# ------------------------------------------------------------------------------------ a network's
_Mark = tuple[nn.Conv2d, Tensor, int]  # a convolution, its weight, and how often that was changed
_quick: weakref.WeakKeyDictionary[nn.Module, tuple[bool, list[_Mark], nn.Module]]
_quick = weakref.WeakKeyDictionary()
_parts: weakref.WeakKeyDictionary[nn.Conv2d, dict[bool, tuple[Tensor, int, Quick]]]
_parts = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def quicken(network: nn.Module, tiles: bool = True) -> nn.Module:
    """A copy of a network that shares its tensors, with quick convolutions; the same one while no
    weight changes. Networks that share layers (a splice and its parents) share what is laid out.
    """
    with _lock:
        held = _quick.get(network)
        if held is not None and held[0] == tiles and all(map(_unchanged, held[1])):
            return held[2]
        marks: list[_Mark] = []
        made = _copied(network, tiles, marks)
        _quick[network] = tiles, marks, made
        return made


def _unchanged(mark: _Mark) -> bool:
    conv, weight, version = mark
    return conv.weight is weight and weight._version == version


def _copied(module: nn.Module, tiles: bool, marks: list[_Mark]) -> nn.Module:
    """The module without its own dictionary of children, convolutions replaced. Under the lock."""
    if isinstance(module, nn.Conv2d):
        marks.append((module, module.weight, module.weight._version))
        return _part(module, tiles)
    made = copy.copy(module)
    made._modules = {
        name: None if child is None else _copied(child, tiles, marks)
        for name, child in module._modules.items()
    }
    return made


def _part(conv: nn.Conv2d, tiles: bool) -> nn.Module:
    """The quick one of a convolution, made once while its weight does not change."""
    if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return conv
    held = _parts.setdefault(conv, {}).get(tiles)
    if held is None or held[0] is not conv.weight or held[1] != conv.weight._version:
        held = conv.weight, conv.weight._version, Quick(conv, tiles)
        _parts[conv][tiles] = held
    return held[2]


def quick_parts(network: nn.Module) -> list[Quick]:
    """What was made ready for a network beside its own weights; shared ones are the same object."""
    with _lock:
        held = _quick.get(network)
        parts = held[2].modules() if held is not None else ()
        return [part for part in parts if isinstance(part, Quick)]


# -------------------------------------------------------------------------------- on this machine
def supported() -> bool:
    """Whether this build of torch has the kernels whose weights can be laid out once."""
    ops = torch.ops.mkldnn
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    return bool(torch._C._has_mkldnn) and all(hasattr(ops, name) for name in names)


@lru_cache(maxsize=1)
@torch.no_grad()
def gain_of_tiles(channels: int = 192, side: int = 32, tries: int = 15) -> float:
    """How much faster tiles are than torch's kernel for one layer; the shortest times, taken in
    turn, so that other work on the machine does not decide."""
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    x = torch.ones(1, channels, side, side).to(memory_format=torch.channels_last)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "packed": Packed(conv, x.shape), "tiles": Winograd(conv.weight, conv.bias)
    }  # fmt: skip
    best = dict.fromkeys(ways, float("inf"))
    # As in a process that has worked a while: once a large block was freed, glibc keeps the next
    # ones instead of asking the system for fresh pages at each call.
    torch.ones(RESERVE)
    for _ in range(tries):
        for name, way in ways.items():
            began = perf_counter()
            way(x)
            best[name] = min(best[name], perf_counter() - began)
    return best["packed"] / best["tiles"]
