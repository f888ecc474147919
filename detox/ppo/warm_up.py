"""Value warm-up: the value head is fitted to summaries of the policy as it starts, before the first update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from detox.ppo import batches
from detox.ppo.prompt_stream import PromptStream
from detox.ppo.rollouts import Rollout
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.scoring.reward import WeightedReward
from detox.stage.interrupt import Interrupt

if TYPE_CHECKING:
    import config


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
        rollout, prompts, summaries = batches.roll_out(trainer, stream, settings)
        rollouts.append(rollout)
        scores.append(reward.score([prompt.row for prompt in prompts], summaries)[0])
        left -= settings.ppo.batch_size
    if rollouts:
        explained = trainer.warm_up_values(rollouts, scores)
        print(f"value head fitted to {count} summaries; it explains {explained:.0%} of the returns")
    return None
