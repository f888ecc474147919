"""Tries everything on the real device of a machine with a GPU, or of a Mac: python -m tests.device_check

All stages on small models, on the device and on the CPU; the demo in float32 and bfloat16, with its evaluation; what
rounding makes of the first probability ratio; a PPO iteration's time and memory; with several GPUs, training with
sharded weights. Ends in a table, and in a JSON file with every figure, which is written after each check, so that what
was found before an interruption is kept. Takes minutes; on a CPU half an hour, most of it for the iteration.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Figures = dict[str, Any]


class Failed(Exception):
    """A check did not come out as it must; says how."""


def program(*command: str, cwd: Path = ROOT, timeout: int = 3600) -> str:
    """Return what a Python program of the project prints.

    Raises:
        Failed: it ends with another code than 0, or doesn't end.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:3])}: no end after {timeout} s") from None
    if done.returncode:
        raise Failed(f"{' '.join(command[:3])}: code {done.returncode}: {done.stderr.strip()[-1500:]}")
    return done.stdout


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "ppo/metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------ the checks


def stages(device: str, place: Path) -> Figures:
    """Run every stage of small models on the device and on the CPU; say how far apart the first updates are."""
    from tests.devices import world

    aside = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
        warnings.simplefilter("ignore")
        world.make(place / "device")
    shutil.copytree(place / "device", place / "cpu")
    for name, told in (("device", device), ("cpu", "cpu")):
        commands = [json.dumps(command) for command in world.commands(told, told)]
        out = program("-m", "tests.devices.stages", "as-it-is", *commands, cwd=place / name)
        codes = json.loads(out.splitlines()[-1])
        if set(codes) != {0}:
            raise Failed(f"exit codes on {told}: {codes}")
    found: Figures = {}
    for run in world.RUNS:
        found[run] = apart(*(metrics(place / name / "checkpoints" / run)[0] for name in ("device", "cpu")))
    return found


def demo(device: str, dtype: str, place: Path) -> Figures:
    """Run the demo; return what it learned and how long it took."""
    shared = ["--preset", "demo", "--checkpoints", str(place)]
    ran = [*shared, "--device", device, "--dtype", dtype]
    program("data_preparation.py", *shared)
    started = time.perf_counter()
    program("training_ppo.py", *ran)
    trained = time.perf_counter()
    program("evaluate_ppo.py", *ran)
    lines = metrics(place / "demo")
    results = json.loads(next((place / "demo/evaluation").glob("step-*/results.json")).read_text())
    if results["verdict"] != "reduced":
        raise Failed(f"the demo's verdict is {results['verdict']!r}")
    return {
        "toxicity_reduction": results["toxicity"]["mean"]["reduction"],
        "rouge_l_after": results["rouge"]["rougeL"]["after"],
        "ratio_first": lines[0]["ppo/ratio_first"],
        "training_seconds": trained - started,
        "evaluation_seconds": time.perf_counter() - trained,
        "peak_memory_mb": max(line["memory/peak_mb"] for line in lines),
    }


def rounding(device: str, place: Path) -> Figures:
    """Return how far the first ratio is off 1 at Flan-T5-base's shape, by dtype, as the trainer checks it or not."""
    names = ("mean", "largest", "mean in other company", "largest in other company")
    found: Figures = {}
    for dtype in ("float32", "bfloat16"):
        out = program("benchmarks/ratio_check.py", "--child", dtype, "--device", device, "--new-tokens", "100")
        found[dtype] = dict(zip(names, json.loads(out.splitlines()[-1])["rounding"], strict=True))
    return found


def iteration(device: str, place: Path) -> Figures:
    """Return seconds and memory of one PPO iteration of each variant, and how many times as fast as stock TRL it is."""
    output = place / "step.json"
    command = ("benchmarks/ppo_step.py", "--shape", "small", "--repeats", "3", "--device", device)
    program(*command, "--output", str(output), timeout=3 * 3600)
    measured = json.loads(output.read_text())
    found: Figures = {"everything": measured}
    for name in measured["settings"]["variants"]:
        row = measured["summary"][name]
        found[name] = {"seconds": row["seconds"]["total"], "times_as_fast_as_trl": row["times_as_fast_as_trl"]}
        found[name] |= {key: row[key] for key in ("peak_rss_mb", "peak_device_mb") if row[key]}
    return found


