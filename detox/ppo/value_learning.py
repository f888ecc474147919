"""What the value head learns of rollouts: before training, and after each update that it has taken part in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detox.model.engine import response_mask
from detox.ppo.advantages import discounted_returns
from detox.ppo.critic import Lesson
from detox.ppo.experience import Experience, shaped_scores
from detox.ppo.rewards import token_rewards
from detox.ppo.rollouts import Rollout
from detox.ppo.state import TrainingState


def fit_before_training(state: TrainingState, rollouts: Sequence[Rollout], scores: Sequence[Tensor]) -> float:
    """Fit the value head alone to the returns of rollouts of the untrained policy.

    Returns here are the discounted scores: the KL penalty is 0, as the policy is the reference. The running
    moments of the scores take them in first, so that they are shaped as those of the updates will be.

    Args:
        state: of the training, before its first update.
        rollouts: this process's, of the policy as it is.
        scores: [B] each.

    Returns:
        The share of the returns' variance that the value head explains on responses that it was not fitted to.

    Raises:
        ValueError: the advantages need no value head, or a rollout was not sampled here.
    """
    if state.critic is None:
        raise ValueError(f"advantages={state.config.advantages!r} need no value head")
    for of_rollout in scores:
        state.score_moments.update(state.processes.gather(of_rollout))
    lessons = []
    for rollout, rollout_scores in zip(rollouts, scores, strict=True):
        mask = response_mask(rollout.lengths, state.engine.device)
        shaped = shaped_scores(state, rollout_scores.to(mask.device), rollout.finished)
        rewards = token_rewards(shaped, torch.zeros(mask.shape, device=mask.device), mask, 0.0)
        returns = discounted_returns(rewards, mask, state.config.gamma)
        lessons.append(_lesson(state, rollout, state.processes.gather(returns[mask])))
    return state.critic.learn(lessons)


def learn(state: TrainingState, rollout: Rollout, experience: Experience) -> None:
    """Judge the value head by a rollout that it has not seen, and set it anew if it is refitted."""
    if state.critic is None:
        return
    state.critic.judge(experience.old_values, experience.returns, experience.mask)
    if state.config.value_refit:
        state.critic.learn([_lesson(state, rollout, experience.returns[experience.mask])])


def _lesson(state: TrainingState, rollout: Rollout, returns: Tensor) -> Lesson:
    """Return what there is to learn of the rollouts of all processes, given the returns of all their tokens."""
    if rollout.hidden is None:
        raise ValueError("the value head is fitted to what `rollout` has sampled")
    features = state.processes.gather(rollout.hidden.float())
    lengths = state.processes.gather(torch.tensor(rollout.lengths, device=features.device))
    return Lesson(features.detach().cpu(), returns.detach().cpu(), lengths.cpu())
