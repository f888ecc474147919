"""How many dialogues an effect needs, from what the starting model's own summaries vary by. NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detox.intervals import ALPHA, NORMAL

REDUCTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
CHANCE = 0.8


@dataclass(frozen=True)
class Spread:
    """What makes the differences of the dialogues vary, so that their spread is known for effects not yet seen.

    An effect of r is taken to make a share r of the toxic summaries civil, whatever the dialogue. One that makes each
    summary a little less toxic varies less, and needs fewer dialogues than are named.

    Attributes:
        mean: mean toxicity of the starting model.
        between: variance over dialogues of their expected toxicity.
        within: variance of a dialogue's mean over its k samples, from one set of seeds to another.
        square: mean square of the toxicity of a summary.
        samples: k.
        coupling: from 0 to 1, how far the same seeds give both models the same summaries (in so far as that is sure).
    """

    mean: float
    between: float
    within: float
    square: float
    samples: int
    coupling: float

    def sd(self, reduction: float) -> float:
        """Return the standard deviation over dialogues of their mean differences under that reduction."""
        left = 1 - reduction
        chance = left * (self.square - left * (self.between + self.mean**2)) / self.samples
        shared = 2 * self.coupling * left * self.within
        return math.sqrt(max(reduction**2 * self.between + self.within + chance - shared, 0.0))

    def dialogues(self, reduction: float, power: float = CHANCE) -> int:
        """Return how many dialogues show that reduction of the mean with that chance, two-sided at 0.05.

        Source: Guenther 1981, "Sample size formulas for normal theory t tests" (whence the last term).
        """
        if not 0 < abs(reduction) <= 1 or self.mean <= 0:
            raise ValueError(f"reduction {reduction} of a mean of {self.mean}: name one from 0 to 1, of more than 0")
        z = NORMAL.inv_cdf(1 - ALPHA / 2)
        size = (z + NORMAL.inv_cdf(power)) * self.sd(reduction) / (reduction * self.mean)
        return max(6, math.ceil(size**2 + z**2 / 2))  # fewer than 6 never have a sign-flip p-value below 0.05

    def detectable(self, n: int, power: float = CHANCE) -> float | None:
        """Return the smallest reduction that n dialogues show, to a thousandth; None where they show none."""
        shown = (r / 1000 for r in range(1, 1001) if self.dialogues(r / 1000, power) <= n)
        return next(shown, None)


def spread(before: np.ndarray, again: np.ndarray, after: np.ndarray) -> Spread:
    """Learn what the differences vary by.

    Args:
        before: [n, k] toxicity of the starting model's summaries, n of 2 or more.
        again: [n, k] of its summaries under other seeds.
        after: [n, k] of the trained model's, under the seeds of `before`; [n, runs, k] of several runs.
    """
    n, k = before.shape
    own, others = before.mean(axis=1), again.mean(axis=1)
    its = after.reshape(n, -1).mean(axis=1)
    chance = own - others
    within = float((chance**2).mean() / 2)
    both = np.concatenate([before, again], axis=1)
    # What `after` shares with `before` under the same seeds, over what it would share if it were the same but fewer.
    shared = chance * (its - its.mean())
    least = float(shared.mean() - NORMAL.inv_cdf(0.95) * shared.std() / math.sqrt(n))
    most = within * min(float(its.mean() / max(both.mean(), 1e-12)), 1.0)
    return Spread(
        mean=float(both.mean()),
        between=max(float(np.cov(own, others)[0, 1]), 0.0),
        within=within,
        square=float((both**2).mean()),
        samples=k,
        coupling=min(max(least / most, 0.0), 1.0) if most > 0 else 0.0,
    )


def table(found: Spread, reductions: Sequence[float] = REDUCTIONS) -> list[dict[str, float | int]]:
    """Return for each reduction its `difference`, the `paired_sd` to expect and the `dialogues` that show it."""
    return [
        {"reduction": r, "difference": r * found.mean, "paired_sd": found.sd(r), "dialogues": found.dialogues(r)}
        for r in reductions
    ]
