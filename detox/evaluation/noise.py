"""The noise floor: what chance alone shows, one model against itself under other sample seeds. NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detox.evaluation import intervals
from detox.evaluation.distribution import estimates, pairs, too_little, worth
from detox.evaluation.intervals import Estimate, Interval


def noise_floor(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Return the reductions that chance alone shows: one model against itself under other sample seeds.

    Nothing tells the first sample of a dialogue from the second, so their true difference is 0, and each dialogue
    says how far chance took it. The middle 95% are Student's, with the degrees of freedom that the dialogues that
    vary amount to.

    Args:
        first: [n, k] toxicity of the reference's summaries.
        second: [n, k] toxicity of the reference's summaries under other seeds.

    Returns:
        `n`; `mean_reduction`, `std_reduction` of this pair; `mean_reduction_ci95`, `std_reduction_ci95`: where 95%
        of such reductions lie; None, with a `note`, where too little toxicity says so.
    """
    first, second = pairs(first, second)
    old, new = (estimates(side, 0.5) for side in (first, second))
    worths = [worth(side, 0.5) for side in (first, second)]
    result: dict[str, Any] = {"n": len(first)}
    for name in ("mean", "std"):
        gap = old[name] - new[name]
        result[f"{name}_reduction"] = intervals.reduction(old[name].value, new[name].value)
        result[f"{name}_reduction_ci95"] = _chance(gap, (old[name].value + new[name].value) / 2)
        note = too_little(worths[0][name] + worths[1][name])
        if note is not None and np.any(gap.influence):
            result |= {f"{name}_reduction_ci95": None, "note": note}
    return result


def _chance(gap: Estimate, middle: float) -> Interval:
    """Return where the reductions lie whose differences are 0 but for chance, as that of `gap`."""
    each = gap.influence + gap.value  # around 0, which is the truth
    if not each.any():
        return [0.0, 0.0]
    n = len(each)
    if n < 3:
        return None
    half = intervals.quantile(intervals.known_degrees(each)) * math.sqrt((each**2).sum()) / n / 2
    return None if half >= middle else [-2 * half / (middle - half), 2 * half / (middle + half)]
