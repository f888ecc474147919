"""Data preparation of generated dialogues: is its cost linear in their number, and its memory bounded?

Each size runs data_preparation.py in a process of its own on one file of JSON lines, which is split by hash. The
dialogues are random common words, short ones, so that a million are done in minutes; no two are the same. CPU seconds
are those of all processes and do not count waiting for others; starting up (imports, the workers' too) is left out of
the seconds of the clock but is part of the workers' CPU seconds.

Memory is told twice. `peak RSS` holds the pages of the mapped Arrow files, which the system takes back when it needs
them; `peak heap` (RssAnon, Linux) is what the process itself holds, sampled 20 times a second.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402

SIZES = (1_000, 10_000, 100_000)
MILLION = 1_000_000
WORDS = (
    "the a and to is of in you he she it that was for on are with as they at be this have from or had by not".split()
)


def write_source(path: Path, count: int, turns: int, words: int) -> None:
    """Write that many dialogues of `turns` turns of `words` words, with a summary of as many words."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            lines = (f"#Person{1 + turn % 2}#: {' '.join(draw.choices(WORDS, k=words))}." for turn in range(turns))
            summary = " ".join(draw.choices(WORDS, k=words))
            record = {"id": f"talk_{number}", "dialogue": "\n".join(lines), "summary": summary, "topic": "words"}
            file.write(json.dumps(record) + "\n")


def measure_here(count: int, workers: int, turns: int, words: int) -> dict[str, Any]:
    """Prepare generated dialogues in this process; return what it took."""
    import data_preparation
    from detox.data import preparation
    from detox.stage import cli

    importlib.import_module("detox.model.loading")  # here, where its time does not count
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "dialogues.jsonl")
        write_source(source, count, turns, words)
        flags = ["--preset", "demo", "--data.dataset", str(source), "--data.workers", str(workers)]
        with redirect_stdout(io.StringIO()), heap_peak() as heap:
            started = time.perf_counter(), cpu_seconds()
            code = cli.run(config.Preparation, data_preparation.main, [*flags, "--checkpoints", place])
            seconds, cpu = time.perf_counter() - started[0], cpu_seconds() - started[1]
        assert code == 0, code
        manifest = json.loads(Path(place, "demo/prepared/manifest.json").read_text())
        return {
            "dialogues": count,
            "workers": workers,
            "kept": sum(manifest["counts"][f"{split}/kept"] for split in preparation.SPLITS),
            "source_mb": source.stat().st_size / 1e6,
            "prepared_mb": sum(file["bytes"] for file in manifest["files"]) / 1e6,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_rss_mb": manifest["peak_memory_mb"],
            "peak_heap_mb": heap[0],
            "heap_before_mb": heap[1],
        }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@contextmanager
def heap_peak() -> Iterator[list[float | None]]:
    """Yield a list that takes the peak of this process's anonymous memory, and what it was before, in MiB."""

    def heap() -> float | None:
        status = Path("/proc/self/status")
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(found[1]) / 1024 if found else None

    peak, done = [heap(), heap()], threading.Event()

    def watch() -> None:
        while peak[0] is not None and not done.wait(0.05):
            peak[0] = max(peak[0], heap())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure(count: int, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one size in a process of its own."""
    command = [sys.executable, __file__, "--turns", str(arguments.turns), "--words", str(arguments.words)]
    command += ["--child", str(count), str(workers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {count:,} dialogues with {workers} workers: exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    told = f"{count:,} dialogues, workers {workers}: {found['cpu_seconds']:.1f} CPU s, heap {found['peak_heap_mb']} MiB"
    print(told, file=sys.stderr, flush=True)
    return found


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table, a row a run."""
    lines = [
        "| dialogues | workers | seconds | CPU s | CPU ms a dialogue | peak heap, MiB | peak RSS, MiB | written, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        heap = "" if run["peak_heap_mb"] is None else f"{run['peak_heap_mb']:,.0f}"
        cells = [
            f"{run['dialogues']:,}",
            f"{run['workers']}",
            f"{run['seconds']:,.1f}",
            f"{run['cpu_seconds']:,.1f}",
            f"{1000 * run['cpu_seconds'] / run['dialogues']:.3f}",
            heap,
            f"{run['peak_rss_mb']:,.0f}",
            f"{run['prepared_mb']:,.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def linearity(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence a step from one size to the next: what one more dialogue costs, in time and in heap."""
    sentences = []
    for workers in sorted({run["workers"] for run in runs}):
        mine = sorted((run for run in runs if run["workers"] == workers), key=lambda run: run["dialogues"])
        for small, large in zip(mine, mine[1:]):
            more = large["dialogues"] - small["dialogues"]
            cost = 1e6 * (large["cpu_seconds"] - small["cpu_seconds"]) / more
            step = f"workers {workers}, {small['dialogues']:,} to {large['dialogues']:,}: {cost:.0f} CPU us a dialogue"
            if large["peak_heap_mb"] is not None:
                step += f", {(large['peak_heap_mb'] - small['peak_heap_mb']) * 2**20 / more:,.0f} bytes of heap"
            sentences.append(step)
    return sentences


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of dialogues")
    parser.add_argument("--million", action="store_true", help="a million too, with the first number of workers")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--turns", type=int, default=4, help="turns of a dialogue")
    parser.add_argument("--words", type=int, default=8, help="words of a turn, and of the summary")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        print(json.dumps(measure_here(*arguments.child, arguments.turns, arguments.words)))
        return
    cases = [(size, workers) for workers in arguments.workers for size in arguments.sizes]
    cases += [(MILLION, arguments.workers[0])] if arguments.million else []
    runs: list[dict[str, Any]] = []
    for case in cases:
        runs.append(measure(*case, arguments))
        if arguments.output:  # after each, since a million take their time
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            found = {"turns": arguments.turns, "words": arguments.words, "runs": runs}
            arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(table(runs))
    print("\n".join(["", *linearity(runs)]))


if __name__ == "__main__":
    main()
