"""Figures side by side: of checkpoints, of runs, of simpler ways, of parts of the data; and how much data they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detox.evaluation.power import LEAST
from detox.report.table import Table
from detox.report.toxicity import COLUMNS, row
from detox.stage.errors import printable
from detox.stage.figures import decimal, fall, fall_bounds, initial, lookup, number, signed, signed_decimal

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


_BASELINE_COLUMNS = (
    ("Mean toxicity", "toxicity_mean", 4),
    ("Std toxicity", "toxicity_std", 4),
    ("Judge", "judge_mean", 4),
    ("ROUGE-L", "rougeL", 4),
    ("Words", "length", 1),
)
_CHECKPOINT_COLUMNS = (
    ("Sqrt KL", "sqrt_kl", 3),
    ("Reward score", "score_mean", 4),
    ("Mean toxicity", "toxicity_mean", 4),
    ("Judge", "judge_mean", 4),
    ("ROUGE-L", "rougeL", 4),
)
_NAMES = {"reference": "Starting model", "ppo": "PPO"}
_POOLED = {"mean": "of mean toxicity", "std": "of std toxicity"}


def _grid(first: str, rows: Iterable[tuple[str, Any]], columns: Sequence[tuple[str, str, int]]) -> Table:
    """Return a table of those columns for which a row has a number."""
    rows = list(rows)
    there = [c for c in columns if any(number(lookup(row, c[1])) is not None for _, row in rows)]
    cells = tuple((name, *(decimal(lookup(row, key), digits) for _, key, digits in there)) for name, row in rows)
    return Table((first, *(title for title, *_ in there)), cells)


def baselines(results: Results) -> Table:
    rows = ((_NAMES.get(name) or initial(name), row) for name, row in (lookup(results, "baselines") or {}).items())
    return _grid("Method", rows, _BASELINE_COLUMNS)


def checkpoints(results: Results) -> Table:
    names = ((str(lookup(one, "name")), one) for one in lookup(results, "checkpoints") or [])
    rows = ((_NAMES.get(name) or name, one) for name, one in names)
    return _grid("Checkpoint", rows, _CHECKPOINT_COLUMNS)


def alarms(results: Results) -> str:
    """Name the alarms of each checkpoint, whose own report has the sentences; empty if there are none."""
    found = ((lookup(one, "name"), lookup(one, "alarms")) for one in lookup(results, "checkpoints") or [])
    told = [f"{printable(name)} ({printable(', '.join(map(str, names)))})" for name, names in found if names]
    return f"Alarms: {', '.join(told)}." if told else ""


def slices(results: Results) -> Table:
    """Return the change of mean toxicity in the parts of the dialogues that are large enough."""
    rows = []
    for name, part in (lookup(results, "slices") or {}).items():
        mean = lookup(part, "mean")
        if mean is not None:
            title, *figures = row(initial(name), mean)
            rows.append((title, str(lookup(part, "n")), *figures))
    return Table(("Slice", "n", *COLUMNS), tuple(rows))


def slice_notes(results: Results) -> list[str]:
    """Return why a slice has no figure, or no interval."""
    notes = []
    for name, part in (lookup(results, "slices") or {}).items():
        mean = lookup(part, "mean")
        if mean is None:
            notes.append(f"{initial(name)}: {lookup(part, 'note') or 'no figure'}.")
        elif lookup(mean, "note"):
            notes.append(f"{initial(name)}: {mean['note']}")
    return notes


def pooled(results: Results) -> Table:
    """Return how runs that differ by seed agree."""
    rows = [
        (
            _POOLED.get(key, key.replace("_", " ")),
            signed(fall(entry["average"])),
            fall_bounds((lookup(entry, "low"), lookup(entry, "high"))),
            signed(lookup(entry, "sd")).lstrip("+"),
        )
        for key, entry in (lookup(results, "pooled") or {}).items()
        if isinstance(entry, Mapping) and number(entry.get("average")) is not None
    ]
    return Table(("Change over runs", "Average", "Lowest and highest", "Std"), tuple(rows))


def power(results: Results) -> Table:
    """Return how many dialogues an effect needs."""
    rows = []
    for line in lookup(results, "power") or []:
        if lookup(line, "dialogues") is not None:
            effect = signed_decimal(fall(lookup(line, "difference")))
            needed = f"{line['dialogues']:,}{' or fewer' if line['dialogues'] == LEAST else ''}"
            rows.append((signed(fall(lookup(line, "reduction"))), effect, needed))
    return Table(("Change", "Of the mean", "Dialogues needed"), tuple(rows), labels=0)
