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


def sides(entry: Any, form: Form = decimal) -> tuple[str, str]:
    return form(lookup(entry, "before")), form(lookup(entry, "after"))


def change(entry: Any, form: Form = signed_decimal) -> str:
    """Return after - before."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    return NOTHING if before is None or after is None else form(after - before)
