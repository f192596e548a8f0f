"""How fast it is, with the floor beside each figure: `python -m sr3 bench`.

Every row says what was measured, under which circumstances, and what the device could do at best
(`sr3.floor`); `reached` is the share of that, 1 being perfect. Times are medians, and the spread
stands beside them: on a machine with other work they are that machine's, not the program's.
Figures are printed by one command and never typed.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr3.devices import Device, pick_device
from sr3.engine import Engine, Job
from sr3.floor import Rates, Work, measure_rates, settle, timed, work_of
from sr3.images import Pixels, to_uint8
from sr3.metrics import psnr
from sr3.pipeline import SuperResolver, load
from sr3.plain import plain_chain
from sr3.presets import MODELS
from sr3.schedule import NoiseSchedule
from sr3.unet import UNet

PUBLIC = "sr3-16-128"  # the public architecture
AGREES = 45.0  # PSNR dB, at least, between a fast forward's picture and the float32 one's


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how often."""

    checkpoint: str = "lite"
    device: str = "auto"
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    visitors: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    repeats: int = 5
    reference: bool = True  # the public architecture too
    rate_seconds: float = 1.0  # for each measured rate


@dataclass(frozen=True)
class Row:
    """One figure. `value` and `floor` in `unit`; `low` and `high` the least and most seen."""

    figure: str
    setting: str
    value: float | None  # None: not measured
    unit: str
    floor: float | None = None  # the best that the device could do
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def reached(self) -> float | None:
        """The share of the best: floor over value for times, value over floor for rates."""
        if not self.value or not self.floor:
            return None
        return self.floor / self.value if self.unit == "s" else self.value / self.floor

    def to_json(self) -> dict[str, Any]:
        """With `reached`."""
        return asdict(self) | {"reached": self.reached}


def bench(settings: BenchSettings) -> Iterator[Row]:
    """Measure, a row at a time. Raises CheckpointError and ConfigError before the first."""
    model = load(settings.checkpoint, settings.device)
    device = model.device
    rates = measure_rates(device.device, device.precision, settings.rate_seconds)
    work = work_of(model.network, model.config.network, device.precision)
    yield Row("matrix rate", rates.precision, rates.operations / 1e9, "GFLOP/s")
    yield Row("copy rate", "read + write", rates.bytes / 1e9, "GB/s")
    yield Row("operations", f"a forward of {model.name}", work.operations / 1e9, "GFLOP")
    yield from _images(model, settings, work, rates)
    yield from _agreement(model)
    yield from _visitors(model, settings, work, rates)
    if settings.reference:
        yield from _public(model, settings)
    yield from _memory(device)


