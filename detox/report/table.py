"""A table as text, before it is HTML, Markdown or lines of a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detox.stage.figures import NOTHING, Form, decimal, lookup, number, signed_decimal


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `labels` columns are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1

    def without(self, column: int) -> Table:
        """Return the table without a column in which no row has a figure."""
        if any(row[column] != NOTHING for row in self.rows):
            return self

        def left(cells: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(cell for i, cell in enumerate(cells) if i != column % len(cells))

        return Table(left(self.columns), tuple(map(left, self.rows)), self.labels)


def sides(entry: Any, form: Form = decimal) -> tuple[str, str]:
    return form(lookup(entry, "before")), form(lookup(entry, "after"))


def change(entry: Any, form: Form = signed_decimal) -> str:
    """Return after - before."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    return NOTHING if before is None or after is None else form(after - before)
