"""Rollouts: prompts made summaries, what those of all processes came to, and the value head fitted to the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detox.model.sampling import Sampling
from detox.ppo.prompts import Prompt, PromptStream
from detox.ppo.trainer import Rollout, Seq2SeqPPOTrainer
from detox.scoring.reward import WeightedReward
from detox.stage.interrupt import Interrupt

if TYPE_CHECKING:
    import config


def roll_out(
    trainer: Seq2SeqPPOTrainer, stream: PromptStream, settings: config.PPOTraining
) -> tuple[Rollout, list[Prompt], list[str]]:
    """Sample this process's share of the next batch of summaries, those of a dialogue one after the other.

    Returns:
        The summaries as ids, the prompts, and the summaries as text without special tokens.
    """
    samples, taken = settings.ppo.samples, stream.take(settings.ppo.dialogues)
    every = [replace(prompt, key=prompt.key * samples + i) for prompt in taken for i in range(samples)]
    prompts = every[trainer.processes.share(len(every))]
    sampling = Sampling(
        temperature=settings.rollout.temperature, top_k=settings.rollout.top_k, top_p=settings.rollout.top_p
    )
    rollout = trainer.rollout(
        [prompt.query_ids for prompt in prompts],
        [prompt.key for prompt in prompts],
        settings.rollout.max_new_tokens,
        sampling,
    )
    return rollout, prompts, trainer.tokenizer.batch_decode(rollout.response_ids, skip_special_tokens=True)


def scored(ppo: config.PPO, updates: int) -> int:
    """Return the summaries that a run has scored after so many updates, those of its warm-up included."""
    return (math.ceil(ppo.value_warmup / ppo.batch_size) + updates) * ppo.batch_size


def warm_up(
    trainer: Seq2SeqPPOTrainer,
    stream: PromptStream,
    reward: WeightedReward,
    settings: config.PPOTraining,
    bar: Any,
    interrupt: Interrupt,
) -> int | None:
    """Fit the value head to rollouts of the policy as it starts, so that the first advantages mean something.

    Args:
        trainer: before its first update.
        stream: gives the prompts.
        reward: scores the summaries.
        settings: of the stage.
        bar: says how many rollouts are left.
        interrupt: ends it before its time.

    Returns:
        The signal that ended it before its time, or None.
    """
    rollouts: list[Rollout] = []
    scores: list[Tensor] = []
    left = count = scored(settings.ppo, 0)
    while left > 0:
        stopped_by = next(filter(None, trainer.processes.gather_objects(interrupt.received)), None)
        if stopped_by:
            return stopped_by
        bar.set_postfix_str(f"value warm-up, {left} summaries left")
        rollout, prompts, summaries = roll_out(trainer, stream, settings)
        rollouts.append(rollout)
        scores.append(reward.score([prompt.row for prompt in prompts], summaries)[0])
        left -= settings.ppo.batch_size
    if rollouts:
        explained = trainer.warm_up_values(rollouts, scores)
        print(f"value head fitted to {count} summaries; it explains {explained:.0%} of the returns")
    return None


@dataclass
class Account:
    """What the processes tell each other of an update, beyond what the trainer exchanges.

    Attributes:
        summaries: of the rollout.
        terms: [B] by name, of rewards that are sums.
        peak_mb: the most memory used so far.
        signal: that asks the run to end, or None.
    """

    summaries: list[str]
    terms: dict[str, Tensor]
    peak_mb: float
    signal: int | None

    @classmethod
    def of_all(cls, accounts: Sequence[Account]) -> Account:
        """Put the accounts of all processes together."""
        return cls(
            [summary for account in accounts for summary in account.summaries],
            {name: torch.cat([account.terms[name] for account in accounts]) for name in accounts[0].terms},
            max(account.peak_mb for account in accounts),
            next((account.signal for account in accounts if account.signal), None),
        )
