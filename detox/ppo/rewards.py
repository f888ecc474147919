"""From a score a response [B] to a reward a token [B, T]: the KL penalty, the shaped score, both together.

Pure functions; which tokens count, masks and padding: see `moments`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detox.ppo.moments import RunningMoments, at_least_float32, counted


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kind: str | None) -> Tensor:
    """Return an estimate of KL(policy || reference) for every sampled token.

    k1 is d = logprobs - ref_logprobs; k3 is exp(-d) - 1 + d, which is never negative. Both are unbiased.

    Args:
        logprobs: [B, T], nats, of the sampling policy. Padding stays as it is: who reads the result masks it.
        ref_logprobs: [B, T], nats, of the reference.
        kind: the estimator, `k1` or `k3`.

    Raises:
        ValueError: another kind.

    Source: J. Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html
    """
    difference = logprobs - ref_logprobs
    if kind == "k1":
        return difference
    if kind == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"kl_penalty: kind={kind!r} is neither 'k1' nor 'k3'")


def shape_scores(
    scores: Tensor,
    finished: Tensor,
    *,
    moments: RunningMoments | None,
    normalize: bool,
    scale: bool,
    clip: float | None,
    unfinished_penalty: float,
) -> Tensor:
    """Return what each response is rewarded with.

    The order: (1) `normalize` takes the running mean off; (2) `scale` divides by the running standard
    deviation; (3) `clip` limits the absolute value; (4) unfinished responses lose `unfinished_penalty`, after
    the clip, so that it always bites. Each is independent of the others (TRL normalizes only where it
    scales). `moments` is read, not changed: let it hold these scores (of all processes) already.

    Args:
        scores: [B], of the reward.
        finished: [B] bool, True = ended with EOS within the limit of tokens.
        moments: of all scores so far, this batch included; may be None where neither of the two flags is set.
        normalize: subtract the running mean.
        scale: divide by the running standard deviation.
        clip: largest absolute value, or None.
        unfinished_penalty: 0 or more, in units of the shaped score.

    Raises:
        ValueError: `normalize` or `scale` without moments, or with empty ones.
    """
    scores = at_least_float32(scores)
    if normalize or scale:
        if moments is None or moments.count == 0:
            raise ValueError("shape_scores: update the moments with these scores first")
        scores = scores - moments.mean if normalize else scores
        scores = scores / moments.std if scale else scores
    scores = scores if clip is None else scores.clamp(-clip, clip)
    return scores - unfinished_penalty * (~finished).to(scores.dtype)


@torch.no_grad()
def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """Return -kl_coef * kl a token, plus the score on the last counted token.

    Args:
        scores: [B], shaped.
        kl: [B, T], the penalty of each token, nats.
        response_mask: [B, T] bool, True = counts; the first token and EOS count (TRL leaves out the first
            token of an encoder-decoder's response, and fails on one that is EOS alone).
        kl_coef: weight of the penalty.

    Returns:
        [B, T], 0 in padding.

    Raises:
        ValueError: a row counts no token.

    Source: Ziegler et al. 2019, arXiv 1909.08593, equation 2; `PPOTrainer.compute_rewards` in trl 0.11.4.
    """
    if not response_mask.any(1).all():
        empty = (~response_mask.any(1)).nonzero().flatten().tolist()
        raise ValueError(f"token_rewards: no token counts in rows {empty}; a response has at least its EOS")
    rewards = counted(kl, response_mask) * -kl_coef
    positions = torch.arange(response_mask.shape[1], device=response_mask.device)
    last = (positions * response_mask).amax(1, keepdim=True)
    return rewards.scatter_add(1, last, scores.to(rewards.dtype)[:, None])
