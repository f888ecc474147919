"""What a busy neighbour costs: an iteration and the demo's stages, quiet and beside other processes, in turn.

The neighbours are processes that compute without end, one by default. Each measurement is a process of its own, with
the threads that a stage takes by itself (`auto`), with one, and with as many as there are cores. An iteration is that
of `ppo_step.py` (`ours`); a stage's seconds are those of the whole process, imports and all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import ppo_step, stages  # noqa: E402

DEMO = {
    "demo, training": ("training_ppo.py", "--preset demo --overwrite"),
    "demo, evaluation": ("evaluate_ppo.py", "--preset demo --overwrite"),
}


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many other processes computing."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def iteration(threads: int, arguments: argparse.Namespace) -> float:
    """Return the seconds of one iteration with so many threads; 0 is what a stage takes by itself."""
    argv = ["--shape", arguments.shape, "--device", "cpu", "--threads", str(threads)]
    return ppo_step.start_child("ours", ppo_step.parse(argv))["seconds"]["total"]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything `repeats` times, in turn; return all that was measured."""
    os.environ.pop("OMP_NUM_THREADS", None)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        place = ["--checkpoints", folder, "--device", "cpu"]
        stages.stage("data_preparation.py", ["--preset", "demo", "--checkpoints", folder])
        for repeat in range(arguments.repeats):
            for busy in (0, arguments.neighbours):
                for name, threads in (("auto", 0), ("1", 1), ("all", os.cpu_count() or 1)):
                    own = ["--threads", str(threads)] if threads else []
                    with neighbours(busy):
                        seconds = {f"{arguments.shape}, iteration": iteration(threads, arguments)}
                        for title, (script, flags) in DEMO.items():
                            seconds[title] = stages.stage(script, [*flags.split(), *place, *own])
                    runs.append({"repeat": repeat, "neighbours": busy, "threads": name, "seconds": seconds})
                    said = ", ".join(f"{title} {value:.1f} s" for title, value in seconds.items())
                    print(f"turn {repeat + 1}, {busy} busy, {name}: {said}", file=sys.stderr, flush=True)
    return {"command": " ".join(["python", *sys.argv]), "machine": ppo_step.machine("cpu"), "runs": runs}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return medians by what was measured and how busy it was; `auto` against the better of the other two."""
    lines = [
        "| | busy neighbours | auto, s | 1 thread, s | all cores, s | auto / the better one |",
        "|---|---|---|---|---|---|",
    ]
    for title in runs[0]["seconds"]:
        for busy in dict.fromkeys(run["neighbours"] for run in runs):
            auto, one, every = (
                statistics.median(
                    run["seconds"][title] for run in runs if (run["neighbours"], run["threads"]) == (busy, name)
                )
                for name in ("auto", "1", "all")
            )
            cells = (title, busy, f"{auto:.1f}", f"{one:.1f}", f"{every:.1f}", f"{auto / min(one, every):.2f}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(ppo_step.SHAPES), default="small", help="of the iteration")
    parser.add_argument("--neighbours", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write everything that was measured to this JSON file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    found = measure(arguments)
    print(table(found["runs"]))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
