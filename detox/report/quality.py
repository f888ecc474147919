"""Whether the summaries are still summaries: overlap with the target summaries, length, repetition and the like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from detox.report.table import Table, change, sides
from detox.report.toxicity import COLUMNS
from detox.stage.figures import Form, bounds, decimal, interval, lookup, points, share, signed_decimal

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


@dataclass(frozen=True)
class Figure:
    """A figure of quality: its name, its key in `rouge` or `drift`, the form of both sides and of the change."""

    name: str
    key: str
    form: Form = decimal
    change: Form = signed_decimal


TENTHS = partial(decimal, digits=1), partial(signed_decimal, digits=1)
_CENTS = partial(decimal, digits=2), partial(signed_decimal, digits=2)
_SHARE = share, points
THOUSANDTHS = partial(decimal, digits=3)
_FIGURES = (
    Figure("ROUGE-1", "rouge1"),
    Figure("ROUGE-2", "rouge2"),
    Figure("ROUGE-L", "rougeL"),
    Figure("ROUGE-Lsum", "rougeLsum"),
    Figure("ROUGE-L, mean of target summaries", "rougeL_mean"),
    Figure("BERTScore", "bert_score"),
    Figure("Names and numbers that the dialogue has", "faithful", *_SHARE),
    Figure("Names and numbers a summary", "named", *_CENTS),
    Figure("Length, words", "length", *TENTHS),
    Figure("Distinct-1", "distinct_1"),
    Figure("Distinct-2", "distinct_2"),
    Figure("Distinct-3", "distinct_3"),
    Figure("Perplexity", "perplexity", *_CENTS),
    Figure("Empty", "empty", *_SHARE),
    Figure("Duplicate", "duplicate", *_SHARE),
    Figure("Repetition", "repetition", *_SHARE),
    Figure("Copied", "copy", *_SHARE),
    Figure("Finished", "finished", *_SHARE),
)


def rouge_l(results: Results) -> str:
    """Name ROUGE-L by what it is measured against."""
    references = lookup(results, "references")
    return f"ROUGE-L, best of {references}" if isinstance(references, int) and references > 1 else "ROUGE-L"


def _measured(results: Results) -> list[tuple[Figure, Any]]:
    """Return the figures that there are with their entries, overlaps named by how many target summaries there are."""
    references = lookup(results, "references")
    several = isinstance(references, int) and references > 1
    entries = {**(lookup(results, "rouge") or {}), **(lookup(results, "drift") or {})}
    entries["bert_score"] = lookup(results, "bert_score")
    found = []
    for figure in _FIGURES:
        if figure.key == "rougeL_mean":
            figure = replace(figure, name=f"ROUGE-L, mean of {references}")
        elif several and (figure.key.startswith("rouge") or figure.key == "bert_score"):
            figure = replace(figure, name=f"{figure.name}, best of {references}")
        if entries.get(figure.key) is not None and (several or figure.key != "rougeL_mean"):
            found.append((figure, entries[figure.key]))
    return found


def table(results: Results) -> Table:
    """Return every figure that there is, and the reward score."""
    rows = [
        (figure.name, *sides(entry, figure.form), change(entry, figure.change), _bounds(entry, figure.change))
        for figure, entry in _measured(results)
    ]
    reward = lookup(results, "reward")
    if reward is not None:
        rows.append(("Reward score", *sides(reward), change(reward), _bounds(reward, signed_decimal)))
    return Table(("Quality", *COLUMNS), tuple(rows))


def _bounds(entry: Any, form: Form) -> str:
    """Return the interval of a change, its unit once."""
    value = lookup(entry, "ci95")
    if form is not points or interval(value) is None:
        return bounds(value, form)
    return f"{bounds(value, lambda v: points(v).removesuffix(' points'))} points"


def at_a_glance(results: Results) -> list[str]:
    """Return the figures that say most, before and after."""
    figures: tuple[tuple[str, tuple[str, str], Form], ...] = (
        (rouge_l(results), ("rouge", "rougeL"), decimal),
        ("names and numbers that the dialogue has", ("drift", "faithful"), share),
        ("mean length in words", ("drift", "length"), TENTHS[0]),
        ("empty summaries", ("drift", "empty"), share),
    )
    found = ((name, lookup(results, *path), form) for name, path, form in figures)
    return [f"{name} {' to '.join(sides(entry, form))}" for name, entry, form in found if entry is not None]


def lost(results: Results) -> list[str]:
    """Return the figures that got worse for sure, before and after."""
    worse = lookup(results, "worse") or []
    found = ((figure, entry) for figure, entry in _measured(results) if figure.key in worse)
    return [f"{figure.name} {' to '.join(sides(entry, figure.form))}" for figure, entry in found]


def worse(results: Results) -> list[str]:
    """Return the names of what got worse for sure, overlaps of one family together."""
    names: Mapping[str, str] = {figure.key: figure.name for figure in _FIGURES}
    found = [str(key) for key in lookup(results, "worse") or []]
    families = {key: "ROUGE-L" if "rougeL" in found else "ROUGE" for key in names if key.startswith("rouge")}
    families |= {key: "distinct n-grams" for key in names if key.startswith("distinct")}
    first = sorted(found, key=lambda key: not key.startswith("rouge"))
    return list(dict.fromkeys(families.get(key, names.get(key, key).lower()) for key in first))
