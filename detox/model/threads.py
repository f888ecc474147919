"""Threads that torch computes with on the CPU: as many as the model and the machine have use for, when a stage starts.

Threads of one product wait for each other. Where another process holds one of the cores, all wait for the thread that
shares it, at every product: then fewer threads are faster, by a factor of two and more.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detox.model.loading import read_config

NARROW = 256
"""A model whose hidden states are narrower than this gains nothing from a second thread."""
CLEARLY = 0.9
"""Fewer threads are taken if they need at most this share of the time."""
_ROWS, _PRODUCTS, _ROUNDS = 64, 8, 7
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def take(threads: int | None, device: torch.device, base: str, revision: str | None = None) -> None:
    """Let torch compute with so many threads; None takes what is fastest here and now.

    `OMP_NUM_THREADS` of the environment is obeyed. Rounding depends on the number, and a run that is gone on with
    keeps its own (detox/ppo/resume.py).

    Args:
        threads: as the setting gives them.
        device: the stage's; beside an accelerator, torch's own number stays.
        base: folder or hub name of the summarizer.
        revision: of the hub model.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(for_width(getattr(read_config(base, revision)[0], "hidden_size", None) or NARROW))


def for_width(width: int) -> int:
    """Return how many threads are fastest now for a model with hidden states of this width."""
    return 1 if width < NARROW else fastest(cores(), lambda tried: _measure(tried, width))


def describe(device: torch.device) -> str:
    """Return a phrase for people on the threads of a stage that runs on `device`; empty beside an accelerator."""
    count = torch.get_num_threads()
    return "" if device.type != "cpu" else ", 1 thread" if count == 1 else f", {count} threads"


def cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may use: what torch sees, its affinity, the limit of its control group."""
    count = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    try:
        most, period = map(int, quota.read_text().split())
    except (OSError, ValueError):  # another system, or "max": no limit
        return count
    return max(1, min(count, most // period))


def fastest(most: int, measure: Callable[[list[int]], list[float]]) -> int:
    """Return the largest number of threads, at most `most`, that none is clearly faster than.

    Args:
        most: number of cores.
        measure: returns what each of some numbers of threads needs, in seconds.
    """
    tried = sorted({most, max(most - 1, 1)} | {most >> shift for shift in range(most.bit_length())}, reverse=True)
    if len(tried) == 1:
        return most
    seconds = measure(tried)
    return next(count for count, need in zip(tried, seconds, strict=True) if CLEARLY * need < min(seconds))


def _measure(tried: list[int], width: int) -> list[float]:
    """Return the median seconds of some products of a model of this width; the numbers of threads take turns."""
    rows, weight = torch.ones(_ROWS, width), torch.ones(width, 4 * width)  # no draw of the run's generator
    seconds: dict[int, list[float]] = {count: [] for count in tried}
    for _ in range(1 + _ROUNDS):
        for count in tried:
            torch.set_num_threads(count)
            started = time.perf_counter()
            for _product in range(_PRODUCTS):
                torch.mm(rows, weight)
            seconds[count].append(time.perf_counter() - started)
    return [statistics.median(seconds[count][1:]) for count in tried]
