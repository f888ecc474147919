"""The pipeline on the embedded demo under several seeds and settings: what is learned, and how surely."""

from __future__ import annotations

import argparse
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
sys.path.insert(0, str(ROOT))

from detox.demo import corpus  # noqa: E402

SETTINGS = {
    "default": (),
    "probability": ("--reward.signal", "probability"),
    "stock-like": ("--ppo.lora-scope", "all", "--ppo.lora-targets", "q,v", "--engine", "hf"),
    "all-lora": ("--ppo.lora-scope", "all", "--engine", "hf"),
    "hf": ("--engine", "hf"),
}
"""Flags of training_ppo.py; the preset `demo` is in float32 already."""

ROWS = (
    ("toxicity, mean", "toxicity_mean", "{:+.0%}"),
    ("toxicity, std", "toxicity_std", "{:+.0%}"),
    ("independent judge, mean", "judge_mean", "{:+.0%}"),
    ("independent judge, std", "judge_std", "{:+.0%}"),
    ("reward, before", "reward_before", "{:.2f}"),
    ("reward, after", "reward_after", "{:.2f}"),
    ("summaries with a held-out insult, before", "held_out_before", "{:.3f}"),
    ("summaries with a held-out insult, after", "held_out_after", "{:.3f}"),
    ("ROUGE-L, before", "rougeL_before", "{:.3f}"),
    ("ROUGE-L, after", "rougeL_after", "{:.3f}"),
    ("KL from the reference, nats a summary", "kl", "{:.2f}"),
    ("seconds of training_ppo.py", "training_seconds", "{:.0f}"),
)


def run(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the three stages under one seed and one choice of settings; return the figures of the run."""
    common = ["--preset", "demo", "--seed", str(seed), "--run", f"{name}-{seed}", "--overwrite"]
    common += ["--checkpoints", str(arguments.checkpoints)]
    stage("data_preparation.py", common)
    seconds = stage("training_ppo.py", [*common, *SETTINGS[name], *shlex.split(arguments.training)])
    stage("evaluate_ppo.py", [*common, *shlex.split(arguments.evaluation)])
    written = list(
        (arguments.checkpoints / f"{name}-{seed}" / "evaluation").glob("step-[0-9][0-9][0-9][0-9]/results.json")
    )
    assert len(written) == 1, written
    found = json.loads(written[0].read_text())
    lines = [json.loads(line) for line in (written[0].parent / "examples.jsonl").read_text().splitlines()]
    return {"settings": name, "seed": seed, "training_seconds": seconds, **figures(found, lines)}


def stage(script: str, flags: Sequence[str]) -> float:
    """Run a stage in a process of its own; return its seconds."""
    print(shlex.join(["python", script, *flags]), file=sys.stderr, flush=True)
    started = time.perf_counter()
    result = subprocess.run([sys.executable, str(ROOT / script), *flags], stdout=subprocess.DEVNULL)
    if result.returncode:
        raise SystemExit(f"error: {script} failed with exit code {result.returncode}")
    return time.perf_counter() - started


def figures(found: dict[str, Any], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one evaluation.

    Args:
        found: content of results.json.
        lines: of examples.jsonl.

    Returns:
        By name of `ROWS`; a change is (after - before) / before.
    """
    changes = {
        f"{short}_{moment}": -found[key][moment]["reduction"]
        for short, key in (("toxicity", "toxicity"), ("judge", "independent_judge"))
        for moment in ("mean", "std")
    }
    sides = {}
    for side in ("before", "after"):
        texts = [sample["summary"] for line in lines for sample in line[side]["samples"]]
        rude = [bool(corpus.insults_in(text, corpus.HELD_OUT_INSULTS)) for text in texts]
        sides[f"held_out_{side}"] = statistics.mean(rude)
        sides[f"rougeL_{side}"] = found["rouge"]["rougeL"][side]
        sides[f"reward_{side}"] = found["reward"][side]
    return {**changes, **sides, "kl": found["drift"]["kl_per_summary"], "n": found["n"]}


def table(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return a Markdown table: the median over seeds and the range of each figure."""
    seeds = sorted({found["seed"] for found in runs})
    head = f"| median over seeds {', '.join(map(str, seeds))} (lowest to highest) | {' | '.join(names)} |"
    lines = [head, "|" + "---|" * (len(names) + 1)]
    for title, key, form in ROWS:
        cells = []
        for name in names:
            values = [found[key] for found in runs if found["settings"] == name]
            cells.append(spread(values, form))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], form: str) -> str:
    """Return the median over seeds and the range of a figure, in a format."""
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=("default",))
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "checkpoints" / "seeds", help="where the runs go")
    parser.add_argument("--training", default="", help="further flags of training_ppo.py, in one quoted argument")
    parser.add_argument("--evaluation", default="", help="further flags of evaluate_ppo.py, likewise")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    arguments = parser.parse_args(argv)
    runs = [run(name, seed, arguments) for seed in arguments.seeds for name in arguments.settings]
    print(table(runs, arguments.settings))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: " ".join(SETTINGS[name]) for name in arguments.settings}
        found = {
            "settings": settings,
            "training": arguments.training,
            "evaluation": arguments.evaluation,
            "runs": runs,
        }
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
