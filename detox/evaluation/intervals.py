"""How surely a figure is known: estimates with each dialogue's influence, and their intervals. NumPy.

A figure over n dialogues is taken as smooth in how much each dialogue counts. Its standard error then follows from what
each of them adds (the infinitesimal jackknife), pairs included: the influence of a difference is the difference of the
influences. Nothing is resampled, so an interval is the same every time.

Source: Efron 1982, "The jackknife, the bootstrap and other resampling plans", chapter 6; benchmarks/evaluations.py
measures how often the intervals hold the truth (docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = list[float] | None

ALPHA = 0.05
NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A figure, and how much it would move if a dialogue counted more.

    Attributes:
        value: the figure.
        influence: [n], its derivative with respect to each dialogue's share of the sample, times n; sums to 0.
    """

    value: float
    influence: np.ndarray

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.influence - other.influence)

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.influence * factor)

    @property
    def error(self) -> float:
        """Standard error; infinite for one dialogue."""
        n = len(self.influence)
        return math.sqrt((self.influence**2).sum() / (n * (n - 1))) if n > 1 else math.inf


def mean(values: np.ndarray) -> Estimate:
    """Return the mean of [n] numbers, one a dialogue."""
    values = np.asarray(values, dtype=np.float64)
    return Estimate(float(values.mean()), values - values.mean())


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """Return the sum of [n] numerators over that of [n] denominators; 0 where these sum to 0."""
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if below.sum() == 0:
        return Estimate(0.0, np.zeros(len(below)))
    value = above.sum() / below.sum()
    return Estimate(float(value), (above - value * below) / below.mean())


def std(samples: np.ndarray) -> Estimate:
    """Return the population standard deviation of [n, k] samples; what is below rounding is 0."""
    squares = ((samples - samples.mean()) ** 2).mean(axis=1)
    variance = squares.mean()
    if variance <= 1e-12 * (samples**2).mean():
        return Estimate(0.0, np.zeros(len(samples)))
    return Estimate(math.sqrt(variance), (squares - variance) / (2 * math.sqrt(variance)))


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of figures over the same dialogues."""
    return Estimate(
        float(np.mean([one.value for one in estimates])), np.mean([one.influence for one in estimates], axis=0)
    )


# -------------------------------------------------------------------------------------------------- intervals


def quantile(degrees: float, alpha: float = ALPHA) -> float:
    """Return what Student's t exceeds in absolute value with probability `alpha`; within 1% from 3 degrees on.

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    z = NORMAL.inv_cdf(1 - alpha / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def known_degrees(influence: np.ndarray) -> float:
    """Return by how many degrees of freedom a spread is known that a few dialogues may carry: 2 to n - 1.

    The relative variance of a sum of squares is that of the squares, and 2 over the degrees of freedom.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    squares = influence**2
    fourth = (squares**2).sum()
    most = len(influence) - 1
    return float(min(max(2 * squares.sum() ** 2 / fourth, 2.0), most)) if fourth > 0 else float(most)


def interval(change: Estimate, alpha: float = ALPHA, most: float = math.inf) -> Interval:
    """Return the t interval of a figure, most often a difference, wider to the side that a skew hides.

    Where a few dialogues add most, a sample without them has a small mean and a small spread at once. The statistic is
    skewed to the other side then, by what the third moment tells. The side that a skew would narrow stays as it is, and
    what that one misses less, the other may miss more.

    Args:
        change: the figure.
        alpha: chance of a miss.
        most: no such figure is further from 0; 1 for a change of shares.

    Returns:
        None for fewer than 3 dialogues.

    Source: Hall 1992, "On the removal of skewness by transformation", the cubic one.
    """
    n, error = len(change.influence), change.error
    if n < 3:
        return None
    t = quantile(n - 1, alpha)
    if error == 0:
        return [change.value, change.value]
    skew = float((change.influence**3).mean() / (change.influence**2).mean() ** 1.5) / math.sqrt(n)
    wide = _widened(t, abs(skew), alpha)
    above, below = (wide, t) if skew > 0 else (t, wide)
    return [max(-most, change.value - below * error), min(most, change.value + above * error)]


def _widened(t: float, skew: float, alpha: float) -> float:
    """Return how many errors away the truth may be on the side that a skew above 0 hides; t on the other."""
    if skew < 1e-6:
        return t
    z = NORMAL.inv_cdf(1 - alpha / 2)
    missed = NORMAL.cdf(-z / t * (t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6))  # on the other side
    x = t / z * NORMAL.inv_cdf(1 - alpha + missed)
    return max(t, float(1 - np.cbrt(1 - skew * (x + skew / 6))) / (skew / 3))


def reduction(before: float, after: float) -> float | None:
    """Return (before - after) / before: 0 where both are 0, None where only `before` is."""
    if before == 0:
        return 0.0 if after == 0 else None
    return (before - after) / before


def reduction_interval(before: Estimate, after: Estimate, alpha: float = ALPHA, few: bool = False) -> Interval:
    """Return the interval of the relative reduction, (before - after) / before.

    It holds each r for which `after - (1 - r) before` is not further from 0 than chance takes it. The figures are never
    negative, so nothing falls by more than 100%.

    Args:
        before, after: of the same dialogues.
        alpha: chance of a miss.
        few: the figures are spreads, to which a few dialogues add most: their own errors are known less well.

    Returns:
        None for fewer than 3 dialogues; where `before` itself is not known to differ from 0; and where all dialogues
        agree on the reduction, as where nothing is left, so that nothing tells how far others would differ.

    Source: Fieller 1954, "Some problems in interval estimation".
    """
    n = len(before.influence)
    if n < 3 or before.value <= 0:
        return None
    gap = after - before * (after.value / before.value)
    if gap.error < 1e-12 * before.value:
        return None
    degrees = known_degrees(gap.influence) if few else n - 1
    size = quantile(degrees, alpha) ** 2 / (n * (n - 1))
    both = np.stack([before.influence, after.influence])
    (own, shared), (_, its) = size * both @ both.T
    a, b, c = before.value**2 - own, before.value * after.value - shared, after.value**2 - its
    if a <= 0:
        return None
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return [1 - (b + root) / a, min(1 - (b - root) / a, 1.0)]
