"""docs/detox.ipynb: runs from top to bottom, offline, and its committed outputs are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent.parent / "docs"
BOOK = nbformat.read(DOCS / "detox.ipynb", as_version=4)
EXACT = (
    "calls him a fussypants",
    "parameters are trained",
    "less likely under the bare base than under the starting model",
    "Toxicity is reduced",
)


def told(book) -> str:
    """Return all that its cells printed."""
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@pytest.fixture(scope="module")
def executed():
    book = nbformat.from_dict(BOOK)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(DOCS)}}).execute()
    return book


@pytest.mark.parametrize("sentence", EXACT)
def test_what_a_run_says_is_what_is_committed(executed, sentence):
    def lines(book):
        return [line for line in told(book).splitlines() if sentence in line]

    assert lines(BOOK) and lines(executed) == lines(BOOK)


def test_an_update_by_hand_moves_the_policy(executed):
    moved = [float(kl) for kl in re.findall(r"KL moved (\S+) nats", told(executed))]
    assert len(moved) == 4 and moved[0] == 0 and moved == sorted(moved) and moved[-1] > 0


def test_toxicity_falls(executed):
    before, after = map(float, re.search(r"demo:judge +mean toxicity (\S+) to (\S+);", told(executed)).groups())
    assert after < before / 2


def test_links_lead_somewhere():
    text = "\n".join(cell.source for cell in BOOK.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links and [link for link in links if not (DOCS / link).exists()] == []


def test_answers_are_folded_away():
    exercises = [cell.source for cell in BOOK.cells if cell.source.startswith("**Exercise.**")]
    assert len(exercises) >= 4 and all("<details>" in text for text in exercises)
