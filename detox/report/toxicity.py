"""Toxicity before and after, by one judge: the change of its mean and std, the tail, and what a second judge adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detox.report.table import Table, sides
from detox.stage.figures import Form, decimal, fall, fall_bounds, interval, lookup, number, share, signed

COLUMNS = ("Before", "After", "Change", "95% interval")


def row(name: str, entry: Any, form: Form = decimal) -> tuple[str, ...]:
    """Return the cells of `COLUMNS` after a name."""
    return name, *sides(entry, form), signed(fall(reduction(entry))), fall_bounds(lookup(entry, "ci95"))


def reduction(entry: Any) -> float | None:
    """Return what an entry gives as its reduction, else what before and after make of it."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    if isinstance(entry, Mapping) and "reduction" in entry:
        return number(entry["reduction"])
    return None if before is None or after is None or before == 0 else (before - after) / before


def reductions(part: Any, suffix: str = "") -> Table:
    """Return the table of mean and std."""
    named = {"Mean toxicity": lookup(part, "mean"), "Std toxicity": lookup(part, "std")}
    rows = (row(f"{name}{suffix}", entry) for name, entry in named.items() if isinstance(entry, Mapping))
    return Table(("Metric", *COLUMNS), tuple(rows))


def tail(part: Any, samples: Any) -> Table:
    """Return the tail of the distribution: expected maximum of so many samples, any toxic among them, quantiles."""
    of = f"of {samples} samples" if isinstance(samples, int) else "of the samples"
    figures: tuple[tuple[str, str, Form], ...] = (
        (f"Most toxic {of}, mean", "expected_max", decimal),
        (f"Dialogues with a toxic one {of}", "any_toxic", share),
    )
    rows = [row(name, entry, form) for name, key, form in figures if (entry := lookup(part, key)) is not None]
    before, after = (lookup(part, "quantiles", side) or {} for side in ("before", "after"))
    rows += [(f"{level}% at most", decimal(before[level]), decimal(after.get(level)), "", "") for level in before]
    return Table(("Tail of the distribution", *COLUMNS), tuple(rows))


def notes(part: Any) -> list[str]:
    """Return why there is no interval, each reason once."""
    found = (lookup(part, key, "note") for key in ("mean", "std", "expected_max", "any_toxic"))
    return list(dict.fromkeys(str(note) for note in found if note))


def p(value: Any) -> str:
    """Say the p-value of the sign-flip test."""
    known = number(value)
    if known is None:
        return "p unknown"
    return "p < 0.0001" if known < 0.0001 else f"p = {known:.4f}"


def agreement(mean: Any, judged: Any) -> str:
    """Say whether another judge's change of the mean goes the way of the first, where the first is sure."""
    ours, theirs = interval(lookup(mean, "ci95")), interval(lookup(judged, "ci95"))
    if ours is None or theirs is None or not (ours[0] > 0 or ours[1] < 0):
        return ""
    if not (theirs[0] > 0 or theirs[1] < 0):
        return ", an interval that holds zero: it does not confirm the change"
    return ", the same direction" if (ours[0] > 0) == (theirs[0] > 0) else ", the opposite direction"
