"""What must hold before anything is learned for training to be sound: the reference is the start, the ratio is 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detox.ppo.moments import masked_mean
from detox.stage.errors import UserError

MOST_OFF = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
"""Mean |ratio - 1| before the first step, or nats a token from the reference, by the weights' dtype: between what
rounding and what mistakes give, which `benchmarks/ratio_check.py` measures. The largest of many tokens would not tell
them apart."""


class TrainingError(UserError):
    """Training cannot go on soundly; the message says why and what may help."""


def check_reference(old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, dtype: torch.dtype) -> None:
    """At the first update the policy is the reference, so that their log-probabilities are the same numbers.

    Args:
        old_logprobs: [B, T], nats, of the policy.
        ref_logprobs: [B, T], nats, of the reference.
        mask: [B, T] bool, True = counts.
        dtype: of the weights.

    Raises:
        TrainingError: it is another model, or one without numbers.
    """
    gap = float(masked_mean((old_logprobs - ref_logprobs).abs(), mask))
    if not math.isfinite(gap):
        raise TrainingError(
            "before the first update the policy's log-probabilities are no numbers: weights of --model.base or "
            "--model.adapter are NaN or infinite, or so large that what they compute is"
        )
    if gap > MOST_OFF[dtype]:
        raise TrainingError(
            f"before the first update the policy and the reference differ by {gap:.3g} nats a token, not 0: "
            "the reference is not the model that training starts from; give the supervised checkpoint as "
            "--model.adapter, or the true starting model as ref_model"
        )


def check_ratio(deviation: float, dtype: torch.dtype) -> None:
    """Before the first step the probability ratio is 1.

    Args:
        deviation: mean |ratio - 1| over tokens.
        dtype: of the weights.

    Raises:
        TrainingError: it is not.
    """
    if not deviation <= MOST_OFF[dtype]:
        raise TrainingError(
            f"before the first step the probability ratio is off by {deviation:.3g} on average, not 1: the model "
            "does not repeat its own log-probabilities (dropout, or other weights, between rollout and update)"
        )
