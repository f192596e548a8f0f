"""Ways to run a step on a CPU: times in turn in one process, and how far the picture is off.

    python -m benchmarks.fast --checkpoint lite --batch 8
    python -m benchmarks.fast --checkpoint sr3-16-128        # a preset: random weights
    python -m benchmarks.fast --checkpoint lite --also bfloat16,bfloat16-laid-out
    python -m benchmarks.fast --checkpoint lite --also compile,onnxruntime,openvino

The ways take turns, so that other work on the machine falls on each alike, and the processor's time
stands beside the clock's. `first` is what the first step takes: layouts, compilers. PSNR is of the
picture after the recommended steps, against float32 in the usual memory format. What `--also` names
needs installing (openvino; onnx, onnxscript, onnxruntime) or a compiler, and is no part of SR3 Lab.

Tried on a CPU with AMX, two threads, other work stopped; the clock against the plain way:

| way | lite, 1 | lite, 8 | sr3-16-128, 1 |
|---|---|---|---|
| channels_last, fused attention | 1.20 | 1.12 | 1.17 |
| weights laid out once | 1.21 | 1.12 | 1.30 |
| and tiles | 1.31 | 1.47 | 1.65 |
| bfloat16 | 1.42 | 2.53 | 2.22 |
| bfloat16-laid-out | 1.88 | 2.99 | 3.09 |
| compile (a minute of compiling) | 1.44 | not measured | 1.27 |
| onnxruntime | 1.37 | not measured | 1.33 |
| openvino | 0.88 | not measured | 1.13 |
| openvino-bfloat16 | 2.40 | 2.44 | 3.23 |

Tried on a CPU with AVX512-BF16 but no AMX, that other work kept busy; one thread
(OMP_NUM_THREADS=1), processor time against the plain way:

| way | lite, 1 | lite, 8 | sr3-16-128, 1 |
|---|---|---|---|
| channels_last, fused attention | 1.08 | 1.09 | 1.09 |
| weights laid out once | 1.17 | 1.12 | 1.18 |
| and tiles | 1.15 | 1.21 | 1.42 |
| openvino | 1.35 | not measured | not measured |

There oneDNN runs bfloat16 convolutions by its own AVX512-BF16 kernel (`brg_conv_fwd`, not the
reference one), whose dot products are half as fast as float32's; float16 is the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sr3
from sr3.config import ModelConfig
from sr3.devices import Device
from sr3.floor import work_of
from sr3.metrics import psnr
from sr3.pipeline import SuperResolver
from sr3.plain import plain_forward
from sr3.presets import MODELS
from sr3.quick import quicken
from sr3.timing import CPU, in_turn
from sr3.unet import UNet

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


class Network(nn.Module):
    """A step as a network, for `SuperResolver` to draw with."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, condition: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        return self.step(condition, noisy, level.float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, help="of the picture, where not the recommended ones")
    parser.add_argument("--also", default="", help="names of ways, with commas")
    arguments = parser.parse_args()
    config, usual, network = networks(arguments.checkpoint)
    size = config.network.high_res
    inputs = (
        torch.rand(arguments.batch, 3, size, size) * 2 - 1,
        torch.randn(arguments.batch, 3, size, size),
        torch.full((arguments.batch,), 0.5),
    )
    ways: dict[str, Callable[[], Step]] = {
        "plain": lambda: usual if config.network.patch > 1 else _plain(usual),
        "channels_last, fused attention": lambda: network,
        "weights laid out once": lambda: quicken(network, tiles=False),
        "and tiles": lambda: quicken(network),
    }
    extra = {"compile": _compiled, "openvino": _openvino, "onnxruntime": _onnxruntime,
             "bfloat16": _bfloat16, "bfloat16-laid-out": _laid_out,
             "openvino-bfloat16": partial(_openvino, precision="bf16")}  # fmt: skip
    for name in filter(None, arguments.also.split(",")):
        ways[name] = lambda name=name: extra[name](usual, network, inputs)  # type: ignore[misc]
    print(
        f"{arguments.checkpoint}, batch {arguments.batch}, {torch.get_num_threads()} threads; "
        f"the condition's part of the stem: {stem_share(network):.2%} of the operations"
    )
    print(
        "| way | ms | plain / it | processor ms | first, s | PSNR dB |\n|---|---|---|---|---|---|"
    )
    steps, firsts = {}, {}
    with torch.no_grad():
        for name, make in ways.items():
            began = time.perf_counter()
            steps[name] = make()
            steps[name](*inputs)
            firsts[name] = time.perf_counter() - began
        times = in_turn({k: partial(v, *inputs) for k, v in steps.items()}, arguments.repeats)
        pictures = {name: picture(config, step, arguments.steps) for name, step in steps.items()}
    for name, taken in times.items():
        ratio, least = (
            statistics.median(
                usual[k] / mine[k] for usual, mine in zip(times["plain"], taken, strict=True)
            )
            for k in (0, 1)
        )
        wall, processor = (statistics.median(1e3 * each[k] for each in taken) for k in (0, 1))
        off = float(psnr(pictures[name], pictures["plain"]).min())
        print(f"| {name} | {wall:.0f} | {ratio:.2f} | {processor:.0f} | {least:.2f} "
              f"| {firsts[name]:.1f} | {off:.0f} |")  # fmt: skip


