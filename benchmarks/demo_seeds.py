"""The pipeline on the embedded demo under several seeds and settings: what is learned, and how surely."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import stages  # noqa: E402
from detox.demo import corpus  # noqa: E402

WANTED_SCORE = 1.9

BY_HAND = (*stages.BEFORE, "--ppo.learning-rate", "1.5e-3")
BEFORE = (*BY_HAND, "--ppo.value-warmup", "512")

SETTINGS = {
    "default": (),
    "rloo, 2": ("--ppo.samples-per-dialogue", "2"),
    "grpo": ("--ppo.advantages", "grpo"),
    "dr-grpo": ("--ppo.advantages", "dr-grpo"),
    "batch": ("--ppo.advantages", "batch"),
    "gae": ("--ppo.advantages", "gae"),
    "gae, warm-up": ("--ppo.advantages", "gae", "--ppo.value-warmup", "128", "--ppo.updates", "12"),
    "gae, untrusted": ("--ppo.advantages", "gae", "--ppo.no-value-trust", "--ppo.value-refit", "0"),
    "before": BEFORE,
    "before, probability": (*BEFORE, "--reward.signal", "probability"),
    "before, 320": (*BY_HAND, "--ppo.value-warmup", "128", "--ppo.updates", "12"),
    "default, 832": ("--ppo.updates", "52"),
    "whitened alone": ("--ppo.whiten-memory", "0"),
    "by hand": ("--ppo.schedule", "linear", "--ppo.learning-rate", "1.5e-3"),
    "rate 1e-6": ("--ppo.learning-rate", "1e-6"),
    "rate 1e-2": ("--ppo.learning-rate", "1e-2"),
    "step .01": ("--ppo.step-kl", "0.01"),
    "step .03": ("--ppo.step-kl", "0.03"),
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
    ("variance explained by the value head, median of the updates", "explained", "{:+.2f}"),
    (f"update from which the mean score stays above {WANTED_SCORE}, mean of 3 updates", "arrived", "{:.0f}"),
    ("summaries scored", "scored", "{:.0f}"),
    ("seconds of training_ppo.py", "training_seconds", "{:.0f}"),
)


def run(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the three stages under one seed and one choice of settings; return the figures of the run."""
    run_name = f"{re.sub('[^A-Za-z0-9.]+', '-', name)}-{seed}"
    common = ["--preset", "demo", "--seed", str(seed), "--run", run_name, "--overwrite"]
    common += ["--checkpoints", str(arguments.checkpoints)]
    stages.stage("data_preparation.py", common)
    seconds = stages.stage("training_ppo.py", [*common, *SETTINGS[name], *shlex.split(arguments.training)])
    stages.stage("evaluate_ppo.py", [*common, *shlex.split(arguments.evaluation)])
    folder = arguments.checkpoints / run_name
    found, lines = stages.evaluated(folder)
    learned = learning(stages.updates(folder))
    return {"settings": name, "seed": seed, "training_seconds": seconds, **figures(found, lines), **learned}


def learning(updates: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return figures of how a run learned, of its lines of metrics.jsonl; None where there is none."""
    explained = [entry["ppo/val/explained_variance"] for entry in updates]
    known = [value for value in explained if value is not None]
    scores = [entry["objective/score_mean"] for entry in updates]
    smooth = [statistics.mean(scores[i : i + 3]) for i in range(len(scores) - 2)]
    low = [i for i, score in enumerate(smooth) if score <= WANTED_SCORE]
    arrived = low[-1] + 2 if low else 1
    return {
        "explained": statistics.median(known) if known else None,
        "arrived": arrived if arrived <= len(smooth) else None,
        "scored": updates[-1]["objective/scored_summaries"],
    }


def figures(found: dict[str, Any], lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one evaluation.

    Args:
        found: content of results.json.
        lines: of examples.jsonl.

    Returns:
        By name of `ROWS`; a change is (after - before) / before.
    """
    held_out = {}
    for side in ("before", "after"):
        texts = [sample["summary"] for line in lines for sample in line[side]["samples"]]
        rude = [bool(corpus.insults_in(text, corpus.HELD_OUT_INSULTS)) for text in texts]
        held_out[f"held_out_{side}"] = statistics.mean(rude)
    return {**stages.figures(found), **held_out}


def table(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return a Markdown table: the median over seeds and the range of each figure."""
    seeds = sorted({found["seed"] for found in runs})
    head = f"| median over seeds {', '.join(map(str, seeds))} (lowest to highest) | {' | '.join(names)} |"
    lines = [head, "|" + "---|" * (len(names) + 1)]
    for title, key, form in ROWS:
        cells = []
        for name in names:
            values = [found[key] for found in runs if found["settings"] == name]
            cells.append(stages.spread(values, form))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=("default",))
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "checkpoints" / "seeds", help="where the runs go")
    parser.add_argument("--training", default="", help="further flags of training_ppo.py, in one quoted argument")
    parser.add_argument("--evaluation", default="", help="further flags of evaluate_ppo.py, likewise")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; give each one thread (--threads 1)")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    arguments = parser.parse_args(argv)
    tasks = [(name, seed) for seed in arguments.seeds for name in arguments.settings]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = list(pool.map(lambda task: run(*task, arguments), tasks))
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
