"""The statistics that `step` of TRL 0.11.4 reports, under TRL's keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detox.ppo.moments import masked_mean, masked_var

if TYPE_CHECKING:
    from detox.ppo.experience import Experience


def trl_statistics(
    experience: Experience,
    minibatches: Sequence[Mapping[str, float]],
    metrics: Mapping[str, float],
    kl_coef: float,
    value_weight: float,
) -> dict[str, Any]:
    """Return numbers as floats and distributions as arrays.

    Args:
        experience: of one update.
        minibatches: statistics of each optimizer step.
        metrics: of the update.
        kl_coef: weight of the KL penalty in it.
        value_weight: of the value loss in what was minimized.
    """
    mask, scores = experience.mask, experience.scores
    kl = (experience.kl * mask).sum(1)
    queries, responses = experience.query_lengths.float(), mask.sum(1).float()
    return_var = masked_var(experience.returns, mask)

    def mean(name: str) -> float:
        """Return the mean over minibatches; not a number where the value head takes no part and has none."""
        return float(np.mean([stats.get(name, math.nan) for stats in minibatches]))

    numbers: dict[str, Any] = {
        "objective/kl": kl.mean(),
        "objective/kl_coef": kl_coef,
        "objective/entropy": -(experience.old_logprobs * mask).sum(1).mean(),
        "ppo/mean_non_score_reward": masked_mean(-kl_coef * experience.kl, mask),
        "ppo/mean_scores": scores.mean(),
        "ppo/std_scores": scores.std(unbiased=len(scores) > 1),
        "tokens/queries_len_mean": queries.mean(),
        "tokens/queries_len_std": queries.std(unbiased=len(queries) > 1),
        "tokens/responses_len_mean": responses.mean(),
        "tokens/responses_len_std": responses.std(unbiased=len(responses) > 1),
        "ppo/loss/total": metrics["ppo/loss/policy"] + (value_weight and value_weight * metrics["ppo/loss/value"]),
        "ppo/policy/approxkl": mean("approx_kl"),
        "ppo/policy/policykl": mean("policy_kl"),
        "ppo/policy/clipfrac": mean("clip_fraction"),
        "ppo/policy/advantages_mean": masked_mean(experience.advantages, mask),
        "ppo/returns/mean": masked_mean(experience.returns, mask),
        "ppo/returns/var": return_var,
        "ppo/val/vpred": mean("value_mean"),
        "ppo/val/error": mean("value_error"),
        "ppo/val/clipfrac": mean("value_clip_fraction"),
        "ppo/val/mean": masked_mean(experience.old_values, mask),
        "ppo/val/var": masked_var(experience.old_values, mask),
        "ppo/val/var_explained": 1 - mean("value_error") / return_var,
        "time/ppo/forward_pass": metrics["time/forward"],
        "time/ppo/optimize_step": metrics["time/optimize"],
        "time/ppo/total": metrics["time/forward"] + metrics["time/optimize"],
    }
    arrays = {
        "objective/kl_dist": kl,
        "objective/logprobs": experience.old_logprobs,
        "objective/ref_logprobs": experience.ref_logprobs,
        "tokens/queries_dist": queries,
        "tokens/responses_dist": responses,
        "ppo/policy/advantages": experience.advantages.flatten(),
        "ppo/policy/ratio": torch.tensor([stats["ratio_mean"] for stats in minibatches]),
    }
    return {
        **{name: float(value) for name, value in numbers.items()},
        **{name: value.cpu().numpy() for name, value in arrays.items()},
    }
