"""The report of an evaluation as one HTML page, and as Markdown with pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detox.report import templating
from detox.report.examples import Example
from detox.report.plots import drawings

if TYPE_CHECKING:
    from detox.evaluation.summaries import Results


def html(results: Results, examples: Sequence[Example]) -> str:
    """Return the report as one page that loads nothing.

    Args:
        results: the contents of results.json; sections whose keys are missing are left out.
        examples: the lines of examples.jsonl.
    """
    return templating.to_html("report.html", **_values(results, examples))


def markdown(results: Results, examples: Sequence[Example]) -> str:
    """Return the report as Markdown, with the PNGs of `plots` beside it.

    Args:
        results: the contents of results.json; sections whose keys are missing are left out.
        examples: the lines of examples.jsonl.
    """
    return templating.to_markdown("report.md", **_values(results, examples))


def _values(results: Results, examples: Sequence[Example]) -> dict[str, Any]:
    return {"results": results, "lines": examples, "drawings": drawings(results, examples)}
