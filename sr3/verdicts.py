"""A measured difference with its interval, as words in a sentence.

Invariant: more is better in every metric, so that a fall of LPIPS is told as a gain; what an
interval does not tell apart from zero is never told as better or worse.
"""

from __future__ import annotations

import numpy as np

from sr3.metrics import Interval


def verdict(ours: str, difference: Interval, other: str) -> str:
    """Which of two is better, and by how much; `difference` is ours - other, more is better."""
    if difference.low > 0 or difference.high < 0:
        verb = "beats" if difference.mean > 0 else "loses to"
        return f"{ours} {verb} {other} by {_unsigned(difference)}"
    return f"{ours} is not told apart from {other}: the difference is {signed(difference)}"


def moved(domain: str, gain: Interval) -> str:
    """What a domain gains or loses. Never "LPIPS changes by": there, less is better."""
    if gain.low > 0 or gain.high < 0:
        return f"{domain} {'gains' if gain.mean > 0 else 'loses'} {_unsigned(gain)}"
    return f"{domain} changes by {sized(gain, '+.4f', '; + is better')}"


def _unsigned(interval: Interval) -> str:
    """Without its sign, of an interval on one side of zero."""
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return sized(Interval(abs(interval.mean), low, high, interval.n), ".4f")


def signed(interval: Interval) -> str:
    """More is better in every metric: a fall of LPIPS is told as a gain."""
    return sized(interval, "+.4f")


def sized(interval: Interval, form: str, note: str = "") -> str:
    """A mean with its interval and n, numbers as `form` writes them."""
    return f"{interval.mean:{form}} ({bounds_told(interval, form)}, n = {interval.n}{note})"


def bounds_told(interval: Interval, form: str) -> str:
    """The bounds alone; of a single image there are none."""
    if np.isnan(interval.low):
        return "no interval"
    return f"95% interval {interval.low:{form}} to {interval.high:{form}}"


def seeds_told(count: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} seed{'s' * (count != 1)}"
