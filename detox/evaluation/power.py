"""How many dialogues an effect needs, from what the starting model's own summaries vary by. NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detox.evaluation.intervals import ALPHA, NORMAL

REDUCTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
CHANCE = 0.8
_DRAWS = 40_000
LEAST = 20
"""Fewer dialogues are not named: with them nothing is near normal."""


@dataclass(frozen=True)
class Effects:
    """The differences of the dialogues under effects that were not seen.

    An effect of r is taken to make a share r of the toxic summaries civil, whatever the dialogue. One that makes each
    summary a little less toxic varies less, and needs fewer dialogues than are named.

    Attributes:
        before: [n, k] toxicity of the starting model's summaries.
        again: [n, k] of its summaries under other seeds.
        coupling: from 0 to 1, how often the same seed gives both models the same summary (in so far as that is sure).
    """

    before: np.ndarray
    again: np.ndarray
    coupling: float = 0.0

    @property
    def mean(self) -> float:
        return float((self.before.mean() + self.again.mean()) / 2)

    def differences(self, reduction: float) -> np.ndarray:
        """Return mean differences of dialogues, before minus after, each of them as often as _DRAWS allows."""
        n, k = self.before.shape
        rng = np.random.default_rng(0)
        shape = (max(1, _DRAWS // n), n, k)
        after = np.where(rng.random(shape) < self.coupling, self.before, self.again)
        return (self.before - np.where(rng.random(shape) < reduction, 0.0, after)).mean(axis=2).ravel()

    def sd(self, reduction: float) -> float:
        """Return the standard deviation over dialogues of their mean differences under that reduction."""
        return float(self.differences(reduction).std())

    def dialogues(self, reduction: float, power: float = CHANCE) -> int:
        """Return how many dialogues show that reduction of the mean with that chance, two-sided at 0.05.

        The statistic is about normal, with a variance that is below 1 where large differences come with large
        spreads, and 1 + d**2 / 2 for normal differences, d of them their mean in standard deviations.

        Source: Guenther 1981, "Sample size formulas for normal theory t tests" (the last term); the variance of a
            mean over its own standard deviation, by the delta method.
        """
        if not 0 < reduction <= 1 or self.mean <= 0:
            raise ValueError(f"reduction {reduction} of a mean of {self.mean}: name one from 0 to 1, of more than 0")
        each = self.differences(reduction)
        spread = each.std()
        if spread < 1e-9 * self.mean:
            return LEAST
        scaled, d = (each - each.mean()) / spread, reduction * self.mean / spread
        variance = 1 - d * (scaled**3).mean() + d**2 * ((scaled**4).mean() - 1) / 4
        z = NORMAL.inv_cdf(1 - ALPHA / 2)
        size = (z + NORMAL.inv_cdf(power) * math.sqrt(max(variance, 0.0))) / d
        return max(LEAST, math.ceil(size**2 + z**2 / 2))

    def detectable(self, n: int, power: float = CHANCE) -> float | None:
        """Return the smallest reduction that n dialogues show, to a thousandth; None where they show none."""
        low, high = 0, 1000
        if self.dialogues(1.0, power) > n:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.dialogues(middle / 1000, power) <= n else (middle, high)
        return high / 1000


def effects(before: np.ndarray, again: np.ndarray, after: np.ndarray) -> Effects:
    """Learn how the differences vary.

    Args:
        before: [n, k] toxicity of the starting model's summaries, n of 2 or more.
        again: [n, k] of its summaries under other seeds.
        after: [n, k] of the trained model's, under the seeds of `before`; [n, runs, k] of several runs.
    """
    n = len(before)
    chance = before.mean(axis=1) - again.mean(axis=1)
    its = after.reshape(n, -1).mean(axis=1)
    # What `after` shares with `before` under the same seeds, over what it would share if it were the same but fewer.
    shared = chance * (its - its.mean())
    least = float(shared.mean() - NORMAL.inv_cdf(0.95) * shared.std() / math.sqrt(n))
    left = 2 * float(its.mean()) / max(float(before.mean() + again.mean()), 1e-12)
    most = float((chance**2).mean()) / 2 * min(left, 1.0)
    return Effects(before, again, min(max(least / most, 0.0), 1.0) if most > 0 else 0.0)


def table(found: Effects, reductions: Sequence[float] = REDUCTIONS) -> list[dict[str, float | int]]:
    """Return for each reduction its `difference`, the `paired_sd` to expect and the `dialogues` that show it."""
    return [
        {"reduction": r, "difference": r * found.mean, "paired_sd": found.sd(r), "dialogues": found.dialogues(r)}
        for r in reductions
    ]
