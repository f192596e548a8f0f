"""What a device could do at best, measured: the floor under every time that is reported.

A forward needs so many operations and so many bytes; the device multiplies matrices at a measured
rate and moves memory at a measured rate; no program that does these operations is faster than the
slower of the two quotients, while one that needs fewer (`sr3.convolutions`) may be. Only weights,
inputs and outputs count as bytes, since caches may keep all that is in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sr3.config import UNetConfig
from sr3.schedule import everywhere
from sr3.timing import took

SIZES = (512, 1024, 2048)  # of the square matrices; a GPU also gets 8192
COPY_BYTES = 256 << 20


@dataclass(frozen=True)
class Rates:
    """What was measured."""

    operations: float  # a second; a multiply-add counts as two
    bytes: float  # a second, reads and writes
    precision: str  # of the matrices


@dataclass(frozen=True)
class Work:
    """What a forward of one image needs."""

    operations: float
    weight_bytes: float  # read once a forward, whatever the batch
    image_bytes: float  # inputs and output, an image

    def floor(self, rates: Rates, batch: int = 1) -> float:
        """The least seconds of a forward of `batch` images."""
        moved = self.weight_bytes + batch * self.image_bytes
        return max(batch * self.operations / rates.operations, moved / rates.bytes)


def measure_rates(device: torch.device, precision: torch.dtype, seconds: float = 1.0) -> Rates:
    """The best matrix rate over a few sizes and the copy rate, about `seconds` for each."""
    sizes = (*SIZES, 8192) if device.type == "cuda" else SIZES
    best = 0.0
    for size in sizes:
        a = torch.randn(size, size, device=device).to(precision)
        shortest = _shortest(lambda a=a: a @ a, device, seconds / len(sizes))  # type: ignore[misc]
        best = max(best, 2 * size**3 / shortest)
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    shortest = _shortest(lambda: target.copy_(source), device, seconds)
    return Rates(best, 2 * COPY_BYTES / shortest, str(precision).removeprefix("torch."))


def work_of(network: nn.Module, config: UNetConfig, precision: torch.dtype) -> Work:
    """Count what a forward of one image needs, on the network's own device."""
    weights = list(network.parameters())
    side, device = config.high_res, weights[0].device
    image = torch.zeros(1, 3, side, side, device=device)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image, image, everywhere(0.5, image))
    size = torch.finfo(precision).bits // 8
    return Work(
        float(counter.get_total_flops()),
        float(size * sum(weight.numel() for weight in weights)),
        3.0 * 4 * image.numel(),  # condition, noisy image, output, float32
    )


def _shortest(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest of the times of so many seconds: other work on the machine only adds."""
    run()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds or best == float("inf"):
        best = min(best, took(run, device).seconds)
    return best
