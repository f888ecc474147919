"""Value warm-up: the value head is fitted to summaries of the policy as it starts, before the first update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from detox.ppo import batches
from detox.ppo.prompt_stream import PromptStream
from detox.ppo.rollouts import Rollout
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.scoring.reward import WeightedReward
from detox.stage.interrupt import Interrupt
from detox.stage.progress import Progress

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
    interrupt: Interrupt,
) -> int | None:
    """Fit the value head to rollouts of the policy as it starts, so that the first advantages mean something.

    Args:
        trainer: before its first update.
        stream: gives the prompts.
        reward: scores the summaries.
        settings: of the stage.
        interrupt: ends it before its time.

    Returns:
        The signal that ended it before its time, or None.
    """
    rollouts: list[Rollout] = []
    scores: list[Tensor] = []
    count = scored(settings.ppo, 0)
    if not count:
        return None
    with Progress(total=count, desc="value warm-up", unit="summary", shown=trainer.processes.is_main) as bar:
        for _ in range(0, count, settings.ppo.batch_size):
            stopped_by = next(filter(None, trainer.processes.gather_objects(interrupt.received)), None)
            if stopped_by:
                return stopped_by
            rollout, prompts, summaries = batches.roll_out(trainer, stream, settings)
            rollouts.append(rollout)
            scores.append(reward.score([prompt.row for prompt in prompts], summaries)[0])
            bar.update(settings.ppo.batch_size)
    explained = trainer.warm_up_values(rollouts, scores)
    print(f"value head fitted to {count} summaries; it explains {explained:.0%} of the returns")
    return None
