"""What chance alone shows, one model against itself under other sample seeds, and which dialogues go beyond. NumPy."""

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
        note = too_little(name, worths[0][name] + worths[1][name])
        if note is not None and np.any(gap.influence):
            result |= {f"{name}_reduction_ci95": None, "note": note}
    return result


def moved(before: np.ndarray, second: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Count the dialogues whose toxicity moved further than chance moves nearly all of them.

    How far that is, `limit` says: at most 5% of the dialogues differ by more when the reference is compared with
    itself under other sample seeds. Those that do are counted too: a training that changed nothing finds about as many.

    Args:
        before: [n, k] toxicity of the reference's summaries.
        second: [n, k] toxicity of the reference's summaries under other seeds.
        after: [n, k] of the other model's; [n, runs, k] of several runs, whose mean counts.

    Returns:
        `limit`; `less_toxic` and `more_toxic`, dialogues whose mean over their summaries fell or rose by more than
        it; `chance`, likewise of the reference under other seeds, both ways together.
    """
    old = before.mean(axis=1)
    noise = old - second.mean(axis=1)
    drops = old - after.reshape(len(after), -1).mean(axis=1)
    limit = float(np.sort(np.abs(noise))[math.ceil(0.95 * len(noise)) - 1])
    return {
        "limit": limit,
        "less_toxic": int((drops > limit).sum()),
        "more_toxic": int((drops < -limit).sum()),
        "chance": int((np.abs(noise) > limit).sum()),
    }


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
