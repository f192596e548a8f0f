"""Which device to run on, and in which precision, chosen by looking and measuring; says why.

Invariant: the choice is made once a process and device, whatever name asks for it and from
whichever thread, so that reruns within it agree bit for bit.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

from sr3 import convolutions, graphs
from sr3.config import ModelConfig, UNetConfig
from sr3.denoiser import Denoiser
from sr3.errors import ConfigError
from sr3.schedule import everywhere
from sr3.unet import UNet

SMALL = UNetConfig(high_res=16, channels=8, multipliers=(1, 2), blocks=1, norm_groups=4, patch=2)
GAIN = 1.3  # bfloat16 must be this much faster on a CPU to be worth its rounding


@dataclass(frozen=True)
class Device:
    """A device, the precision that it is fast in, and one sentence that says why."""

    device: torch.device
    precision: torch.dtype
    reason: str
    # torch's own; with weights laid out once; and Winograd's where they pay (`sr3.convolutions`)
    convolutions: Literal["plain", "packed", "tiles"] = "plain"
    graphs: bool = False  # forwards are replayed as CUDA graphs (`sr3.graphs`)

    @property
    def title(self) -> str:
        """What it is, without how networks are asked on it, such as "CPU"."""
        return self.reason.split(",")[0]


_choosing = threading.Lock()  # two threads that measured at once would disturb each other


def pick_device(name: str = "auto") -> Device:
    """`auto` (CUDA, then MPS, then CPU) or a torch device name.

    Raises ConfigError where the device is not there.
    """
    with _choosing:
        if name != "auto":
            return _chosen(name)
        best, note = _best()
        found = _chosen(best)
        return replace(found, reason=found.reason + note) if note else found


@lru_cache(maxsize=8)
def _chosen(name: str) -> Device:
    """How a device is best used. Under the lock, since a cache alone lets two threads measure."""
    if problem := _problem(name):
        raise ConfigError(
            f"The device {name!r} cannot be used here ({problem}); use auto, cpu, cuda or mps."
        )
    device = torch.device(name)
    if device.type == "cuda":
        return _on_cuda(device)
    if device.type != "cpu":
        return Device(device, torch.float32, f"{device.type}, float32")
    return _on_cpu(device)


@lru_cache(maxsize=1)  # a GPU that fills up later does not change what was chosen
def _best() -> tuple[str, str]:
    """The first of CUDA, MPS and CPU that works, and a note of why another one does not."""
    usable, note = _has_cuda()
    for name, there in (("cuda", usable), ("mps", _has_mps())):
        if there and not (problem := _problem(name)):
            return name, ""
        if there:
            note = f"; the GPU is not used: {problem}"
    return "cpu", note


def _problem(name: str) -> str:
    """Why a device cannot compute here; "" where it does. A GPU may be full, or newer or older
    than what torch was built for, or lack a kernel or a dtype: only a network that runs tells."""
    try:
        device = torch.device(name)
    except RuntimeError:  # which names all that torch was ever built for
        return "torch knows no such device"
    try:
        _ask(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        text = (str(error).splitlines() or [""])[0].split(". ")[0].strip().rstrip(".")
        return text or type(error).__name__
    return ""


@torch.no_grad()
def _ask(device: torch.device) -> None:
    """Ask a small network once, as sampling does; what its weights hold does not matter."""
    image = torch.ones(1, 3, SMALL.high_res, SMALL.high_res, device=device)
    with torch.device("meta"):  # where initial weights draw nothing from the process's generator
        network = UNet(SMALL).eval()
    denoiser = Denoiser(network.to_empty(device=device), ModelConfig(network=SMALL))
    denoiser(image, image, everywhere(0.5, image)).sum().item()


def _on_cpu(device: torch.device) -> Device:
    """In bfloat16 where that beats float32 in its fastest way."""
    ratio = convolutions.gain_of_bfloat16()
    if ratio >= GAIN:
        why = f"CPU, bfloat16 ({ratio:.2g}x float32's speed)"
        if not convolutions.supported(torch.bfloat16):
            return Device(device, torch.bfloat16, why)
        return Device(device, torch.bfloat16, f"{why}, weights laid out once", "packed")
    return _in_float32(device, f"CPU, float32 (bfloat16 has {ratio:.2g}x its speed)")


def _in_float32(device: torch.device, why: str) -> Device:
    """A CPU in the fastest way that float32 has there."""
    if not convolutions.supported():
        return Device(device, torch.float32, why)
    gain = convolutions.gain_of_tiles()
    if gain < convolutions.GAIN:
        return Device(device, torch.float32, f"{why}, weights laid out once", "packed")
    return Device(device, torch.float32, f"{why}, convolutions in tiles ({gain:.2g}x)", "tiles")


def _on_cuda(device: torch.device) -> Device:
    """In the 16 bits that the GPU computes in itself; emulated ones are slower than float32."""
    precision, title = torch.float32, torch.cuda.get_device_name(device)
    why = "float32 (16 bits are not faster on it)"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        precision, why = torch.bfloat16, "bfloat16"
    elif torch.cuda.get_device_capability(device) >= (7, 0):  # tensor cores for float16 alone
        precision, why = torch.float16, "float16 (it has no bfloat16)"
    gain = graphs.gain(device, precision)
    if gain < graphs.GAIN:
        return Device(device, precision, f"{title}, {why}")
    return Device(device, precision, f"{title}, {why}, CUDA graphs ({gain:.2g}x)", graphs=True)


def for_tables(device: Device) -> Device:
    """The same device for rows that stand beside those of other machines: a CPU's bfloat16 moves a
    score by up to a thousandth, so there it is float32."""
    if device.device.type != "cpu" or device.precision == torch.float32:
        return device
    with _choosing:
        return _in_float32(device.device, "CPU, float32, as what is measured is")


def exact(device: Device) -> Device:
    """The same device without what a timing chose, so that each process gives the same bits: no
    graphs on a GPU; on a CPU float32 and torch's own convolutions."""
    if device.device.type != "cpu":
        return replace(device, graphs=False)
    return replace(device, precision=torch.float32, convolutions="plain")


def without_gpu(error: Exception) -> Device:
    """The CPU, for a GPU that ran out of memory; the reason says so."""
    cpu = pick_device("cpu")
    reason = f"{cpu.reason}; the GPU is out of memory: close what else uses it to run there"
    return Device(cpu.device, cpu.precision, reason, cpu.convolutions)


def _has_cuda() -> tuple[bool, str]:
    """Whether CUDA can be used, and where a GPU is there but cannot, a note of why.

    torch only warns of a driver that is too old for it, and says that there is no GPU.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    told = [str(warning.message) for warning in caught if "driver" in str(warning.message)]
    if usable or not told:
        return usable, ""
    return False, f"; the GPU is not used: {told[0].split('.')[0].strip()}, update its driver"


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())
