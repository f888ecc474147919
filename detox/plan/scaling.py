"""How long an update takes on several devices, and what they exchange: arithmetic, and the rates it stands on.

The batch stays as it is, and each device takes its share of the prompts and of every minibatch.

- compute: useful work (`detox.work`) over the rate that a device keeps up; a step of sampling takes at least as
  long as reading the decoder's weights and the caches once, which more devices don't shorten.
- gradients: those of all that is trained, in float32, summed over the devices once an optimizer step. A ring
  moves 2 (N - 1) / N of them through each device, in 2 (N - 1) steps; as many gather a few statistics.
- weights, where they are sharded (`detox.sharding`): before each pass through a block, forward or backward, a device
  fetches the (N - 1) / N that it does not hold; one token of sampling is one pass through the decoder.

An exchange takes bytes over bandwidth, and a latency a step. Nothing is hidden behind computing, and prompts of
unlike length keep no device waiting: the first makes the estimate too long, the second too short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from detox.model.devices import choose_dtype, wait_for
from detox.plan import memory
from detox.plan.sizes import ClassifierSizes, Sizes
from detox.plan.work import useful_gflop

if TYPE_CHECKING:
    import config


REACHED = {torch.float32: 0.5, torch.bfloat16: 0.2}
"""Share of a large product's rate that a whole iteration reaches; on one core, Flan-T5-small: benchmarks/README.md."""
LATENCY = 5e-5
"""Seconds that a step of an exchange takes at least."""
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


@dataclass(frozen=True)
class Estimate:
    """One update on several devices.

    Attributes:
        compute: seconds of each device.
        gradient_bytes: of the gradients that a device puts into sums.
        gathered_bytes: of the weights that a device fetches from others.
        exchange: seconds that both take.
    """

    compute: float
    gradient_bytes: int
    gathered_bytes: int
    exchange: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exchange


def estimate(
    settings: config.PPOTraining,
    sizes: Sizes,
    classifier: ClassifierSizes,
    device: torch.device,
    query_tokens: int,
    machine: Machine,
    processes: int = 1,
    sharded: bool = False,
) -> Estimate:
    """Return what one update takes.

    Args:
        settings: of the stage, with the batch of all processes.
        sizes: of the summarizer.
        classifier: of the reward model.
        device: decides the dtype of the weights.
        query_tokens: of each prompt.
        machine: rates of each device.
        processes: that share the batch, a device each.
        sharded: the frozen blocks are spread over them.
    """
    ppo, new_tokens, dtype = settings.ppo, settings.rollout.max_new_tokens, choose_dtype(settings.dtype, device)
    own, w = ppo.share(processes), dtype.itemsize
    work = useful_gflop(sizes, classifier, [query_tokens] * ppo.batch_size, new_tokens, ppo)
    if dtype != torch.float32:  # sampling's own log-probabilities do not serve
        work["old"] = work["generate"]
    seconds = {phase: gflop / processes / machine.gflops for phase, gflop in work.items()}
    step = w * (sizes.decoder_blocks + sizes.d * sizes.vocabulary)
    step += memory.prompt_cache(sizes, own.batch_size, query_tokens, w)
    seconds["generate"] = max(seconds["generate"], new_tokens * step / machine.memory_rate / 1e9)

    optimizer_steps = ppo.ppo_epochs * (ppo.batch_size // ppo.minibatch_size)
    gradient_bytes = optimizer_steps * sizes.trained_parameters(ppo.lora_r) * 4 if processes > 1 else 0
    moved, steps = 2 * (processes - 1) / processes * gradient_bytes, optimizer_steps * 4 * (processes - 1)
    gathered = 0
    if sharded:
        encoder, decoder = passes(own, new_tokens, sizes.encoder_is_trained, dtype)
        layers = encoder * sizes.encoder_blocks + decoder * sizes.decoder_blocks
        gathered = w * layers * (processes - 1) // processes
        steps += (encoder * sizes.encoder_layers + decoder * sizes.decoder_layers) * (processes - 1)
    exchange = (moved + gathered) / machine.link_rate / 1e9 + steps * LATENCY
    return Estimate(sum(seconds.values()), gradient_bytes, gathered, exchange)


def passes(own: config.PPO, new_tokens: int, encoder_is_trained: bool, dtype: torch.dtype) -> tuple[int, int]:
    """Return how often one process passes through encoder and decoder in an update, a backward pass being one.

    Args:
        own: settings of that process.
        new_tokens: of every response.
        encoder_is_trained: its outputs change with every optimizer step.
        dtype: of the weights.
    """
    microbatches = own.batch_size // own.effective_microbatch
    trained = 2 * own.ppo_epochs * microbatches
    reference = microbatches
    old = 0 if dtype == torch.float32 else microbatches
    encoder = 1 + (reference + trained if encoder_is_trained else 0)
    return encoder, new_tokens + old + reference + trained


# --- the rates of a machine ---


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