def networks(name: str) -> tuple[ModelConfig, UNet, UNet]:
    """A preset's network with random weights, or a checkpoint's; again in channels_last."""
    if name in MODELS:
        torch.manual_seed(0)
        config, usual = MODELS[name], UNet(MODELS[name].network).eval().requires_grad_(False)
    else:
        model = sr3.load(name, "cpu")
        config, usual = model.config, UNet(model.config.network).eval().requires_grad_(False)
        usual.load_state_dict(model.network.state_dict())
    network = UNet(config.network).eval().requires_grad_(False)
    network.load_state_dict(usual.state_dict())
    return config, usual, network.to(memory_format=torch.channels_last)


def stem_share(network: UNet) -> float:
    """The share of a forward's operations that do the same at every step of a chain: the half of
    the first convolution that sees the condition."""
    config, stem = network.config, network.down[0]
    assert isinstance(stem, nn.Conv2d)
    pixels = (config.high_res // config.patch) ** 2
    alike = 2 * stem.weight.numel() / 2 * pixels  # a multiply-add counts as two
    return alike / work_of(network, config, torch.float32).operations


def picture(config: ModelConfig, step: Step, steps: int | None) -> np.ndarray:
    """The picture that a chain makes of a low-resolution image of noise."""
    low = np.random.default_rng(0).integers(0, 256, (config.network.low_res,) * 2 + (3,), np.uint8)
    device = Device(CPU, torch.float32, "a benchmark")
    return SuperResolver(Network(step), config, device).upscale([low], steps=steps).images[:, 0]


def _plain(network: UNet) -> Step:
    return lambda *inputs: plain_forward(network, *inputs)


def _bfloat16(usual: UNet, network: nn.Module, inputs: tuple[Tensor, ...]) -> Step:
    def step(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(*inputs).float()

    return step


def _laid_out(usual: UNet, network: UNet, inputs: tuple[Tensor, ...]) -> Step:
    return _bfloat16(usual, quicken(network, False, torch.bfloat16), inputs)


def _compiled(usual: UNet, network: UNet, inputs: tuple[Tensor, ...]) -> Step:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(network)


def _openvino(
    usual: UNet, network: UNet, inputs: tuple[Tensor, ...], precision: str = "f32"
) -> Step:
    import openvino

    # PERFORMANCE_HINT would choose threads anew; the precision, since a CPU's own would be taken.
    options = {"INFERENCE_PRECISION_HINT": precision,
               "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip
    traced = openvino.convert_model(usual, example_input=inputs)
    compiled = openvino.compile_model(traced, "CPU", options)
    return lambda *inputs: torch.from_numpy(compiled([each.numpy() for each in inputs])[0].copy())


def _onnxruntime(usual: UNet, network: UNet, inputs: tuple[Tensor, ...]) -> Step:
    import tempfile

    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        names = ["condition", "noisy", "noise_level"]
        torch.onnx.export(usual, inputs, file, input_names=names, dynamo=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options)
    return lambda *inputs: torch.from_numpy(
        session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0]
    )


if __name__ == "__main__":
    main()
