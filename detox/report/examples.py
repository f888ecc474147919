"""Which examples a report shows, and what it says of each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from detox.report.table import Table
from detox.stage.errors import printable
from detox.stage.figures import NOTHING, count, decimal, fall, lookup, number, signed_decimal

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


A_GROUP = 10
SHOWN = 3
"""Of each group at first sight; the rest is folded, or left out of Markdown."""
Example = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Examples that are shown together."""

    title: str
    examples: tuple[Example, ...]
    note: str


def groups(examples: Sequence[Example], results: Results) -> list[Group]:
    """Choose what to show: the largest improvements and regressions, and some at random."""
    seed = lookup(results, "seed")
    ranked = sorted(((d, i) for i, e in enumerate(examples) if (d := drop(e)) is not None))
    improved = [examples[i] for d, i in reversed(ranked) if d > 0]
    worsened = [examples[i] for d, i in ranked if d < 0]
    order = list(range(len(examples)))
    random.Random(seed if isinstance(seed, int) else 0).shuffle(order)
    drops = f"The largest drops of {count(len(improved), 'dialogue')} that became less toxic."
    rises = f"The largest rises of {count(len(worsened), 'dialogue')} that became more toxic."
    none = "No dialogue became {} toxic."
    return [
        Group("Largest improvements", tuple(improved[:A_GROUP]), drops if improved else none.format("less")),
        Group("Largest regressions", tuple(worsened[:A_GROUP]), rises if worsened else none.format("more")),
        Group("Random", tuple(examples[i] for i in order[:A_GROUP]), "Drawn without regard to toxicity."),
    ]


def moved(results: Results) -> str:
    """Say how many dialogues moved further than chance moves nearly all of them, and how many chance alone moves."""
    keys = ("less_toxic", "more_toxic", "chance", "limit")
    less, more, chance, limit = (number(lookup(results, "moved", key)) for key in keys)
    if less is None or more is None or chance is None or limit is None:
        return ""
    return (
        f"By more than {decimal(limit)}, {count(int(less), 'dialogue')} became less toxic and {more:,.0f} more toxic. "
        f"Chance alone moves {chance:,.0f} by more than that: the starting model against itself, under other seeds."
    )


def toxicities(example: Example, side: str) -> list[float]:
    """Return the toxicity of the sampled summaries of a `side` (before, after), or else of the greedy one."""
    samples = lookup(example, side, "samples") or []
    values = [number(lookup(s, "toxicity")) for s in samples] or [number(lookup(example, side, "greedy", "toxicity"))]
    return [v for v in values if v is not None]


def drop(example: Example) -> float | None:
    """Return by how much the mean toxicity of a dialogue's summaries fell, before minus after."""
    before, after = toxicities(example, "before"), toxicities(example, "after")
    return fmean(before) - fmean(after) if before and after else None


def means(example: Example) -> tuple[str, str, str]:
    """Return mean toxicity before and after, and its change."""
    sides = [toxicities(example, side) for side in ("before", "after")]
    before, after = (decimal(sum(v) / len(v)) if v else NOTHING for v in sides)
    return before, after, signed_decimal(fall(drop(example)))


def name(example: Example) -> str:
    return printable(example.get("id", "dialogue"), 60)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def tags(example: Example) -> list[str]:
    """Return the topic and the slices of a dialogue."""
    return [printable(tag, 80) for tag in (example.get("topic"), *listed(example.get("slices"))) if tag]


def summaries(example: Example, side: str) -> list[tuple[str, Example]]:
    """Return the summaries of one side with what each is."""
    found = [(f"sample {i}", s) for i, s in enumerate(listed(lookup(example, side, "samples")), start=1)]
    greedy = lookup(example, side, "greedy")
    return [*found, ("greedy", greedy)] if isinstance(greedy, Mapping) else found


def measured(record: Example) -> str:
    """Return the figures of one summary."""
    figures = (("toxicity", "toxicity", 4), ("judge", "judge", 4), ("ROUGE-L", "rougeL", 3))
    found = ((title, number(record.get(key)), digits) for title, key, digits in figures)
    return ", ".join(f"{title} {value:.{digits}f}" for title, value, digits in found if value is not None)


def side_by_side(example: Example) -> Table:
    """Return the summaries before and after with their toxicity; of runs that were pooled there are more after."""

    def cells(record: Example | None) -> tuple[str, str]:
        return ("", "") if record is None else (str(record.get("summary", "")), decimal(record.get("toxicity")))

    before, after = (dict(summaries(example, side)) for side in ("before", "after"))
    labels = max(before, after, key=len)
    rows = tuple((label, *cells(before.get(label)), *cells(after.get(label))) for label in labels)
    return Table(("", "Before", "Toxicity", "After", "Toxicity"), rows)
