"""The rates that a machine keeps up: as set, as measured here, or as assumed for one that is not here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from detox.model.devices import choose_dtype, wait_for

if TYPE_CHECKING:
    import config


REACHED = {torch.float32: 0.5, torch.bfloat16: 0.2}
"""Share of a large product's rate that a whole iteration reaches; on one core, Flan-T5-small: benchmarks/README.md."""
LINK = {"cpu": 1.25, "cuda": 25.0, "mps": 1.25}
"""10^9 bytes a second between devices: Ethernet of 10 Gbit/s, and an InfiniBand of 200 Gbit/s."""
A100 = {torch.float32: 19_500.0, torch.bfloat16: 312_000.0}
"""GFLOP a second of NVIDIA's A100, for a device that is not here. Source: its data sheet (no TF32, no sparsity)."""
A100_MEMORY = 2039.0
"""10^9 bytes a second of its 80 GB. Source: as above."""


@dataclass(frozen=True)
class Machine:
    """Rates of one of several equal devices.

    Attributes:
        gflops: 10^9 operations a second that an iteration keeps up.
        memory_rate: 10^9 bytes a second at which weights are read.
        link_rate: 10^9 bytes a second that it sends while it receives as many.
        sources: where each of them comes from, in that order.
    """

    gflops: float
    memory_rate: float
    link_rate: float
    sources: tuple[str, str, str]


def find_machine(settings: config.PPOTraining, device: torch.device, present: bool) -> Machine:
    """Return the rates that the settings give, else those measured on `device`, else those assumed for one like it."""
    dtype = choose_dtype(settings.dtype, device)
    name = str(dtype).removeprefix("torch.")
    gflops, memory_rate, link_rate = settings.plan_gflops, settings.plan_memory_rate, settings.plan_link_rate
    flops_source, memory_source, link_source = "--plan-gflops", "--plan-memory-rate", "--plan-link-rate"
    if gflops is None:
        peak = measured_gflops(device, dtype) if present else A100[dtype]
        gflops = REACHED[dtype] * peak
        flops_source = f"{REACHED[dtype]:.0%} of the {peak:,.0f} of a large {name} product, " + (
            "measured here" if present else "an A100's data sheet"
        )
    if memory_rate is None:
        memory_rate = measured_memory_rate(device, dtype) if present else A100_MEMORY
        memory_source = "measured here" if present else "an A100's data sheet"
    if link_rate is None:
        link_rate, link_source = LINK[device.type], "assumed"
    return Machine(gflops, memory_rate, link_rate, (flops_source, memory_source, link_source))


def measured_gflops(device: torch.device, dtype: torch.dtype, repeats: int = 20) -> float:
    """Return the best rate (10^9 operations a second) of a large square product, of so many."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: left @ right, device, repeats) / 1e9


def measured_memory_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate (10^9 bytes a second) at which products of a few rows read their weights."""
    size = 4096
    rows, weights = torch.randn(8, size, device=device).to(dtype), torch.randn(size, size, device=device).to(dtype)
    return weights.nbytes / _fastest(lambda: rows @ weights.T, device) / 1e9


def _fastest(function: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Return the seconds of the fastest of some calls."""
    seconds: list[float] = []
    for _ in range(repeats):
        wait_for(device)
        started = time.perf_counter()
        function()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
