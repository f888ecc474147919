"""Advantages: pure functions from token rewards [B, T], and values or the batch's other responses, to [B, T].

`gae` is PPO's own; the others need no value function, or trust it as far as it has earned. All return advantages that
are not whitened, and the returns that a value function should predict. Masks and padding: see `moments`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detox.ppo.moments import at_least_float32, counted, masked_mean


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return generalized advantage estimates, not whitened, and the returns that the values should predict.

    The value after the last counted token is 0: a response ends there, by EOS or by the limit of tokens.
    Padding is passed over wherever it stands.

    Args:
        rewards: [B, T].
        values: [B, T], at rollout.
        response_mask: [B, T] bool, True = counts.
        gamma: discount a token.
        lam: 0 takes one step of reward, 1 the whole response.

    Returns:
        Advantages [B, T] and returns [B, T] = advantages + values, both 0 in padding. TRL whitens in the same
        call; here `masked_whiten` does, so that its statistics can be those of all processes.

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16; `PPOTrainer.compute_advantages` in trl 0.11.4.
    """
    rewards, values = counted(rewards, response_mask), counted(values, response_mask)
    advantages = torch.zeros_like(rewards + values)
    next_value = next_advantage = torch.zeros_like(advantages[:, 0])
    for t in reversed(range(advantages.shape[1])):
        counts = response_mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(counts, advantage, 0.0)
        next_advantage = torch.where(counts, advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
    return advantages, advantages + values


@torch.no_grad()
def trusted_gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float, lam: float, trust: float
) -> tuple[Tensor, Tensor]:
    """Return advantages between those of `batch_baseline` (no trust) and those of `gae` (full trust).

    The baseline is the mean return of the other responses, plus `trust` times what the value is above the batch's mean
    value. Lambda goes from 1 to `lam` likewise: below 1, a baseline that knows nothing of the response would give the
    credit for the score to its last tokens.

    Args:
        rewards, values, response_mask, gamma, lam: as for `gae`.
        trust: from 0 to 1.

    Returns:
        Advantages [B, T], and the discounted sums of rewards [B, T] that the values should predict.
    """
    returns = discounted_returns(rewards, response_mask, gamma)
    others = leave_one_out_mean(_first(returns, response_mask))
    baseline = others[:, None] + trust * (values - masked_mean(values, response_mask))
    return gae(rewards, baseline, response_mask, gamma, 1 - trust * (1 - lam))[0], returns


@torch.no_grad()
def batch_baseline(rewards: Tensor, response_mask: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return each token's return less the mean return of the batch's other responses, and the returns.

    No value function is needed. A response's own return stays out of its baseline, so that the gradient is unbiased.

    Args:
        rewards: [B, T].
        response_mask: [B, T] bool, True = counts.
        gamma: discount a token.

    Returns:
        Advantages [B, T], not whitened, and discounted sums of rewards [B, T], both 0 in padding.

    Source: Williams 1992, REINFORCE with a baseline (doi 10.1007/BF00992696), whose baseline is the leave-one-out mean
        of Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!", over the batch.
    """
    returns = discounted_returns(rewards, response_mask, gamma)
    others = leave_one_out_mean(_first(returns, response_mask))
    return counted(returns - others[:, None], response_mask), returns


@torch.no_grad()
def group_baseline(
    scores: Tensor,
    penalties: Tensor,
    response_mask: Tensor,
    samples: int,
    kind: Literal["rloo", "grpo", "dr-grpo"],
) -> tuple[Tensor, Tensor]:
    """Return advantages by each score compared with those of the other samples of its prompt, and the returns.

    The score is that of the whole response, so that all its tokens share what it is above its group. The KL penalty
    from each token on is compared with the penalty of the batch's other responses, as in `batch_baseline`: where all
    samples of a prompt have gone astray alike, their own group would not tell.

    Args:
        scores: [B], shaped; the samples of a prompt are neighbours.
        penalties: [B, T], the rewards without the scores.
        response_mask: [B, T] bool, True = counts.
        samples: of each prompt, 2 or more.
        kind: what is taken off a score: the mean of the prompt's other samples (`rloo`), or of all (`dr-grpo`,
            `grpo`); with `grpo` the difference is divided by the standard deviation of the prompt's samples.

    Returns:
        Advantages [B, T], not whitened, and sums of rewards [B, T] from each token on, both 0 in padding.

    Raises:
        ValueError: fewer than 2 samples, a batch that `samples` does not divide, or another kind.

    Source: Ahmadian et al. 2024, arXiv 2402.14740 (RLOO; it has the penalty in what is compared within the group);
        Shao et al. 2024, arXiv 2402.03300, section 4.1.2 (GRPO; it has the KL in the loss); Liu et al. 2025, arXiv
        2503.20783 (Dr. GRPO).
    """
    if samples < 2 or len(scores) % samples:
        raise ValueError(f"group_baseline: {len(scores)} responses are no groups of samples={samples}, 2 or more")
    groups = at_least_float32(scores).view(-1, samples)
    if kind == "rloo":
        compared = groups - leave_one_out_mean(groups)
    elif kind in ("grpo", "dr-grpo"):
        compared = groups - groups.mean(1, keepdim=True)
        compared = compared / (groups.std(1, keepdim=True) + 1e-4) if kind == "grpo" else compared
    else:
        raise ValueError(f"group_baseline: kind={kind!r} is none of 'rloo', 'grpo', 'dr-grpo'")
    kept_near, penalty_returns = batch_baseline(penalties, response_mask, 1.0)
    advantages = counted(kept_near + compared.view(-1, 1), response_mask)
    return advantages, counted(penalty_returns + scores[:, None], response_mask)


def discounted_returns(rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """Return [B, T], for each counted token the discounted sum of the rewards [B, T] from it on; 0 in padding."""
    return gae(rewards, torch.zeros_like(rewards), response_mask, gamma, 1.0)[1]


def leave_one_out_mean(x: Tensor) -> Tensor:
    """Return the mean of the others along the last dimension, 0 where there is none."""
    return (x.sum(-1, keepdim=True) - x) / max(1, x.shape[-1] - 1)


def _first(x: Tensor, mask: Tensor) -> Tensor:
    """Return [B], what stands at each row's first counted position."""
    return x.gather(1, mask.long().argmax(1, keepdim=True)).squeeze(1)