def circumstances(settings: BenchSettings) -> dict[str, Any]:
    """What the figures depend on, for the JSON beside the rows."""
    device = pick_device(settings.device)
    return {
        "device": str(device.device), "choice": device.reason, "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__,
        "python": platform.python_version(), "settings": asdict(settings),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def _images(
    model: SuperResolver, settings: BenchSettings, work: Work, rates: Rates
) -> Iterator[Row]:
    """One image alone, its first frame, and images a second against the batch size."""
    steps = model.settings().steps
    face = _faces(1, model.low_size)[0]
    model.upscale([face], steps=2)  # warm-up
    first = [timed(lambda: next(iter(model.stream(face))), model.device.device)
             for _ in range(settings.repeats)]  # fmt: skip
    yield _times("first frame", "1 image", first, work.floor(rates))
    for batch in settings.batches:
        faces = list(_faces(batch, model.low_size))
        model.upscale(faces, batch=batch, steps=2)
        times = [
            model.upscale(faces, batch=batch, seed=seed).seconds for seed in range(settings.repeats)
        ]
        if batch == 1:
            yield _times("image", f"{steps} steps", times, steps * work.floor(rates))
        best = batch / (steps * work.floor(rates, batch))
        speeds = [batch / seconds for seconds in times]
        yield _spread("throughput", f"batch {batch}, {steps} steps", speeds, "images/s", best)


def _agreement(model: SuperResolver) -> Iterator[Row]:
    """The fast forward against float32 in the usual memory format: PSNR of the final picture."""
    faces = list(_faces(4, model.low_size))
    exact = SuperResolver(
        model.network, model.config, Device(model.device.device, torch.float32, "reference")
    )
    fast, slow = (each.upscale(faces).images[:, 0] for each in (model, exact))
    worst = float(psnr(fast, slow).min())
    note = "the same bits" if worst == float("inf") else f"at least {AGREES:.0f} dB is wanted"
    value = None if worst == float("inf") else worst
    yield Row("agreement", "fast against float32, worst of 4", value, "dB", note=note)


def _visitors(
    model: SuperResolver, settings: BenchSettings, work: Work, rates: Rates
) -> Iterator[Row]:
    """Visitors who press at once: when the last one has the picture, against one by one."""
    steps = model.settings().steps
    faces = _faces(max(settings.visitors, default=1), model.low_size)
    for count in settings.visitors:
        together, jobs, ticks = _crowd(model, faces[:count])
        began = time.perf_counter()
        for face in faces[: min(count, 8)]:
            model.upscale([face])
        one_by_one = (time.perf_counter() - began) * count / min(count, 8)
        best = steps * _least_for(count, work, rates)
        who = f"{count} visitors"
        latencies = [job.seconds for job in jobs]
        yield Row("all served", who, together, "s", best,
                  note=f"{one_by_one / together:.2f} times sooner than one by one")  # fmt: skip
        for share in (50, 95):
            value = float(np.percentile(latencies, share))
            yield Row(f"latency p{share}", who, value, "s", steps * work.floor(rates))
        yield Row("throughput", who, count / together, "images/s", count / best)
        yield Row("first frame", f"{who}, last one's", max(ticks), "s", work.floor(rates))


def _least_for(count: int, work: Work, rates: Rates) -> float:
    """The floor of one evaluation for so many, in forwards of the engine's size."""
    whole, rest = divmod(count, Engine.MAX_BATCH)
    return whole * work.floor(rates, Engine.MAX_BATCH) + (work.floor(rates, rest) if rest else 0)


def _crowd(model: SuperResolver, faces: Pixels) -> tuple[float, list[Job], list[float]]:
    """Seconds until all have their pictures, their jobs, and each one's wait for a frame."""
    engine = Engine(max_waiting=max(len(faces), 1))
    try:
        began = time.perf_counter()
        jobs = [
            engine.submit(model, face, model.settings(), seed=k, visitor=str(k))
            for k, face in enumerate(faces)
        ]
        for job in jobs:
            job.wait()
        together = time.perf_counter() - began
    finally:
        engine.close()
    return together, jobs, [job.first_frame_seconds or together for job in jobs]


def _public(model: SuperResolver, settings: BenchSettings) -> Iterator[Row]:
    """A step of the public architecture, random weights: the plain loop against ours."""
    config, device = MODELS[PUBLIC], model.device
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(config.network).eval().requires_grad_(False).to(device.device)
    work = work_of(network, config.network, torch.float32)
    size = config.network.high_res
    condition = torch.zeros(1, 3, size, size, device=device.device)
    generator = torch.Generator().manual_seed(0)
    chain = plain_chain(network, NoiseSchedule(config.schedule), condition, generator)
    exact = measure_rates(device.device, torch.float32, settings.rate_seconds)
    plain = _steps(lambda: next(chain), settings.repeats, device.device)
    yield _times("step, plain float32", "97.8M, batch 1", plain, work.floor(exact))
    ours = SuperResolver(network, config, device, PUBLIC)  # changes its memory format
    rates = measure_rates(device.device, device.precision, settings.rate_seconds)
    work = work_of(network, config.network, device.precision)
    middle = statistics.median(plain)
    for batch in (1, *([8, 32, 64] if device.device.type == "cuda" else [])):
        few = condition.expand(batch, -1, -1, -1).contiguous()
        level = torch.full((batch,), 0.5, dtype=torch.float64, device=device.device)
        quick = _steps(
            lambda few=few, level=level: ours.estimate(few, few, level),  # type: ignore[misc]
            settings.repeats, device.device,
        )  # fmt: skip
        speedup = middle * batch / statistics.median(quick)
        yield _times("step, ours", f"97.8M, batch {batch}", quick, work.floor(rates, batch),
                     note=f"{speedup:.2f} times the plain loop's images")  # fmt: skip
    face = _faces(1, model.low_size)[0]
    whole = statistics.median(model.upscale([face]).seconds for _ in range(settings.repeats))
    steps = config.schedule.steps
    yield Row(
        "whole image, plain float32", f"{steps} steps, from the median step", middle * steps, "s",
        note=f"{model.name} is {middle * steps / whole:.0f} times sooner",
    )  # fmt: skip


def _memory(device: Device) -> Iterator[Row]:
    gc.collect()
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    yield Row("memory", "this process, the most", peak / 1e6, "MB")
    yield Row("threads", "left over", float(_left_over()), "")
    if device.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device.device)
        yield Row("memory", "GPU, the most", used / 1e6, "MB")
    else:
        yield Row("all of it", "on a GPU", None, "", note="not measured: there is none here")


def _left_over() -> int:
    return sum(thread.name.startswith("sr3-") for thread in threading.enumerate())


def _steps(run: Callable[[], Tensor], repeats: int, device: torch.device) -> list[float]:
    """Seconds of single steps, the first one not counted."""
    run()
    settle(device)
    return [timed(run, device) for _ in range(max(repeats, 1))]


def _faces(count: int, size: int) -> Pixels:
    """Smooth pictures of nothing: the time does not depend on what they show."""
    noise = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")
    return to_uint8(large.clamp(-1, 1))


def _times(
    figure: str, setting: str, seconds: Sequence[float], floor: float, note: str = ""
) -> Row:
    return _spread(figure, setting, seconds, "s", floor, note)


def _spread(
    figure: str, setting: str, values: Sequence[float], unit: str, floor: float, note: str = ""
) -> Row:
    middle = statistics.median(values)
    return Row(figure, setting, middle, unit, floor, min(values), max(values), note)


def table(rows: Sequence[Row]) -> str:
    """The rows as one aligned table."""
    cells = [("figure", "", "value", "unit", "floor", "reached", "least .. most", "")]
    for row in rows:
        reached = "" if row.reached is None else f"{row.reached:.0%}"
        spread = "" if row.low is None else f"{_short(row.low)} .. {_short(row.high)}"
        value = row.note if row.value is None else _short(row.value)
        note = "" if row.value is None else row.note
        cells.append((row.figure, row.setting, value, row.unit if row.value is not None else "",
                      _short(row.floor), reached, spread, note))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
