"""metrics.jsonl: one JSON object an update, append-only; and the line that a person reads."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detox.ppo import diagnostics
from detox.stage.files import write_atomic


class MetricsLog:
    """The metrics of a run.

    Args:
        path: the file; is written anew. None keeps the lines in memory alone.
        lines: of the updates before, as the checkpoint has them that the run goes on from. The file itself is not
            read: a killed process may have left half a line there, and lines of updates that are done again.
    """

    def __init__(self, path: Path | None, lines: Sequence[Mapping[str, Any]] = ()):
        self.path = path
        self.lines: list[dict[str, Any]] = [dict(line) for line in lines]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in self.lines))

    def append(self, entry: Mapping[str, Any]) -> list[str]:
        """Add the line of one update, where numbers that are not finite become null; return what there is to warn of.

        The kinds of these warnings stand in the line as `warnings`.
        """
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        self.lines.append(clean)
        warnings = diagnostics.warnings(self.lines)
        if warnings:
            clean["warnings"] = list(warnings)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(clean) + "\n")
        return list(warnings.values())


def objective(entries: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean over updates of what PPO maximises: score less KL penalty; minus infinity without one.

    The KL is the k1 estimate, as in the penalty by default; one unlikely token would decide by k3.
    """
    values = [
        entry["objective/score_mean"] - entry["objective/kl_coef"] * entry["objective/ref_kl_k1"]
        for entry in entries
        if "skipped" not in entry
    ]
    return sum(values) / len(values) if values else -math.inf


def note_best(progress: dict[str, Any], entries: Sequence[Mapping[str, Any]], every: int, updates: int) -> None:
    """Note the last update as the best so far if the objective on the way to it is higher than any before.

    Args:
        progress: takes the note.
        entries: of all updates so far.
        every: updates from one checkpoint to the next; one in between, of an interruption, does not count, so that
            interruptions change nothing.
        updates: of the whole run.
    """
    update = len(entries)
    if update % every and update != updates:
        return
    value = objective(entries[(update - 1) // every * every :])
    if progress["best"] is None or value > progress["best_objective"]:
        progress["best"], progress["best_objective"] = update, value


def summary(entry: Mapping[str, Any], updates: int) -> str:
    """Return what is to be told of one update, in lines of at most 80 columns."""
    place = f"update {entry['update']:>{len(str(updates))}}/{updates}"
    if "skipped" in entry:
        return f"{place}  skipped: {entry['skipped']}"
    parts = [
        place,
        f"score {entry['objective/score_mean']:+.2f}",
        f"KL {round(entry['objective/ref_kl_k1'], 2) + 0.0:.2f}",  # no -0.00
        f"moved {entry.get('ppo/policy/step_kl', entry['ppo/policy/approx_kl']):.4f}",
        f"rate {entry['ppo/learning_rate']:.1e}",
        f"clip {entry['ppo/policy/clip_fraction']:.0%}",
    ]
    explained = entry["ppo/val/explained_variance"]
    if explained is not None:
        parts.append(f"critic explains {explained:.0%}, trusted {entry['ppo/val/trust']:.0%}")
    parts += [f"{entry['time/total']:.1f} s"]
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 2 > 80:
            lines.append(" " * len(place))
        lines[-1] += f"  {part}"
    if "collapse" in entry:
        lines += textwrap.wrap(f"warning: update {entry['update']}: {entry['collapse']}", 80)
    return "\n".join(lines)
