"""Does the default preset learn on a summarizer, corpus and classifier that nobody tuned for?

Makes the worlds of benchmarks/worlds.py where they are not there yet, and runs the three stages on each with `--preset
flan-t5`, whose own PPO settings stay as they are; what a world has of its own are its models, dialogues, labels and
length of summaries. Everything is in float32, so that it does not matter whether the processor has bfloat16. A run
that stands in --output with the same settings is not repeated: name another file after changes of the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from benchmarks import stages, worlds  # noqa: E402
from detox.stage import parsing  # noqa: E402
from detox.stage.files import write_atomic  # noqa: E402

SETTINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "before": (*stages.BEFORE, "--ppo.learning-rate", "2e-4", "--ppo.value-warmup", "128"),
    "by-hand": ("--ppo.schedule", "linear", "--ppo.learning-rate", "1.5e-3", "--ppo.kl-coef", "0.05"),
}
"""Flags of training_ppo.py beside the preset's own."""

COLUMNS = (
    ("toxicity, mean", "toxicity_mean", "{:+.0%}"),
    ("std", "toxicity_std", "{:+.0%}"),
    ("judge, mean", "judge_mean", "{:+.0%}"),
    ("judge, std", "judge_std", "{:+.0%}"),
    ("ROUGE-L before", "rougeL_before", "{:.3f}"),
    ("after", "rougeL_after", "{:.3f}"),
    ("KL, nats a summary", "kl", "{:.2f}"),
    ("`approx_kl`, first update", "approx_kl_first", "{:.4f}"),
    ("last", "approx_kl_last", "{:.4f}"),
    ("rate, first update", "rate_first", "{:.1e}"),
    ("last", "rate_last", "{:.1e}"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One world, choice of settings and seed."""

    world: worlds.World
    settings: str
    seed: int

    def flags(self, arguments: argparse.Namespace) -> dict[str, list[str]]:
        """Return the flags of each stage."""
        made = arguments.worlds / self.world.name
        base = ["--model.base", str(made / "summarizer")]
        machine = ["--threads", "1", "--device", "cpu", "--dtype", "float32"]
        common = ["--preset", "flan-t5", "--seed", str(self.seed), "--checkpoints", str(arguments.checkpoints)]
        common += ["--run", f"{self.world.name}-{self.settings}-{self.seed}", "--overwrite"]
        length = str(self.world.new_tokens)
        training = ["--reward.model", str(made / "classifier"), "--rollout.max-new-tokens", length]
        evaluation = ["--toxicity.model", str(made / "classifier"), "--judge.model", str(made / "judge")]
        evaluation += ["--evaluation.max-new-tokens", length, "--evaluation.best-of", "0"]
        evaluation += ["--evaluation.examples", str(arguments.examples)]
        evaluation += ["--evaluation.samples", str(arguments.samples)]
        return {
            "data_preparation.py": [*common, *base, "--data.dataset", str(made / "dialogues")],
            "training_ppo.py": [*common, *base, *machine, *training, *SETTINGS[self.settings]],
            "evaluate_ppo.py": [*common, *machine, *evaluation],
        }

    def key(self, arguments: argparse.Namespace, recipe: str) -> dict[str, Any]:
        """Return what tells this run from others: names, the world's recipe and all settings of PPO as they resolve."""
        training = parsing.parse(config.PPOTraining, self.flags(arguments)["training_ppo.py"])
        return {
            "world": self.world.name,
            "settings": self.settings,
            "seed": self.seed,
            "recipe": recipe,
            "ppo": dataclasses.asdict(training.ppo),
            "engine": [training.engine, training.dtype],
            "examples": arguments.examples,
            "samples": arguments.samples,
        }

    def measure(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Run the three stages; return the figures."""
        seconds = {}
        for script, flags in self.flags(arguments).items():
            seconds[script] = stages.stage(script, flags)
        folder = arguments.checkpoints / f"{self.world.name}-{self.settings}-{self.seed}"
        found, _ = stages.evaluated(folder)
        updates = stages.updates(folder)
        moved = {
            f"{short}_{moment}": entry[key]
            for short, key in (("approx_kl", "ppo/policy/approx_kl"), ("rate", "ppo/learning_rate"))
            for moment, entry in (("first", updates[0]), ("last", updates[-1]))
        }
        return {**stages.figures(found), **moved, "training_seconds": seconds["training_ppo.py"]}


def measure(runs: Sequence[Run], recipes: dict[str, str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what the output does not hold yet, writing each run down as it ends; return all that was asked for."""
    output: Path = arguments.output
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    lock = threading.Lock()
    keys = [json.loads(json.dumps(run.key(arguments, recipes[run.world.name]))) for run in runs]

    def one(run: Run, key: dict[str, Any]) -> dict[str, Any]:
        with lock:
            for entry in known:
                if entry["key"] == key:
                    return entry
        entry = {"key": key, "figures": run.measure(arguments)}
        with lock:
            known.append(entry)
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(output, json.dumps(known, indent=1) + "\n")
        return entry

    pool = ThreadPoolExecutor(arguments.jobs)
    try:
        return list(pool.map(one, runs, keys))
    finally:
        pool.shutdown(cancel_futures=True)


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table: a line a seed and one with the median over seeds and the range, for each settings."""
    lines = [
        "| world, settings | seed | " + " | ".join(title for title, *_ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["key"]["world"], entry["key"]["settings"]), []).append(entry)
    for (world, settings), members in groups.items():
        for entry in members:
            cells = [form.format(entry["figures"][name]) for _, name, form in COLUMNS]
            lines.append(f"| {world}, {settings} | {entry['key']['seed']} | " + " | ".join(cells) + " |")
        if len(members) > 1:
            cells = [stages.spread([entry["figures"][name] for entry in members], form) for _, name, form in COLUMNS]
            lines.append(f"| {world}, {settings} | median (range) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = ROOT / "checkpoints" / "unseen"
    parser.add_argument("--only", nargs="+", choices=tuple(worlds.WORLDS), default=tuple(worlds.WORLDS), help="worlds")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=("default",))
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--examples", type=int, default=300, help="test dialogues (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="summaries a dialogue (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a thread each (default: %(default)s)")
    parser.add_argument("--worlds", type=Path, default=place / "worlds", help="where the worlds are kept")
    parser.add_argument("--checkpoints", type=Path, default=place / "runs", help="where the runs go")
    parser.add_argument("--output", type=Path, default=place / "results.json", help="all figures, as they come")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    worlds.torch.set_num_threads(1)
    chosen = [worlds.WORLDS[name] for name in arguments.only]
    made = [worlds.make(world, arguments.worlds) for world in chosen]
    recipes = {found["name"]: found["recipe"] for found in made}
    runs = [Run(world, name, seed) for world in chosen for name in arguments.settings for seed in arguments.seeds]
    print(worlds.table(made), end="\n\n")
    print(table(measure(runs, recipes, arguments)))


if __name__ == "__main__":
    main()
