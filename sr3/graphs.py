"""A GPU's forwards as CUDA graphs: recorded once for each of a few batch sizes, then replayed.

The hundreds of kernels of a small network take longer to be asked for than to run; a graph asks for
all of them at once. A batch is filled up to the next of SIZES with its first image again.

Invariants: a graph is used only where it gave what its kernels give outside it; what it returns is
the caller's own; one thread at a time records or replays; nothing here keeps a network in memory,
and one that leaves it takes its graphs along.

Source: "CUDA semantics" of torch's documentation, section CUDA Graphs.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sr3.timing import shortest

Call = Callable[[Tensor, Tensor, Tensor], Tensor]  # the denoiser contract
SIZES = (1, 2, 4, 8, 16, 32)  # of batches; a larger one runs without a graph
WARM = 3  # forwards before one is recorded, in which libraries choose and load their kernels
AGREES = 0.02  # of the greatest value: how far a graph may be from the kernels outside it
GAIN = 1.1  # graphs must be this much faster on this GPU
KERNELS = 64  # of the chain that is timed

_log = logging.getLogger(__name__)
_lock = threading.RLock()
_held: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, Recorded | None]]
_held = weakref.WeakKeyDictionary()


class Recorded:
    """A call as a graph, for inputs of one shape. Raises RuntimeError where it cannot be."""

    def __init__(self, call: Call, inputs: tuple[Tensor, ...], pool: Any = None) -> None:
        """`pool`: another graph's memory, to be shared with it."""
        self._inputs = tuple(each.clone() for each in inputs)
        device = inputs[0].device
        here = torch.cuda.current_stream(device)
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                call(*self._inputs)
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may ask the GPU for other work meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._output = call(*self._inputs)

    @property
    def pool(self) -> Any:
        """Its memory, for the next graph of the same network."""
        return self._graph.pool()

    def __call__(self, *inputs: Tensor) -> Tensor:
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output.clone()


def replayed(
    network: nn.Module, call: Call, x_t: Tensor, condition: Tensor, noise_level: Tensor
) -> Tensor:
    """What `call`, a denoiser of this network in one precision, gives, by a graph where there can
    be one. `x_t` and `condition` (batch, 3, h, w), `noise_level` (batch,) -> (batch, 3, h, w)."""
    given = x_t, condition, noise_level
    count = len(x_t)
    size = next((size for size in SIZES if size >= count), None)
    if size is None:
        return call(*given)
    inputs = tuple(_filled(each, size) for each in given)
    with _lock:
        graph = _graph_of(network, call, inputs)
        if graph is not None:
            return graph(*inputs)[:count]
    return call(*given)


def _filled(batch: Tensor, size: int) -> Tensor:
    missing = size - len(batch)
    if not missing:
        return batch
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])


def _graph_of(network: nn.Module, call: Call, inputs: tuple[Tensor, ...]) -> Recorded | None:
    """Recorded now, or earlier; None where this network cannot be. Under the lock."""
    graphs = _held.setdefault(network, {})
    key = tuple((tuple(each.shape), each.dtype) for each in inputs)
    if key not in graphs:
        graphs[key] = None if None in graphs.values() else _record(call, inputs, graphs)
    return graphs[key]


def _record(
    call: Call, inputs: tuple[Tensor, ...], graphs: dict[Hashable, Recorded | None]
) -> Recorded | None:
    """A graph that was seen to agree; else None, and the log says why."""
    other = next((graph for graph in graphs.values() if graph is not None), None)
    try:
        graph = Recorded(call, inputs, other.pool if other else None)
        found, expected = graph(*inputs), call(*inputs)
    except RuntimeError as error:
        _log.warning("This network runs without CUDA graphs: %s", str(error).splitlines()[0])
        return None
    most = AGREES * float(expected.abs().max())
    if torch.allclose(found, expected, rtol=0, atol=most, equal_nan=True):
        return graph
    _log.warning("This network runs without CUDA graphs: one gave other values than its kernels.")
    return None


@torch.no_grad()
def gain(device: torch.device, precision: torch.dtype, tries: int = 9) -> float:
    """How much faster a chain of small kernels is as a graph; 0 where none can be recorded."""
    try:
        kernel = torch.ones(32, 32, 3, 3, device=device, dtype=precision)
        image = torch.ones(1, 32, 16, 16, device=device, dtype=precision)

        def chain(x: Tensor, *others: Tensor) -> Tensor:
            for _ in range(KERNELS):
                x = torch.nn.functional.conv2d(x, kernel, padding=1)
            return x

        given = (image,) * 3
        ways = {"kernels": partial(chain, *given), "graph": partial(Recorded(chain, given), *given)}
        best = shortest(ways, tries, device)
    except (RuntimeError, AssertionError) as error:
        _log.warning("CUDA graphs are not used: %s", str(error).splitlines()[0])
        return 0.0
    return best["kernels"] / best["graph"]
