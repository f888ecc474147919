"""Numbers as people read them: looked up in JSON, checked, and written as shares, changes and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NOTHING = "n/a"
Form = Callable[[Any], str]
"""Writes one figure."""


def number(value: Any) -> float | None:
    """Return `value` as a finite float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def lookup(results: Any, *path: str) -> Any:
    """Return what stands at `path` in nested mappings, None where a key is missing."""
    for key in path:
        results = results.get(key) if isinstance(results, Mapping) else None
    return results


def interval(value: Any) -> tuple[float, float] | None:
    """Return the two bounds of `value`, None where they are not two finite numbers."""
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def decimal(value: Any, digits: int = 4) -> str:
    known = number(value)
    return NOTHING if known is None else f"{known:.{digits}f}"


def share(value: Any) -> str:
    known = number(value)
    return NOTHING if known is None else f"{known:.1%}"


def signed(value: Any) -> str:
    """Return a change as percent: after against before, so that minus is less; 0 has no sign."""
    known = number(value)
    return NOTHING if known is None else f"{round(known, 3) + 0.0:+.1%}".replace("+0.0%", "0.0%")


def signed_decimal(value: Any, digits: int = 4) -> str:
    """Return a change in the unit of its figure, with its sign; 0 has none."""
    known = number(value)
    if known is None:
        return NOTHING
    rounded = round(known, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"


def points(value: Any) -> str:
    """Return a change of a share, in percentage points."""
    known = number(value)
    return NOTHING if known is None else f"{signed_decimal(100 * known, 1)} points"


def fall(reduction: Any) -> float | None:
    """Return a reduction, which results give as positive where it improved, as a change."""
    known = number(reduction)
    return None if known is None else -known


def fall_bounds(value: Any, form: Form = signed) -> str:
    """Return the interval of a reduction as that of the change."""
    known = interval(value)
    return NOTHING if known is None else bounds((-known[1], -known[0]), form)


def bounds(value: Any, form: Form = signed) -> str:
    known = interval(value)
    return NOTHING if known is None else f"[{form(known[0])}, {form(known[1])}]"


def probability(value: Any) -> str:
    """Say a p-value."""
    known = number(value)
    if known is None:
        return "p unknown"
    return "p < 0.0001" if known < 0.0001 else f"p = {known:.4f}"


def count(value: Any, one: str, many: str | None = None) -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def initial(name: Any) -> str:
    """Return a name with a capital, as the first word of a row or sentence."""
    return str(name)[:1].upper() + str(name)[1:]
