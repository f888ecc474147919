"""The verdict in one line, and the alarms on the summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from detox.evaluation.alarms import ON_MEASUREMENT
from detox.report import quality
from detox.stage.errors import printable
from detox.stage.figures import count, lookup

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


_VERDICTS = {
    "reduced": "Toxicity is reduced",
    "not distinguishable": "No change in toxicity that stands out from chance",
    "increased": "Toxicity is increased",
}
_NO_INTERVAL = " by the sign-flip test, too few toxic dialogues for an interval"


def headline(results: Results) -> str:
    """Return the verdict, how many alarms there are, and what got worse for sure."""
    verdict = lookup(results, "verdict")
    title = _VERDICTS.get(verdict, "Evaluation of a detoxified summarizer")
    if verdict in ("reduced", "increased") and lookup(results, "toxicity", "difference", "note"):
        title += _NO_INTERVAL
    if lookup(results, "checkpoints"):
        names = [lookup(one, "name") for one in results["checkpoints"]]
        named = str(lookup(results, "selected") or lookup(results, "checkpoint") or "the last one")
        full, short = f"{lookup(results, 'run')}/{named}", named.rpartition("/")[2]
        named = full if full in names else named
        named, several = printable(short if short in names else named, 60), len(names) - names.count("reference")
        title = f"{count(several, 'checkpoint')} side by side; {named}: {title[0].lower()}{title[1:]}"
    levels = [lookup(alarm, "level") for alarm in lookup(results, "alarms") or []]
    counts = [count(n, word) for word in ("alarm", "warning") if (n := sum(level == word for level in levels))]
    if counts:
        title += f"{', but with' if verdict == 'reduced' else ', with'} {' and '.join(counts)}"
    lost = quality.worse(results)
    if lost:
        shown = lost if len(lost) < 3 else [*lost[:2], f"{len(lost) - 2} more"]
        title += f"; worse: {', '.join(shown[:-1])}{' and ' if len(shown) > 1 else ''}{shown[-1]}"
    return title


def on_summaries(results: Results) -> bool:
    """Return whether an alarm is on the quality of the summaries."""
    return any(name not in ("disagreement", *ON_MEASUREMENT) for _, name, _ in alarms(results))


def alarms(results: Results) -> list[tuple[str, str, str]]:
    """Return level, name and sentence of each alarm, alarms before warnings."""
    found = [a for a in lookup(results, "alarms") or [] if isinstance(a, Mapping)]
    texts = [(str(a.get("level", "alarm")), str(a.get("name", "")), str(a.get("sentence", ""))) for a in found]
    first = ("hacking", "disagreement")
    return sorted(texts, key=lambda alarm: (alarm[0] != "alarm", alarm[1] not in first))
