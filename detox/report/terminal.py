"""The report of an evaluation for a terminal: tables with numbers aligned, the verdict, the alarms."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from detox.report import headline, quality, toxicity
from detox.report.table import Table
from detox.stage.errors import printable
from detox.stage.figures import lookup

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


def table(results: Results) -> str:
    """Return the figures for a terminal, numbers aligned; plain ASCII where stdout is not UTF-8."""
    parts = {"": lookup(results, "toxicity"), ", judge": lookup(results, "independent_judge")}
    toxic, judged = (toxicity.reductions(part, suffix) for suffix, part in parts.items())
    lines = _columns(Table(toxic.columns, toxic.rows + judged.rows)) if toxic.rows or judged.rows else []
    wanted = (quality.rouge_l(results), "Length, words", "Empty", "Duplicate")
    figures = quality.table(results)
    rows = tuple(row for row in figures.rows if row[0] in wanted)
    lines += ["", *_columns(Table(figures.columns, rows))] if rows else []
    named = {name: entry for suffix, part in parts.items() for name, entry in toxicity.spread(part, suffix).items()}
    lines += ["", *map(printable, toxicity.notes(named)), f"{headline.headline(results)}."]
    lines += [printable(f"{level.upper()}: {sentence}") for level, _, sentence in headline.alarms(results)]
    if lookup(results, "baseline_note"):
        lines.append(printable(results["baseline_note"]))
    text = "\n".join(lines).strip("\n")
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("_", "-")
    return text if encoding in ("utf-8", "utf8") else text.encode("ascii", "replace").decode()


def _columns(grid: Table) -> list[str]:
    """Return the rows of a table, words to the left, numbers to the right, intervals to the left."""
    rows = [grid.columns, *grid.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(grid.columns))]
    sides = ["<" if i < grid.labels or title == "95% interval" else ">" for i, title in enumerate(grid.columns)]
    places = [f"{side}{width}" for side, width in zip(sides, widths, strict=True)]
    return ["   ".join(map(format, row, places)).rstrip() for row in rows]
