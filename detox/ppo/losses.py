"""PPO's two losses: pure functions of tensors [B, T], whose parts over microbatches and processes add up.

Which tokens count, masks and padding: see `moments`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detox.ppo.moments import counted


def policy_loss(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    normalizer: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return PPO's clipped policy loss and its statistics.

    Args:
        new_logprobs: [B, T], nats, with gradient.
        old_logprobs: [B, T], nats, at rollout.
        advantages: [B, T], whitened or not.
        response_mask: [B, T] bool, True = counts.
        clip_range: largest |ratio - 1| that is rewarded.
        normalizer: counted tokens of the whole minibatch; default: those of this call. With it, losses and
            gradients of microbatches (and processes) add up to the minibatch's.

    Returns:
        The loss, of no dimension, and means over tokens, without gradient: `clip_fraction` (where the clip
        acts), `approx_kl` = mean of (ratio - 1) - log ratio, an unbiased estimate of KL(old || new) that is
        never negative (TRL: half the squared log ratio, biased), `ratio_mean`, and `ratio_deviation`, of
        |ratio - 1|, which add up over microbatches as the loss does; and `ratio_max_deviation`, the largest.

    Source: Schulman et al. 2017, arXiv 1707.06347, equation 7; `PPOTrainer.loss` in trl 0.11.4, without its
        skipping of batches by mean ratio, which still lets Adam's momentum move the weights.
    """
    if normalizer is None:
        normalizer = response_mask.sum().clamp(min=1)
    log_ratio = counted(new_logprobs, response_mask) - counted(old_logprobs, response_mask)
    advantages = counted(advantages, response_mask)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(unclipped, clipped).sum() / normalizer
    with torch.no_grad():
        off = torch.expm1(log_ratio)
        stats = {
            "approx_kl": (off - log_ratio).sum() / normalizer,
            "clip_fraction": (clipped > unclipped).sum() / normalizer,
            "ratio_mean": counted(ratio, response_mask).sum() / normalizer,
            "ratio_max_deviation": off.abs().max(),
            "ratio_deviation": off.abs().sum() / normalizer,
        }
    return loss, stats


def value_loss(
    new_values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    clip_range: float | None,
    normalizer: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return half the squared error of the values, pessimistic where they move too far, and its statistics.

    Args:
        new_values: [B, T], with gradient.
        old_values: [B, T], at rollout.
        returns: [B, T].
        response_mask: [B, T] bool, True = counts.
        clip_range: largest move from the old value that may lower the loss, or None.
        normalizer: as for `policy_loss`.

    Returns:
        The loss, of no dimension and not weighted by vf_coef, and means over tokens, without gradient, which
        add up as the loss does: `clip_fraction` (where the clip acts) and `error`, the squared error.

    Source: `PPOTrainer.loss` in trl 0.11.4.
    """
    if normalizer is None:
        normalizer = response_mask.sum().clamp(min=1)
    new_values, old_values, returns = (counted(x, response_mask) for x in (new_values, old_values, returns))
    unclipped = clipped = (new_values - returns).square()
    if clip_range is not None:
        move = (new_values - old_values).clamp(-clip_range, clip_range)
        clipped = (old_values + move - returns).square()
    loss = 0.5 * torch.maximum(unclipped, clipped).sum() / normalizer
    with torch.no_grad():
        stats = {
            "clip_fraction": (clipped > unclipped).sum() / normalizer,
            "error": unclipped.sum() / normalizer,
        }
    return loss, stats
