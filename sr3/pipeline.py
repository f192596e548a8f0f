"""Image in, steps out: a loaded checkpoint that super-resolves, at once or as a stream.

Invariants: one-shot and streamed results are the same bits; the noise of an image depends on its
seed and sample number alone, never on the batch it is in; grad mode and the network are left as
they were found, also while a stream is paused or after it was abandoned.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import weakref
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sr3.checkpoints import find_checkpoint, load_checkpoint
from sr3.combine import Spliced
from sr3.config import ModelConfig, SamplerConfig
from sr3.denoiser import Denoiser
from sr3.devices import Device, pick_device, without_gpu
from sr3.errors import ConfigError, ImageError
from sr3.graphs import replayed
from sr3.images import Pixels, degrade, enlarge, to_tensor, to_uint8
from sr3.pretrained import Pretrained
from sr3.quick import quicken
from sr3.samplers import Refine, Sampler, SeededNoise, make_sampler
from sr3.schedule import NoiseSchedule, level_device

# A number for each network that lives: an id would be given again once its network is gone.
_numbers: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_next_number = itertools.count()


@dataclass(frozen=True)
class Step:
    """One moment of a chain: the noisy image and the clean estimate made from it.

    Steps 0..total-1 hold what the network was asked and answered; step `total` holds the result
    in both tensors, at noise level 1 (clean).
    """

    index: int
    total: int
    noise_level: float  # sqrt(alpha_bar) of x_t
    x_t: Tensor  # (batch, 3, h, w) float32, about [-1, 1] plus noise
    x0: Tensor  # (batch, 3, h, w) float32, refined as the sampler used it
    evaluations: int  # network evaluations so far

    @property
    def final(self) -> bool:
        """Whether this is the result."""
        return self.index == self.total


@dataclass(frozen=True)
class Result:
    """Super-resolved images with all that is needed to make them again."""

    images: Pixels  # (n, samples, high, high, 3) uint8
    low_res: Pixels  # (n, low, low, 3) uint8, what the network was given
    condition: Pixels  # (n, high, high, 3) uint8, its bicubic enlargement
    settings: SamplerConfig
    checkpoint: str
    seed: int
    seconds: float


class SuperResolver(Pretrained):
    """A checkpoint on a device. Use `sr3.load`; safe to share between threads."""

    def __init__(
        self,
        network: nn.Module | Callable[[], nn.Module],
        config: ModelConfig,
        device: Device,
        name: str = "unnamed",
    ) -> None:
        """`network`, or what gives it, ready on the device, whenever it is needed."""
        self.name, self.config, self.device = name, config, device
        self.schedule = NoiseSchedule(config.schedule)
        if isinstance(network, nn.Module):
            placed: nn.Module = network.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._provide: Callable[[], nn.Module] = lambda: placed
        else:
            self._provide = network

    @property
    def network(self) -> nn.Module:
        """The network, on the device."""
        return self._provide()

    @property
    def low_size(self) -> int:
        """Side of the low-resolution input, pixels."""
        return self.config.network.low_res

    @property
    def high_size(self) -> int:
        """Side of the result, pixels."""
        return self.config.network.high_res

    @torch.no_grad()
    def denoise(self, x_t: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        """The denoiser contract in float32: the unclamped clean estimate x0.

        `x_t` and `condition` (batch, 3, h, w) in [-1, 1] units, `noise_level` (batch,) =
        sqrt(alpha_bar) in (0, 1] -> (batch, 3, h, w) float32 on the network's device. Raises
        ConfigError for other levels or shapes.
        """
        _check_question(x_t, condition, noise_level)
        device = self.device.device
        exact = Denoiser(self.network, self.config)
        level = noise_level.to(level_device(device))
        return exact(x_t.to(device), condition.to(device), level)

    @torch.no_grad()
    def estimate(
        self,
        x_t: Tensor,
        condition: Tensor,
        noise_level: Tensor,
        network: nn.Module | None = None,
    ) -> Tensor:
        """`denoise` in the device's fast precision, for tensors as samplers yield them: on it,
        the levels on its `level_device`. What chains use.

        `network` is `network_at` all these levels, where that is known: a splice then need not
        look where each belongs.
        """
        network, kind = self.network if network is None else network, self.device.convolutions
        if kind != "plain":
            network = quicken(network, kind == "tiles", self.device.precision)
        denoiser = Denoiser(network, self.config, self.device.precision)
        if self.device.graphs and not isinstance(network, Spliced):  # which looks at its levels
            return replayed(network, denoiser, x_t, condition, noise_level)
        return denoiser(x_t, condition, noise_level)

    def network_at(self, noise_level: float) -> nn.Module:
        """What answers at a level (sqrt(alpha_bar)): of a splice, the one of its networks."""
        network = self.network
        return network.at(noise_level) if isinstance(network, Spliced) else network

    def serving(self, noise_level: float) -> Hashable:
        """What stands for `network_at` a level: where it is equal, chains of two resolvers can
        share a forward of that network, such as a splice's and those of its parent."""
        number = _numbers.setdefault(self.network_at(noise_level), next(_next_number))
        config = self.config
        return number, self.device.precision, config.prediction, config.residual_scale

    def first_level(self, settings: SamplerConfig) -> float:
        """The noise level (sqrt(alpha_bar)) at which a chain begins."""
        levels = self.schedule.levels(
            settings.steps, settings.spacing, settings.start, settings.end
        )
        return float(levels[0])

    def settings(self, **changes: Any) -> SamplerConfig:
        """This checkpoint's recommended sampling with some settings changed (None: not changed).

        Raises ConfigError for an unknown setting, a value outside its range, or one that the
        sampler has no use for.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        unknown = set(given) - {f.name for f in dataclasses.fields(SamplerConfig)}
        if unknown:
            raise ConfigError(f"There is no sampling setting {', '.join(sorted(unknown))}.")
        settings = dataclasses.replace(self.config.sampling, **given)
        if given.get("eta") and settings.sampler != "ddim":
            raise ConfigError(f"eta is of ddim alone; the sampler is {settings.sampler}.")
        if settings.start > self.schedule.steps:
            raise ConfigError(
                f"start must be within 1..{self.schedule.steps}; got {settings.start}."
            )
        return settings

    def low_res_of(self, image: Pixels | Image.Image) -> Pixels:
        """The (low, low, 3) uint8 input of an image: itself at that size, else degraded.

        Raises ImageError for an image that is not RGB and square, or is smaller.
        """
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ImageError(
                f"An image must be 8-bit RGB of shape (h, w, 3); got {array.dtype} {array.shape}."
            )
        if array.shape[0] != array.shape[1] or array.shape[0] < self.low_size:
            raise ImageError(
                f"An image must be square and at least {self.low_size} pixels a side; got "
                f"{array.shape[1]}x{array.shape[0]}: crop it first."
            )
        return array if array.shape[0] == self.low_size else degrade(array, self.low_size)

    def upscale(
        self,
        images: Sequence[Pixels | Image.Image],
        *,
        seed: int = 0,
        samples: int = 1,
        batch: int = 8,
        **changes: Any,
    ) -> Result:
        """Super-resolve square RGB images; larger ones are first degraded to the input size.

        `samples` draws of each image, `batch` images a forward pass, `changes` to the recommended
        `SamplerConfig` (sampler, steps, start, ...). The k-th sample of an image uses the noise of
        (seed, k), whatever batch it is in. Raises ImageError and ConfigError.
        """
        if samples < 1 or batch < 1:
            raise ConfigError(f"samples and batch must be at least 1; got {samples} and {batch}.")
        if not len(images):
            raise ImageError("There are no images to super-resolve: give at least one.")
        settings = self.settings(**changes)
        low = np.stack([self.low_res_of(image) for image in images])
        began = time.perf_counter()
        jobs = [(i, k) for i in range(len(low)) for k in range(samples)]
        done = [
            self.draw(low[[i for i, _ in part]], [(seed, k) for _, k in part], settings)
            for part in (jobs[j : j + batch] for j in range(0, len(jobs), batch))
        ]
        out = np.concatenate(done)
        return Result(
            images=out.reshape(len(low), samples, *out.shape[1:]),
            low_res=low,
            condition=enlarge(low, self.high_size),
            settings=settings,
            checkpoint=self.name,
            seed=seed,
            seconds=time.perf_counter() - began,
        )

    def stream(
        self,
        image: Pixels | Image.Image,
        *,
        seed: int = 0,
        samples: int = 1,
        **changes: Any,
    ) -> Iterator[Step]:
        """The chain of one image, step by step; the last `Step` is the result.

        Tensors are (samples, 3, h, w) on the network's device. Settings are checked at once, not
        at the first step. Abandoning the iterator frees everything it held.
        """
        if samples < 1:
            raise ConfigError(f"samples must be at least 1; got {samples}.")
        settings = self.settings(**changes)
        low = np.repeat(self.low_res_of(image)[None], samples, axis=0)
        return self.stream_batch(low, [(seed, k) for k in range(samples)], settings)

    def stream_batch(
        self, low_res: Pixels, seeds: Sequence[tuple[int, int]], settings: SamplerConfig
    ) -> Iterator[Step]:
        """The chain of a batch: `low_res` (batch, low, low, 3) uint8, a (seed, index) an image."""
        sampler, condition, refine = self.prepare(low_res, seeds, settings)
        return self._drive(sampler, condition, refine, settings.steps)

    def prepare(
        self, low_res: Pixels, seeds: Sequence[tuple[int, int]], settings: SamplerConfig
    ) -> tuple[Sampler, Tensor, Refine]:
        """The coroutine, condition and refinement of a batch, for any driver."""
        device = self.device.device
        condition = to_tensor(enlarge(low_res, self.high_size)).to(device)
        noise = SeededNoise(seeds, (3, self.high_size, self.high_size), device)
        sampler = make_sampler(settings, self.schedule, condition, noise)
        refine = Refine(
            to_tensor(low_res).to(device),
            self.high_size,
            clamp=settings.clamp,
            consistency=settings.consistency,
        )
        return sampler, condition, refine

    @torch.no_grad()  # the decorator restores grad mode at every yield, a with-block would not
    def _drive(
        self, sampler: Sampler, condition: Tensor, refine: Refine, total: int
    ) -> Generator[Step, None, None]:
        x_t, level = next(sampler)
        for index in range(total):
            x0 = refine(self.estimate(x_t, condition, level))
            yield Step(index, total, float(level[0]), x_t, x0, index + 1)
            try:
                x_t, level = sampler.send(x0)
            except StopIteration as stop:
                yield Step(total, total, 1.0, stop.value, stop.value, total)

    def draw(
        self, low_res: Pixels, seeds: Sequence[tuple[int, int]], settings: SamplerConfig
    ) -> Pixels:
        """The results of a batch, (batch, high, high, 3) uint8: `stream_batch` to its end, in
        halves where the GPU's memory does not suffice, which changes no image.

        Raises ConfigError where it does not suffice for one.
        """
        try:
            return to_uint8(self._run(low_res, seeds, settings))
        except torch.OutOfMemoryError as error:
            if len(seeds) == 1:
                raise ConfigError(
                    f"{self.device.device} has too little free memory for one image: close what "
                    "else uses it, or give --device cpu."
                ) from error
        half = len(seeds) // 2
        parts = (slice(None, half), slice(half, None))
        return np.concatenate([self.draw(low_res[k], seeds[k], settings) for k in parts])

    def _run(
        self, low_res: Pixels, seeds: Sequence[tuple[int, int]], settings: SamplerConfig
    ) -> Tensor:
        *_, last = self.stream_batch(low_res, seeds, settings)
        return last.x0


def _check_question(x_t: Tensor, condition: Tensor, noise_level: Tensor) -> None:
    """Raise ConfigError unless a denoiser can answer: see `SuperResolver.denoise`."""
    if x_t.ndim != 4 or x_t.shape[1] != 3 or condition.shape != x_t.shape:
        raise ConfigError(
            "x_t and condition must have one shape (batch, 3, h, w); got "
            f"{tuple(x_t.shape)} and {tuple(condition.shape)}."
        )
    if noise_level.shape != x_t.shape[:1]:
        raise ConfigError(
            f"noise_level must hold one level an image, ({len(x_t)},); got shape "
            f"{tuple(noise_level.shape)}."
        )
    if not bool(((noise_level > 0) & (noise_level <= 1)).all()):
        raise ConfigError(
            "noise_level is sqrt(alpha_bar), above 0 (noise alone) and at most 1 (clean); got "
            f"{', '.join(f'{level:g}' for level in noise_level.tolist()[:8])}."
        )


def load(name: str | Path, device: str = "auto") -> SuperResolver:
    """A checkpoint by registered name, folder or public `*_gen.pth`, ready on a device.

    Raises CheckpointError where there is none or it is damaged, ConfigError for a bad device.
    """
    path = find_checkpoint(str(name))
    config, network = load_checkpoint(path)
    chosen = pick_device(device)
    try:
        made = SuperResolver(network, config, chosen, str(name))
    except torch.OutOfMemoryError as error:
        if device != "auto":
            raise ConfigError(
                f"{chosen.device} has too little free memory for {name}: close what else uses it, "
                "or give --device cpu."
            ) from error
        made = SuperResolver(network, config, without_gpu(error), str(name))
    made.source = path
    return made
