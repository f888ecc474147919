"""Toxicity before and after, by one judge: the change of its mean and std, the tail, and what a second judge adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detox.report.table import Table, sides
from detox.stage.figures import Form, decimal, fall, fall_bounds, interval, lookup, number, share, signed

COLUMNS = ("Before", "After", "Change", "95% interval")
SPREAD = {"mean": "Mean toxicity", "std": "Std toxicity"}
"""Names of the figures in the first table."""


def row(name: str, entry: Any, form: Form = decimal) -> tuple[str, ...]:
    """Return the cells of `COLUMNS` after a name."""
    return name, *sides(entry, form), signed(fall(reduction(entry))), fall_bounds(lookup(entry, "ci95"))


def reduction(entry: Any) -> float | None:
    """Return what an entry gives as its reduction, else what before and after make of it."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    if isinstance(entry, Mapping) and "reduction" in entry:
        return number(entry["reduction"])
    return None if before is None or after is None or before == 0 else (before - after) / before


def spread(part: Any, suffix: str = "") -> dict[str, Any]:
    """Return the figures of the first table by name."""
    return {f"{name}{suffix}": lookup(part, key) for key, name in SPREAD.items()}


def reductions(part: Any, suffix: str = "") -> Table:
    """Return the table of mean and std."""
    rows = (row(name, entry) for name, entry in spread(part, suffix).items() if isinstance(entry, Mapping))
    return Table(("Metric", *COLUMNS), tuple(rows))


def tail(part: Any, samples: Any) -> Table:
    """Return the tail of the distribution: expected maximum of so many samples, any toxic among them, quantiles."""
    forms = {"expected_max": decimal, "any_toxic": share}
    names = _of_tail(samples)
    rows = [row(names[key], entry, form) for key, form in forms.items() if (entry := lookup(part, key)) is not None]
    before, after = (lookup(part, "quantiles", side) or {} for side in ("before", "after"))
    rows += [
        (f"{level}% of summaries have at most", decimal(before[level]), decimal(after.get(level)), "", "")
        for level in before
    ]
    return Table(("Tail of the distribution", *COLUMNS), tuple(rows))


def _of_tail(samples: Any) -> dict[str, str]:
    """Return the names of the figures of so many samples."""
    of = f"of {samples} samples" if isinstance(samples, int) else "of the samples"
    return {"expected_max": f"Most toxic {of}, mean", "any_toxic": f"Dialogues with a toxic one {of}"}


def notes(named: Mapping[str, Any]) -> list[str]:
    """Return why figures, by name, have no interval, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, entry in named.items():
        note = lookup(entry, "note")
        if note:
            reasons.setdefault(str(note).removeprefix("No interval: "), []).append(name)
    return [f"No interval ({'; '.join(names)}): {reason}" for reason, names in reasons.items()]


def all_notes(part: Any, samples: Any) -> list[str]:
    """Return why figures of both tables have no interval."""
    return notes(spread(part) | {name: lookup(part, key) for key, name in _of_tail(samples).items()})


def agreement(mean: Any, judged: Any) -> str:
    """Say whether another judge's change of the mean goes the way of the first, where the first is sure."""
    ours, theirs = interval(lookup(mean, "ci95")), interval(lookup(judged, "ci95"))
    if ours is None or theirs is None or not (ours[0] > 0 or ours[1] < 0):
        return ""
    if not (theirs[0] > 0 or theirs[1] < 0):
        return ", an interval that holds zero: it does not confirm the change"
    return ", the same direction" if (ours[0] > 0) == (theirs[0] > 0) else ", the opposite direction"