def sharded(device: str, place: Path) -> Figures:
    """Train the demo with its frozen blocks spread over two devices, and as one process; compare the first updates."""
    import torch

    kind, _, _ = device.partition(":")
    if kind != "cpu" and (kind != "cuda" or torch.cuda.device_count() < 2):
        return {"not run": "needs two GPUs"}
    flags = ["--preset", "demo", "--checkpoints", str(place), "--engine", "hf", "--ppo.updates", "3"]
    program("data_preparation.py", "--preset", "demo", "--checkpoints", str(place), "--run", "one")
    shutil.copytree(place / "one", place / "many")
    program("training_ppo.py", *flags, "--run", "one", "--device", device)
    launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/fsdp.yaml", "--num_processes", "2"]
    program(*launch, "training_ppo.py", *flags, "--run", "many", "--device", kind)
    return apart(*(metrics(place / name)[0] for name in ("many", "one")))


def apart(mine: Figures, its: Figures) -> Figures:
    """Return how far apart two runs' first updates are."""
    return {key: abs(mine[key] - its[key]) for key in ("objective/score_mean", "ppo/ratio_first", "ppo/grad_norm")}


CHECKS: dict[str, Callable[[str, Path], Figures]] = {
    "stages": stages,
    "demo float32": lambda device, place: demo(device, "float32", place),
    "demo bfloat16": lambda device, place: demo(device, "bfloat16", place),
    "rounding": rounding,
    "iteration": iteration,
    "sharded": sharded,
}
ABOUT = {
    "stages": "the first update, less the CPU's",
    "rounding": "abs(ratio - 1) in the first minibatch",
    "iteration": "Flan-T5-small's shape, batch 16, medians of 3 turns",
    "sharded": "the first update, less that of one process",
}


# ------------------------------------------------------------------------------------------------------------ main


def row_of(name: str, device: str) -> Figures:
    """Run a check; return how it came out, how long it took, and its figures."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        try:
            figures = CHECKS[name](device, Path(place))
            outcome = "not run" if "not run" in figures else "passed"
        except Failed as error:
            figures, outcome = {"why": str(error)}, "FAILED"
        except Exception as error:  # whatever a device comes up with, the other checks are worth having
            figures, outcome = {"why": f"{type(error).__name__}: {error}", "where": traceback.format_exc()}, "FAILED"
    return {"check": name, "outcome": outcome, "seconds": time.perf_counter() - started, "figures": figures}


def table(rows: list[Figures]) -> str:
    """Return Markdown: a line for each check, and one for each of its parts that has figures of its own."""
    lines = ["| check | | seconds | figures |", "|---|---|---|---|"]
    for row in rows:
        figures = {key: value for key, value in row["figures"].items() if key not in ("everything", "where")}
        parts = {key: value for key, value in figures.items() if isinstance(value, dict)}
        about = [ABOUT[row["check"]]] if row["outcome"] == "passed" and row["check"] in ABOUT else []
        own = _listed({key: value for key, value in figures.items() if key not in parts})
        said = ": ".join([*about, *own])
        lines.append(f"| {row['check']} | {row['outcome']} | {row['seconds']:.0f} | {said} |")
        lines += [f"| - {part} | | | {_listed(values)[0]} |" for part, values in parts.items()]
    return "\n".join(lines)


def _listed(figures: Figures) -> list[str]:
    """Return figures one after the other in one text, or nothing where there are none."""
    texts = [f"{key.rpartition('/')[2]} {_short(value)}" for key, value in figures.items()]
    return [", ".join(texts)] if texts else []


def _short(value: Any) -> str:
    """Return a number in few digits, and of a program's last words the last, in one line that no cell breaks."""
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return " ".join(str(value).split())[-300:].replace("|", "/")


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return 1 if one has failed, and 2 where there is nothing to check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, cuda:N or mps; cpu tries the checks themselves")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--output", type=Path, default=Path("device-check.json"))
    arguments = parser.parse_args(argv)
    import torch

    from detox.model import devices
    from detox.stage import versions
    from detox.stage.errors import UserError

    try:
        device = str(devices.choose(arguments.device))
        if device == "cpu" and arguments.device == "auto":
            raise UserError("torch finds no GPU here; --device cpu tries the checks themselves")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[Figures] = []
    found = {
        "device": device,
        "card": devices.name_of(torch.device(device)),
        "machine": platform.platform(),
        "versions": versions.installed(),
        "git_rev": versions.git_rev(),
        "rows": rows,
    }
    for name in [None, *arguments.only]:  # before the first, so that a file that can't be written costs no check
        rows += [row_of(name, device)] if name else []
        try:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"error: --output={arguments.output}: {error.strerror}", file=sys.stderr)
            return 2
    print(f"\n{found['card']}, torch {torch.__version__}\n\n{table(rows)}\n\nwrote {arguments.output}")
    return int(any(row["outcome"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
