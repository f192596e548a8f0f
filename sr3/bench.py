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
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from sr3.crowd import ALONE, crowd
from sr3.devices import Device, pick_device
from sr3.engine import Engine
from sr3.floor import Rates, Work, measure_rates, work_of
from sr3.images import Pixels, to_uint8
from sr3.metrics import METRICS, Scorer, psnr
from sr3.pipeline import SuperResolver, load
from sr3.plain import plain_chain
from sr3.presets import MODELS
from sr3.schedule import NoiseSchedule, everywhere
from sr3.timing import in_turn, took
from sr3.unet import UNet

PUBLIC = "sr3-16-128"  # the public architecture
AGREES = 45.0  # PSNR dB, at least, between a fast forward's picture and the float32 one's
SCORES_AGREE = {"psnr": 0.05, "ssim": 0.001, "lpips": 0.001}  # the most that a score may change
NO_LPIPS = "not measured: LPIPS is not available here"


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how often."""

    checkpoint: str = "lite"
    device: str = "auto"
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    visitors: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    repeats: int = 5
    rounds: int = 3  # of visitors
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
    first = [took(lambda: next(iter(model.stream(face))), model.device.device).seconds
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
    """The fast forward against float32 in the usual memory format: PSNR of the final picture, and
    what it changes in the scores of photographs."""
    photographs = _photographs(model.high_size)
    faces = [*photographs, *_faces(4, model.low_size)]
    exact = SuperResolver(
        model.network, model.config, Device(model.device.device, torch.float32, "reference")
    )
    fast, slow = (each.upscale(faces).images[:, 0] for each in (model, exact))
    worst = float(psnr(fast, slow).min())
    note = "the same bits" if worst == float("inf") else f"at least {AGREES:.0f} dB is wanted"
    value = None if worst == float("inf") else worst
    yield Row("agreement", f"fast against float32, worst of {len(faces)}", value, "dB", note=note)
    scorer, many = Scorer.load(), len(photographs)
    ours, theirs = (scorer(each[:many], photographs, None) for each in (fast, slow))
    for metric, most in SCORES_AGREE.items():
        pairs = [
            (getattr(a, metric), getattr(b, metric)) for a, b in zip(ours, theirs, strict=True)
        ]
        known = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        yield Row(
            "agreement", f"{METRICS[metric].title} of {many} photographs", max(known, default=None),
            METRICS[metric].unit, note=f"at most {most:g} is wanted" if known else NO_LPIPS,
        )  # fmt: skip


def _photographs(size: int) -> Pixels:
    """(n, size, size, 3) uint8 squares of scikit-image's astronaut, the first one of her face."""
    whole = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    squares = ((156, 12, 284, 140), (120, 0, 376, 256), (0, 0, 512, 512))
    return np.stack([np.asarray(whole.resize((size, size), box=square)) for square in squares])


def _visitors(
    model: SuperResolver, settings: BenchSettings, work: Work, rates: Rates
) -> Iterator[Row]:
    """Visitors who press at once, and the same ones one after another, in turn."""
    steps = model.settings().steps
    faces = _faces(max(settings.visitors, default=1), model.low_size)
    alone = model.upscale(list(faces), batch=1).images[:, 0]
    for count in settings.visitors:
        rounds = [crowd(model, faces[:count]) for _ in range(max(settings.rounds, 1))]
        best = steps * _least_for(count, work, rates)
        who = f"{count} visitor{'s' * (count != 1)}"
        gain = statistics.median(each.gain for each in rounds)
        yield _times(
            "all served", who, [each.together for each in rounds], best,
            f"{gain:.2f} times as fast as one after another" if count > 1 else "",
        )  # fmt: skip
        yield _times(
            "one after another", who, [each.one_by_one for each in rounds],
            count * steps * work.floor(rates),
            f"{ALONE} of them, scaled" if count > ALONE else "",
        )  # fmt: skip
        for share in (50, 95):
            found = [float(np.percentile(each.latencies, share)) for each in rounds]
            yield _times(f"latency p{share}", who, found, steps * work.floor(rates))
        speeds = [count / each.together for each in rounds]
        yield _spread("throughput", who, speeds, "images/s", count / best)
        waits = [max(each.first_frames) for each in rounds]
        ticks = max(each.ticks for each in rounds)
        yield _times("first frame", f"{who}, last one's", waits, work.floor(rates),
                     f"in tick {ticks} of its turn")  # fmt: skip
        off = max(each.difference(alone[:count]) for each in rounds)
        yield Row("agreement", f"{who}, against each alone", off, "of 255 levels, the most")


def _least_for(count: int, work: Work, rates: Rates) -> float:
    """The floor of one evaluation for so many, in forwards of the engine's size."""
    whole, rest = divmod(count, Engine.MAX_BATCH)
    return whole * work.floor(rates, Engine.MAX_BATCH) + (work.floor(rates, rest) if rest else 0)


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
    chain = plain_chain(deepcopy(network), NoiseSchedule(config.schedule), condition, generator)
    exact = measure_rates(device.device, torch.float32, settings.rate_seconds)
    ours = SuperResolver(network, config, device, PUBLIC)  # changes its memory format
    rates = measure_rates(device.device, device.precision, settings.rate_seconds)
    ours_work = work_of(network, config.network, device.precision)
    plain: list[float] = []
    for batch in (1, *([8, 32, 64] if device.device.type == "cuda" else [])):
        few = condition.expand(batch, -1, -1, -1).contiguous()
        level = everywhere(0.5, few)
        ways: dict[str, Callable[[], object]] = {
            "plain": chain.__next__, "ours": partial(ours.estimate, few, few, level),
        }  # fmt: skip
        in_turn(ways, 1, device.device)  # what is made once
        times = in_turn(ways, max(settings.repeats, 1), device.device)
        usual, quick = ([each.seconds for each in column] for column in times.values())
        if not plain:
            plain = usual
            yield _times("step, plain float32", "97.8M, batch 1", plain, work.floor(exact))
        speedup = statistics.median(
            batch * before / after for before, after in zip(usual, quick, strict=True)
        )
        yield _times("step, ours", f"97.8M, batch {batch}", quick, ours_work.floor(rates, batch),
                     note=f"{speedup:.2f} times the plain loop's throughput")  # fmt: skip
    middle = statistics.median(plain)
    face = _faces(1, model.low_size)[0]
    whole = statistics.median(model.upscale([face]).seconds for _ in range(settings.repeats))
    steps = config.schedule.steps
    yield Row(
        "whole image, plain float32", f"{steps} steps, from the median step", middle * steps, "s",
        note=f"{model.name} is {middle * steps / whole:,.0f} times as fast",
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
