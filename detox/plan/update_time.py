"""How long an update takes on several devices, and what they exchange: arithmetic on the rates of a machine.

The batch stays as it is, and each device takes its share of the prompts and of every minibatch.

- compute: useful work (`flops`) over the rate that a device keeps up; a step of sampling takes at least as
  long as reading the decoder's weights and the caches once, which more devices don't shorten.
- gradients: those of all that is trained, in float32, summed over the devices once an optimizer step. A ring
  moves 2 (N - 1) / N of them through each device, in 2 (N - 1) steps; as many gather a few statistics.
- weights, where they are sharded (`detox.model.sharding`): before each pass through a block, forward or backward, a
  device fetches the (N - 1) / N that it does not hold; sampling fetches the decoder once, if half of the free memory
  holds it, else what does not fit for every token.

An exchange takes bytes over bandwidth, and a latency a step. Nothing is hidden behind computing, and prompts of
unlike length keep no device waiting: the first makes the estimate too long, the second too short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from detox.model.devices import choose_dtype
from detox.plan import memory
from detox.plan.flops import useful_gflop
from detox.plan.machine import Machine
from detox.plan.model_sizes import ClassifierSizes, Sizes

if TYPE_CHECKING:
    import config


LATENCY = 5e-5
"""Seconds that a step of an exchange takes at least."""


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
    step += memory.prompt_cache(sizes, memory.different_prompts(own), query_tokens, w)
    seconds["generate"] = max(seconds["generate"], new_tokens * step / machine.memory_rate / 1e9)

    optimizer_steps = ppo.ppo_epochs * (ppo.batch_size // ppo.minibatch_size)
    gradient_bytes = optimizer_steps * sizes.trained_parameters(ppo.lora_r) * 4 if processes > 1 else 0
    moved, steps = 2 * (processes - 1) / processes * gradient_bytes, optimizer_steps * 4 * (processes - 1)
    gathered = 0
    if sharded:
        encoder, decoder = passes(own, 1, sizes.encoder_is_trained, dtype)  # all of sampling fetches the decoder once
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
