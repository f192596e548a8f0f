"""How good is a super-resolved face? PSNR, SSIM, LPIPS, consistency, and intervals for their means.

Invariants: images are uint8 RGB, (batch, height, width, 3) or one (height, width, 3), compared
whole, without cropping a border; every metric gives float64 (batch,). Where LPIPS cannot be had
it is "not available" with a reason, and nothing else changes (`sr3.perceptual`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from sr3.errors import ImageError, MetricUnavailable, SR3Error
from sr3.images import Pixels
from sr3.perceptual import Lpips, load_lpips

__all__ = [
    "METRICS", "Interval", "Lpips", "Metric", "Scorer", "Scores", "bootstrap_mean", "consistency",
    "load_lpips", "mean_scores", "paired_difference", "psnr", "score", "ssim",
]  # fmt: skip

Values = NDArray[np.float64]


# ------------------------------------------------------------------------------------ registry
@dataclass(frozen=True)
class Metric:
    """What a chart needs to know of a metric; `name` is its name in the table of results."""

    name: str
    title: str
    unit: str  # "" where the metric has none
    better: Literal["higher", "lower"]

    @property
    def arrow(self) -> str:
        return "↑" if self.better == "higher" else "↓"

    @property
    def label(self) -> str:
        """An axis title, such as "PSNR (dB) ↑"."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {self.arrow}"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("psnr", "PSNR", "dB", "higher"),
            Metric("ssim", "SSIM", "", "higher"),
            Metric("lpips", "LPIPS", "", "lower"),
            Metric("consistency_psnr", "LR-PSNR", "dB", "higher"),
            Metric("consistency_mse", "Consistency MSE", "1e-5", "lower"),
        )
    }
)


# --------------------------------------------------------------------------- pixels and structure
def psnr(result: Pixels, reference: Pixels) -> Values:
    """Peak signal-to-noise ratio in dB over all RGB values, (batch,); identical images give inf.

    10 log10(255^2 / MSE), on 8-bit values: round before calling. Raises ImageError.
    """
    result, reference = _pair(result, reference)
    error = result.astype(np.float64) - reference.astype(np.float64)
    return _decibels((error**2).mean(axis=(1, 2, 3)) / 255**2)


def ssim(result: Pixels, reference: Pixels) -> Values:
    """Structural similarity, (batch,) in [-1, 1], 1 for identical images; averaged over RGB.

    Wang et al. 2004: 11x11 Gaussian window of sigma 1.5, population covariance, K = 0.01, 0.03.
    Raises ImageError, also for a side below 11.
    """
    result, reference = _pair(result, reference, smallest=11)
    return np.array([_ssim(*pair) for pair in zip(result, reference, strict=True)])


def _ssim(result: Pixels, reference: Pixels) -> float:
    value = structural_similarity(  # type: ignore[no-untyped-call]
        result, reference, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=255, channel_axis=-1,
    )  # fmt: skip
    return float(value)


def consistency(result: Pixels, low_res: Pixels) -> tuple[Values, Values]:
    """Does the result, reduced again, give the input? (MSE in units of 1e-5, LR-PSNR in dB).

    Each (batch,), on a [0, 1] range (Saharia et al. 2021, Table 1, times 1e-5). The reduction is
    Pillow's antialiased bicubic in floating point, clipped to [0, 255] as an 8-bit image is but
    NOT rounded, so that the metric still sees errors below one grey level; rounding of the input
    alone then leaves about 58.9 dB. Raises ImageError.
    """
    result, low_res = _batch(result, "result"), _batch(low_res, "low_res")
    if len(result) != len(low_res):
        raise ImageError(f"{len(result)} results came with {len(low_res)} low-resolution images")
    if low_res.shape[1] > result.shape[1] or low_res.shape[2] > result.shape[2]:
        raise ImageError(
            f"the low-resolution image {low_res.shape[1:3]} is larger than the result "
            f"{result.shape[1:3]}: pass the result first"
        )
    error = (_reduce(result, low_res.shape[1], low_res.shape[2]) - low_res) / 255
    mse: Values = (error**2).mean(axis=(1, 2, 3))
    return mse * 1e5, _decibels(mse)


def _reduce(images: Pixels, height: int, width: int) -> Values:
    """(batch, H, W, 3) uint8 -> (batch, height, width, 3) float64 in [0, 255], not rounded."""
    reduced = np.empty((len(images), height, width, 3))
    for index, channel in np.ndindex(len(images), 3):
        # Pillow resamples floats only one channel at a time, in mode "F".
        plane = Image.fromarray(images[index, :, :, channel].astype(np.float32))
        small = plane.resize((width, height), Image.Resampling.BICUBIC)
        reduced[index, :, :, channel] = np.asarray(small)
    return reduced.clip(0, 255)


