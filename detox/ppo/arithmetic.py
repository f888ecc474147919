"""PPO's arithmetic: pure functions on tensors of B examples and T response tokens, and a few running numbers.

Masks are bool, True = counts. Whatever stands in padding, NaN and infinity included, reaches no result and no
gradient; results are 0 there. Half precision is raised to float32, float64 stays float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

Moments = tuple[Number, Number, Number]
"""Count, mean, and sum of squared distances from the mean; floats, or tensors of no dimension."""


# --- statistics over counted tokens ---


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the counted elements, 0 where none counts.

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.
    """
    return _counted(x, mask).sum() / mask.sum().clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, unbiased: bool = True) -> Tensor:
    """Return the variance of the counted elements; that of a single one is 0 (TRL: nan).

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.
        unbiased: divide by the count less one.
    """
    return variance(moments(x, mask), unbiased)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, least_variance: float = 0.0) -> Tensor:
    """Scale the counted elements to variance 1 and, with `shift_mean`, to mean 0.

    A single counted element becomes 0 (its own value without `shift_mean`), where TRL gives nan.

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.
        shift_mean: take the mean off; else the elements keep it and only the spread about it is scaled.
        least_variance: what a smaller variance counts as, so that elements that are nearly alike stay so.

    Returns:
        The shape of `x`, 0 in padding (TRL: the whitened 0).

    Source: `masked_whiten` in trl/core.py, 0.11.4.
    """
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    x = _counted(x, mask)
    whitened = (x - mean) * torch.rsqrt(var.clamp(min=least_variance) + 1e-8)
    return _counted(whitened if shift_mean else whitened + mean, mask)


def moments(x: Tensor, mask: Tensor) -> Moments[Tensor]:
    """Return count, mean and sum of squared distances from the mean of the counted elements.

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.

    Returns:
        Tensors of no dimension in the dtype of `x`, on its device, ready to be gathered over processes.
    """
    mean = masked_mean(x, mask)
    return mask.sum().to(mean.dtype), mean, _counted(_counted(x, mask) - mean, mask).square().sum()


def merge_moments(*parts: Moments[Number]) -> Moments[Number]:
    """Return the moments of the union of disjoint parts, empty ones included.

    Args:
        parts: (count, mean, m2) of each, floats or tensors of no dimension.

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
        variances".
    """
    count, mean, m2 = parts[0]
    for other_count, other_mean, other_m2 in parts[1:]:
        total = count + other_count
        share = other_count / total if total > 0 else 0.0
        delta = other_mean - mean
        m2 = m2 + other_m2 + delta * delta * count * share
        count, mean = total, mean + delta * share
    return count, mean, m2


def variance(moments: Moments[Number], unbiased: bool = True) -> Number:
    """Return the variance that (count, mean, m2) stand for; 0 where it is undefined."""
    count, _, m2 = moments
    freedom = count - 1 if unbiased else count
    return m2 / freedom if freedom > 1 else m2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - var(returns - values) / var(returns), 0 where the returns do not vary.

    TRL has the mean squared error in place of the residual's variance, so a constant offset counts there.

    Args:
        values: [B, T], before the update.
        returns: [B, T].
        mask: [B, T] bool, True = counts.
    """
    residual = masked_var(_counted(returns, mask) - _counted(values, mask), mask)
    total = masked_var(returns, mask)
    return torch.where(total > 0, 1 - residual / total, torch.zeros_like(total))


# --- from scores to advantages ---


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kind: Literal["k1", "k3"]) -> Tensor:
    """Return an estimate of KL(policy || reference) for every sampled token.

    k1 is d = logprobs - ref_logprobs; k3 is exp(-d) - 1 + d, which is never negative. Both are unbiased.

    Args:
        logprobs: [B, T], nats, of the sampling policy. Padding stays as it is: who reads the result masks it.
        ref_logprobs: [B, T], nats, of the reference.
        kind: the estimator.

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
        scores: [B], of the classifier.
        finished: [B] bool, True = ended with EOS within the limit of tokens.
        moments: of all scores so far, this batch included; may be None where neither of the two flags is set.
        normalize: subtract the running mean.
        scale: divide by the running standard deviation.
        clip: largest absolute value, or None.
        unfinished_penalty: 0 or more, in units of the shaped score.

    Raises:
        ValueError: `normalize` or `scale` without moments, or with empty ones.
    """
    scores = _at_least_float32(scores)
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
    rewards = _counted(kl, response_mask) * -kl_coef
    positions = torch.arange(response_mask.shape[1], device=response_mask.device)
    last = (positions * response_mask).amax(1, keepdim=True)
    return rewards.scatter_add(1, last, scores.to(rewards.dtype)[:, None])


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
    rewards, values = _counted(rewards, response_mask), _counted(values, response_mask)
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
    return _counted(returns - others[:, None], response_mask), returns


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
    groups = _at_least_float32(scores).view(-1, samples)
    if kind == "rloo":
        compared = groups - leave_one_out_mean(groups)
    elif kind in ("grpo", "dr-grpo"):
        compared = groups - groups.mean(1, keepdim=True)
        compared = compared / (groups.std(1, keepdim=True) + 1e-4) if kind == "grpo" else compared
    else:
        raise ValueError(f"group_baseline: kind={kind!r} is none of 'rloo', 'grpo', 'dr-grpo'")
    kept_near, penalty_returns = batch_baseline(penalties, response_mask, 1.0)
    advantages = _counted(kept_near + compared.view(-1, 1), response_mask)
    return advantages, _counted(penalty_returns + scores[:, None], response_mask)


def discounted_returns(rewards: Tensor, response_mask: Tensor, gamma: float) -> Tensor:
    """Return [B, T], for each counted token the discounted sum of the rewards [B, T] from it on; 0 in padding."""
    return gae(rewards, torch.zeros_like(rewards), response_mask, gamma, 1.0)[1]


def leave_one_out_mean(x: Tensor) -> Tensor:
    """Return the mean of the others along the last dimension, 0 where there is none."""
    return (x.sum(-1, keepdim=True) - x) / max(1, x.shape[-1] - 1)


def _first(x: Tensor, mask: Tensor) -> Tensor:
    """Return [B], what stands at each row's first counted position."""
    return x.gather(1, mask.long().argmax(1, keepdim=True)).squeeze(1)


