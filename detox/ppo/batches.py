"""A run's batches: the next prompts made summaries, and what the processes tell each other of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detox.model.sampling import Sampling
from detox.ppo.prompt_stream import Prompt, PromptStream
from detox.ppo.rollouts import Rollout
from detox.ppo.trainer import Seq2SeqPPOTrainer

if TYPE_CHECKING:
    import config


def sampling(rollout: config.Rollout) -> Sampling:
    """Return how the settings choose tokens."""
    return Sampling(temperature=rollout.temperature, top_k=rollout.top_k, top_p=rollout.top_p)


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
    rollout = trainer.rollout(
        [prompt.query_ids for prompt in prompts],
        [prompt.key for prompt in prompts],
        settings.rollout.max_new_tokens,
        sampling(settings.rollout),
    )
    return rollout, prompts, trainer.tokenizer.batch_decode(rollout.response_ids, skip_special_tokens=True)


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
