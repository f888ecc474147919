"""The metrics of one update, as metrics.jsonl has them, over the rollouts of all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detox.ppo.experience import Experience
from detox.ppo.moments import explained_variance
from detox.ppo.rewards import kl_penalty
from detox.ppo.state import TrainingState


def update_metrics(
    state: TrainingState, experience: Experience, statistics: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Return metrics by name.

    Args:
        state: after the update, and before the critic has learned of it.
        experience: of the update.
        statistics: of each minibatch.
    """
    mask = experience.mask
    k3 = kl_penalty(experience.old_logprobs, experience.ref_logprobs, "k3")
    mean = {name: float(np.mean([stats[name] for stats in statistics])) for name in statistics[-1]}
    entropies = [stats["entropy"] for stats in statistics if "entropy" in stats]
    return {
        "objective/score_mean": float(experience.scores.mean()),
        "objective/score_std": float(experience.scores.std(unbiased=False)),
        "objective/ref_kl": float((k3 * mask).sum(1).mean()),
        "objective/ref_kl_k1": float(((experience.old_logprobs - experience.ref_logprobs) * mask).sum(1).mean()),
        "objective/kl_coef": float(state.kl_ctl.value),
        "ppo/policy/approx_kl": mean["approx_kl"],
        "ppo/policy/clip_fraction": mean["clip_fraction"],
        "ppo/policy/entropy": float(np.mean(entropies)),
        "ppo/loss/policy": mean["policy_loss"],
        **_critic_metrics(state, experience, mean.get("value_loss", math.nan)),
        "ppo/ratio_first": 1 + statistics[0]["ratio_max_deviation"],
        "ppo/grad_norm": mean["grad_norm"],
        "ppo/learning_rate": state.optimizer.param_groups[0]["lr"],
        **_step_metrics(state),
        "tokens/response_mean": float(mask.sum(1).float().mean()),
        "tokens/finished": float(experience.finished.float().mean()),
    }


def _critic_metrics(state: TrainingState, experience: Experience, loss: float) -> dict[str, float]:
    """Return how good the value head is, before it learns of this rollout; not a number where it takes no part."""
    if state.critic is None:
        return {"ppo/loss/value": math.nan, "ppo/val/explained_variance": math.nan, "ppo/val/trust": 0.0}
    explained = explained_variance(experience.old_values, experience.returns, experience.mask)
    trust = state.critic.trust if state.config.value_trust else 1.0
    return {"ppo/loss/value": loss, "ppo/val/explained_variance": float(explained), "ppo/val/trust": trust}


def _step_metrics(state: TrainingState) -> dict[str, float]:
    if state.step_size is None:
        return {}
    return {
        "ppo/policy/step_kl": state.step_size.kl,
        "ppo/policy/step_kl_target": state.step_size.target,
        "ppo/policy/steps_back": state.step_size.steps_back,
    }
