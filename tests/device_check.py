"""Tries everything on the real device of a machine with a GPU, or of a Mac: python -m tests.device_check

All stages on small models, on the device and on the CPU; the demo in float32 and bfloat16, with its evaluation; what
rounding makes of the first probability ratio; a PPO iteration's time and memory; with several GPUs, training with
sharded weights. Ends in a table, and in a JSON file with every figure. Takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
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
        Failed: it ends with another code than 0.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
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
        mine, its = (metrics(place / name / "checkpoints" / run)[0] for name in ("device", "cpu"))
        found[run] = {
            key: abs(mine[key] - its[key]) for key in ("objective/score_mean", "ppo/ratio_first", "ppo/grad_norm")
        }
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
    """Return mean and largest deviation of the first ratio, by dtype, at Flan-T5-base's shape."""
    found: Figures = {}
    for dtype in ("float32", "bfloat16"):
        out = program("benchmarks/ratio_check.py", "--child", dtype, "--device", device, "--new-tokens", "100")
        found[dtype] = json.loads(out.splitlines()[-1])["rounding"]
    return found


def iteration(device: str, place: Path) -> Figures:
    """Return seconds and memory of one PPO iteration of each variant."""
    output = place / "step.json"
    program("benchmarks/ppo_step.py", "--shape", "small", "--repeats", "3", "--output", str(output))
    summary = json.loads(output.read_text())["summary"]
    return {name: row for name, row in summary.items() if isinstance(row, dict)}


def sharded(device: str, place: Path) -> Figures:
    """Train the demo with its frozen blocks spread over all GPUs, and as one process; compare the metrics."""
    import torch

    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    if count < 2:
        return {"not run": "needs two GPUs"}
    flags = ["--preset", "demo", "--checkpoints", str(place), "--engine", "hf", "--ppo.updates", "3"]
    program("data_preparation.py", "--preset", "demo", "--checkpoints", str(place), "--run", "one")
    shutil.copytree(place / "one", place / "many")
    program("training_ppo.py", *flags, "--run", "one", "--device", "cuda:0")
    launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/fsdp.yaml", "--num_processes", "2"]
    program(*launch, "training_ppo.py", *flags, "--run", "many", "--device", "cuda")
    one, many = (metrics(place / name)[0] for name in ("one", "many"))
    return {key: abs(one[key] - many[key]) for key in ("objective/score_mean", "ppo/grad_norm", "ppo/ratio_first")}


CHECKS: dict[str, Callable[[str, Path], Figures]] = {
    "stages": stages,
    "demo float32": lambda device, place: demo(device, "float32", place),
    "demo bfloat16": lambda device, place: demo(device, "bfloat16", place),
    "rounding": rounding,
    "iteration": iteration,
    "sharded": sharded,
}


# ------------------------------------------------------------------------------------------------------------ main


def run(device: str, names: list[str]) -> list[Figures]:
    """Return a row for each check: how it came out, how long it took, and its figures."""
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            try:
                figures, outcome = CHECKS[name](device, Path(place)), "passed"
            except Failed as error:
                figures, outcome = {"why": str(error)}, "FAILED"
        outcome = "not run" if "not run" in figures else outcome
        rows.append({"check": name, "outcome": outcome, "seconds": time.perf_counter() - started, "figures": figures})
    return rows


def table(rows: list[Figures]) -> str:
    """Return Markdown."""
    lines = ["| check | | seconds | figures |", "|---|---|---|---|"]
    for row in rows:
        figures = ", ".join(f"{key} {_short(value)}" for key, value in row["figures"].items())
        lines.append(f"| {row['check']} | {row['outcome']} | {row['seconds']:.0f} | {figures} |")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key.rpartition('/')[2]} {_short(item)}" for key, item in value.items()) + ")"
    return f"{value:.3g}" if isinstance(value, float) else " ".join(str(value).split())


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return 1 if one has failed, and 2 where there is nothing to check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, cuda:N or mps; cpu tries the checks themselves")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--output", type=Path, default=Path("device-check.json"))
    arguments = parser.parse_args(argv)
    import torch

    from detox.model import devices

    device = str(devices.choose(arguments.device))
    if device == "cpu" and arguments.device == "auto":
        print("error: torch finds no GPU here; --device cpu tries the checks themselves", file=sys.stderr)
        return 2
    rows = run(device, arguments.only)
    found = {
        "device": device,
        "card": devices.name_of(torch.device(device)),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{found['card']}, torch {found['torch']}\n\n{table(rows)}\n\nwrote {arguments.output}")
    return int(any(row["outcome"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
