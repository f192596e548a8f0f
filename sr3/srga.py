"""An SRGA-style generalization index: how far a network's features drift on another domain.

After SRGA (Liu et al. 2022, arXiv 2205.07019): deepest features of each image, principal
components fitted per data set, all their values taken as one sample, cut at five standard
deviations, a generalized Gaussian fitted by moments; the index is log10(KL + 1e-5) + 5, where KL
is the divergence of the test set's Gaussian from the reference's: 0 means the same.

Invariant: float64 NumPy alone; no network, no randomness. "Style", since a diffusion model has
features at every noise level: `sr3.gap` fixes the noise and the level, and calls this.

What it finds between two samples of one distribution is not 0 but a floor: the first components
hold most of the variance, so the fit knows little more than the images' number of values, and the
divergence of two fits falls as one over it. So every index is told beside that of two halves of
the reference with as many images (`sr3.gap`), and only what stands above it is a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr3.errors import SR3Error

Values = NDArray[np.float64]

COMPONENTS = 300
CUT = 5.0  # standard deviations
FLOOR = 1e-5  # of the divergence, so that equal distributions give 0 and not -inf
SHAPES = (0.05, 50.0)  # where the fit looks for the shape: spikier than any features, and flat


@dataclass(frozen=True)
class GeneralizedGaussian:
    """Density shape / (2 scale Gamma(1 / shape)) exp(-(|x| / scale) ** shape), mean zero.

    Shape 1 is Laplace's, 2 the normal distribution.
    """

    shape: float
    scale: float


def moment_ratio(shape: float) -> float:
    """E[x^2] / E[|x|]^2 of a generalized Gaussian; falls as the shape grows."""
    return math.exp(math.lgamma(1 / shape) + math.lgamma(3 / shape) - 2 * math.lgamma(2 / shape))


def fit(sample: NDArray[Any]) -> GeneralizedGaussian:
    """The generalized Gaussian with the sample's mean |x| and mean x^2 (Mallat 1989).

    Raises SR3Error for a sample that is empty, constant zero or not finite.
    """
    values = np.asarray(sample, np.float64).ravel()
    square = float(np.mean(values**2)) if len(values) else 0.0
    if not (math.isfinite(square) and square > 0):
        raise SR3Error("A distribution needs features that are finite and not all alike.")
    ratio = square / float(np.mean(np.abs(values))) ** 2
    low, high = SHAPES
    for _ in range(100):  # bisection: moment_ratio is monotone
        middle = math.sqrt(low * high)
        low, high = (middle, high) if moment_ratio(middle) > ratio else (low, middle)
    shape = math.sqrt(low * high)
    scale = math.sqrt(square) * math.exp((math.lgamma(1 / shape) - math.lgamma(3 / shape)) / 2)
    return GeneralizedGaussian(shape, scale)


def divergence(reference: GeneralizedGaussian, test: GeneralizedGaussian) -> float:
    """KL(reference || test) in nats (Do and Vetterli 2002, equation 30); never negative."""
    p, q = reference, test
    density = math.log(p.shape * q.scale) - math.log(q.shape * p.scale)
    density += math.lgamma(1 / q.shape) - math.lgamma(1 / p.shape)
    moment = q.shape * math.log(p.scale / q.scale)
    moment += math.lgamma((q.shape + 1) / p.shape) - math.lgamma(1 / p.shape)
    return max(density + math.exp(moment) - 1 / p.shape, 0.0)


def components(features: NDArray[Any], count: int = COMPONENTS) -> Values:
    """Principal components of (images, values) features: (images, at most `count`) projections.

    Through the images' Gram matrix, since there are far more values than images.
    """
    centred = np.asarray(features, np.float64)
    centred = centred - centred.mean(axis=0)
    strengths, directions = np.linalg.eigh(centred @ centred.T)
    order = np.argsort(strengths)[::-1][: min(count, len(centred) - 1)]
    out: Values = directions[:, order] * np.sqrt(np.maximum(strengths[order], 0.0))
    return out


def pooled(features: NDArray[Any], count: int = COMPONENTS) -> Values:
    """The one-dimensional sample of a data set: all its components' values, outliers cut."""
    values = components(features, count).ravel()
    kept: Values = values[np.abs(values) <= CUT * values.std()]
    return kept


def index(reference: NDArray[Any], test: NDArray[Any]) -> float:
    """The index of two sets of features, (images, values) each: 0 the same, more is farther.

    Sets of one size compare best: components are as many as the smaller set allows. Raises
    SR3Error for fewer than two images.
    """
    smaller = min(len(reference), len(test))
    if smaller < 2:
        raise SR3Error("The generalization index needs at least two images of each domain.")
    count = min(COMPONENTS, smaller - 1)
    one, other = (fit(pooled(features, count)) for features in (reference, test))
    return math.log10(divergence(one, other) + FLOOR) - math.log10(FLOOR)


def divergence_of(found: float) -> float:
    """The divergence, nats, that an index stands for."""
    return FLOOR * math.expm1(found * math.log(10))