def _decibels(mse: Values) -> Values:
    """Mean squared error on a [0, 1] range -> dB; 0 -> inf."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(mse))


def _batch(images: Pixels, name: str) -> Pixels:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise ImageError(
            f"{name} must be uint8 RGB, (batch, height, width, 3) or (height, width, 3), "
            f"not {images.dtype} {images.shape}"
        )
    return images if images.ndim == 4 else images[None]


def _pair(result: Pixels, reference: Pixels, smallest: int = 1) -> tuple[Pixels, Pixels]:
    result, reference = _batch(result, "result"), _batch(reference, "reference")
    if result.shape != reference.shape:
        raise ImageError(f"result {result.shape} and reference {reference.shape} differ in shape")
    if min(result.shape[1:3]) < smallest:
        raise ImageError(f"images of {result.shape[1:3]} are too small: {smallest} a side at least")
    return result, reference


# -------------------------------------------------------------------------------------- scoring
@dataclass(frozen=True)
class Scores:
    """One image's scores, fields as in METRICS; None where a thing was not measured."""

    psnr: float | None  # dB
    ssim: float | None
    lpips: float | None
    consistency_mse: float | None  # 1e-5, [0, 1] range
    consistency_psnr: float | None  # dB

    @property
    def told(self) -> str:
        """What was measured, such as "PSNR 24.31 dB, SSIM 0.703, LPIPS 0.115, LR-PSNR 76.3 dB"."""
        return ", ".join(
            f"{METRICS[name].title} {value:.{digits}f} {METRICS[name].unit}".rstrip()
            for name, digits in TOLD.items()
            if (value := getattr(self, name)) is not None
        )


TOLD = {"psnr": 2, "ssim": 3, "lpips": 3, "consistency_psnr": 1}  # a metric's decimals
SMALLEST = 32  # pixels a side for LPIPS


def score(
    results: Pixels, references: Pixels | None, low_res: Pixels | None, lpips: Lpips | None
) -> list[Scores]:
    """Every metric of each image; without references, low_res or lpips, theirs are None, and so is
    LPIPS under 32 pixels, where AlexNet's last layers have nothing left to see.

    `results`, `references` (batch, height, width, 3), `low_res` (batch, h, w, 3), uint8 RGB; one
    image without the batch axis gives a list of one. Raises ImageError.
    """
    results = _batch(results, "results")
    columns: dict[str, Values] = {}
    if references is not None:
        references = _batch(references, "references")
        columns |= {"psnr": psnr(results, references), "ssim": ssim(results, references)}
        if lpips is not None and min(results.shape[1:3]) >= SMALLEST:
            columns["lpips"] = lpips(results, references)
    if low_res is not None:
        mse, decibels = consistency(results, low_res)
        columns |= {"consistency_mse": mse, "consistency_psnr": decibels}
    empty = dict.fromkeys(Scores.__dataclass_fields__)
    return [
        Scores(**empty | {name: float(values[index]) for name, values in columns.items()})
        for index in range(len(results))
    ]


MEASURES = ("psnr", "ssim", "lpips")


def mean_scores(scores: Sequence[Scores]) -> dict[str, float | None]:
    """Mean PSNR, SSIM and LPIPS over images; None where a metric is not to be had."""
    columns = {name: [getattr(score, name) for score in scores] for name in MEASURES}
    return {
        name: None if None in values else float(np.mean(values)) for name, values in columns.items()
    }


@dataclass(frozen=True)
class Scorer:
    """`score` with whatever LPIPS there is; `lpips_reason` says why there is none, else ""."""

    lpips: Lpips | None
    lpips_reason: str = ""

    @classmethod
    def load(cls) -> Scorer:
        """Never fails for want of LPIPS."""
        try:
            return cls(load_lpips())
        except MetricUnavailable as error:
            return cls(None, str(error))

    @property
    def backbone(self) -> str | None:
        return self.lpips.backbone if self.lpips else None

    def __call__(
        self, results: Pixels, references: Pixels | None, low_res: Pixels | None
    ) -> list[Scores]:
        return score(results, references, low_res, self.lpips)


# ------------------------------------------------------------------------------------ intervals
RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean over `n` images and its bootstrap interval; low and high are NaN where n is 1."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: ArrayLike, seed: int = 0, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979) over images, `values` (n,), one an image.

    The same seed and values give the same interval. Values may be inf (an exact image's PSNR);
    SR3Error for an empty list, NaN, -inf or a confidence outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not (sample > -np.inf).all():
        raise SR3Error(f"an interval needs one number an image, and no NaN; got {sample.shape}")
    if not 0 < confidence < 1 or resamples < 1:
        raise SR3Error(
            f"confidence must lie in (0, 1) and resamples above 0, not {confidence}, {resamples}"
        )
    n = len(sample)
    if n == 1:  # one image says nothing of the spread between images
        return Interval(float(sample[0]), float("nan"), float("nan"), 1)
    generator = np.random.default_rng(seed)
    rows = max(1, 2**20 // n)  # bounds the memory at about 16 MB
    means = np.concatenate(
        [
            sample[generator.integers(0, n, (min(rows, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    means.sort()
    # The nearest order statistic: interpolating would turn two infinities into NaN.
    cut = round((1 - confidence) / 2 * (resamples - 1))
    return Interval(float(sample.mean()), float(means[cut]), float(means[-1 - cut]), n)


def paired_difference(
    ours: ArrayLike,
    baseline: ArrayLike,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of `ours - baseline`, each (n,) over the SAME images in the same order, with interval.

    Pairing removes what makes an image hard for both. SR3Error for shapes that differ or values
    that are not finite.
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.shape != second.shape or not (np.isfinite(first) & np.isfinite(second)).all():
        raise SR3Error(
            "a paired difference needs finite values of the same images in the same order; got "
            f"{first.shape} and {second.shape}"
        )
    return bootstrap_mean(first - second, seed, confidence, resamples)
