"""The three stages as processes of their own, and what a run leaves behind."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def stage(script: str, flags: Sequence[str]) -> float:
    """Run a stage in a process of its own; return its seconds."""
    print(shlex.join(["python", script, *flags]), file=sys.stderr, flush=True)
    started = time.perf_counter()
    result = subprocess.run([sys.executable, str(ROOT / script), *flags], stdout=subprocess.DEVNULL)
    if result.returncode:
        raise SystemExit(f"error: {script} failed with exit code {result.returncode}")
    return time.perf_counter() - started


def evaluated(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return results.json and the lines of examples.jsonl of the one evaluation in a run's folder."""
    written = list((run / "evaluation").glob("step-[0-9][0-9][0-9][0-9]/results.json"))
    assert len(written) == 1, written
    lines = (written[0].parent / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(written[0].read_text(encoding="utf-8")), [json.loads(line) for line in lines]


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of results.json by short names; a change is (after - before) / before."""
    changes = {
        f"{short}_{moment}": -found[key][moment]["reduction"]
        for short, key in (("toxicity", "toxicity"), ("judge", "independent_judge"))
        for moment in ("mean", "std")
    }
    sides = {}
    for side in ("before", "after"):
        sides[f"rougeL_{side}"] = found["rouge"]["rougeL"][side]
        sides[f"reward_{side}"] = found["reward"][side]
    return {**changes, **sides, "kl": found["drift"]["kl_per_summary"], "n": found["n"]}


BEFORE = (
    "--ppo.advantages gae --ppo.no-value-trust --ppo.value-refit 0 --ppo.whiten-memory 0 --ppo.schedule linear"
).split()
"""A value head learned by gradient descent and taken at its word, and a learning rate that was set by hand."""


def updates(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl of a run's updates, without those that were skipped."""
    lines = (run / "ppo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "skipped" not in entry]


def spread(values: Sequence[float | None], form: str) -> str:
    """Return the median over seeds and the range of a figure, in a format; what is None is left out."""
    found = [value for value in values if value is not None]
    if not found:
        return "none"
    low, middle, high = (form.format(f(found)) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"