# --- losses ---


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
    log_ratio = _counted(new_logprobs, response_mask) - _counted(old_logprobs, response_mask)
    advantages = _counted(advantages, response_mask)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(unclipped, clipped).sum() / normalizer
    with torch.no_grad():
        stats = {
            "clip_fraction": (clipped > unclipped).sum() / normalizer,
            "approx_kl": (torch.expm1(log_ratio) - log_ratio).sum() / normalizer,
            "ratio_mean": _counted(ratio, response_mask).sum() / normalizer,
            "ratio_deviation": torch.expm1(log_ratio).abs().sum() / normalizer,
            "ratio_max_deviation": torch.expm1(log_ratio).abs().max(),
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
    new_values, old_values, returns = (_counted(x, response_mask) for x in (new_values, old_values, returns))
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


# --- what changes from update to update ---


class RunningMoments:
    """Mean and standard deviation of all scores seen so far, in float64 on the host.

    Unlike TRL's it is defined from the first score on, and on batches of one.
    """

    def __init__(self) -> None:
        self._moments: Moments[float] = (0.0, 0.0, 0.0)

    @property
    def count(self) -> float:
        return self._moments[0]

    @property
    def mean(self) -> float:
        return self._moments[1]

    @property
    def std(self) -> float:
        """Unbiased; 1 as long as all scores are equal, so that it can be divided by."""
        return math.sqrt(variance(self._moments)) or 1.0

    def update(self, scores: Tensor) -> None:
        """Take in scores of any shape."""
        scores = scores.detach().cpu().double()
        self.merge(*moments(scores, torch.ones_like(scores, dtype=torch.bool)))

    def merge(self, count: float | Tensor, mean: float | Tensor, m2: float | Tensor) -> None:
        """Take in the moments of scores seen elsewhere, such as another process."""
        self._moments = merge_moments(self._moments, (float(count), float(mean), float(m2)))

    def state_dict(self) -> dict[str, float]:
        return dict(zip(("count", "mean", "m2"), self._moments))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._moments = state["count"], state["mean"], state["m2"]


class FixedKLController:
    """A KL coefficient that stays."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, kl: float, n: int) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.value = state["value"]


class AdaptiveKLController(FixedKLController):
    """A KL coefficient that steers the KL of a response to a target.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2; `AdaptiveKLController` in trl 0.11.4.
    """

    def __init__(self, init: float, target: float, horizon: float) -> None:
        """Start at `init`.

        Args:
            init: first coefficient.
            target: KL of a response, summed over its tokens, nats.
            horizon: responses over which the coefficient can move by a factor of about exp(0.2).
        """
        super().__init__(init)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, n: int) -> None:
        """Raise the coefficient where `kl`, a mean over `n` responses, exceeds the target, else lower it."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n / self.horizon


def _counted(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x`, 0 in padding; a product with the mask would let nan by, forward and backward."""
    return _at_least_float32(x).masked_fill(~mask, 0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
