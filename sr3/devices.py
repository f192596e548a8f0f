"""Which device to run on, and in which precision, chosen by looking and measuring; says why.

Invariant: the choice is made once a process and device, so that reruns within it agree bit for
bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from sr3.errors import ConfigError

GAIN = 1.3  # bfloat16 must be this much faster than float32 on a CPU to be worth its rounding


@dataclass(frozen=True)
class Device:
    """A device, the precision that it is fast in, and one sentence that says why."""

    device: torch.device
    precision: torch.dtype
    reason: str


@lru_cache(maxsize=8)
def pick_device(name: str = "auto") -> Device:
    """`auto` (CUDA, then MPS, then CPU) or a torch device name.

    Raises ConfigError where the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); "
            "use auto, cpu, cuda or mps."
        ) from error
    if device.type == "cuda":
        title = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported():
            return Device(device, torch.bfloat16, f"{title}, bfloat16")
        return Device(device, torch.float16, f"{title}, float16 (it has no bfloat16)")
    if device.type != "cpu":
        return Device(device, torch.float32, f"{device.type}, float32")
    ratio = _bfloat16_gain()
    if ratio >= GAIN:
        return Device(device, torch.bfloat16, f"CPU, bfloat16 ({ratio:.1f}x float32's speed)")
    return Device(device, torch.float32, f"CPU, float32 (bfloat16 has {ratio:.1f}x its speed)")


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())


def _bfloat16_gain(size: int = 768, tries: int = 9) -> float:
    """How much faster bfloat16 multiplies matrices of the convolutions' size than float32.

    Shortest times, taken in turn, so that other work on the machine does not decide.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(tries):
        for dtype in best:
            a = torch.ones(size, size, dtype=dtype)
            began = time.perf_counter()
            a @ a
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.float32] / best[torch.bfloat16]
