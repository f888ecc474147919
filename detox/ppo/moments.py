"""Mean, variance and whitening of what counts: of one batch, merged over processes, running over a training run.

Masks are bool, True = counts: every token of a summary up to the one that ends it, and that one (`response_mask` in
`detox/model/engine.py`). Whatever stands in padding, NaN and infinity included, reaches no result and no
gradient; results are 0 there. Half precision is raised to float32, float64 stays float64. The other modules of PPO's
arithmetic (`rewards`, `advantages`, `losses`) keep to the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

Moments = tuple[Number, Number, Number]
"""Count, mean, and sum of squared distances from the mean; floats, or tensors of no dimension."""


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the counted elements, 0 where none counts.

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.
    """
    return counted(x, mask).sum() / mask.sum().clamp(min=1)


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
    x = counted(x, mask)
    whitened = (x - mean) * torch.rsqrt(var.clamp(min=least_variance) + 1e-8)
    return counted(whitened if shift_mean else whitened + mean, mask)


def moments(x: Tensor, mask: Tensor) -> Moments[Tensor]:
    """Return count, mean and sum of squared distances from the mean of the counted elements.

    Args:
        x: floating point, any shape.
        mask: bool, the shape of `x`, True = counts.

    Returns:
        Tensors of no dimension in the dtype of `x`, on its device, ready to be gathered over processes.
    """
    mean = masked_mean(x, mask)
    return mask.sum().to(mean.dtype), mean, counted(counted(x, mask) - mean, mask).square().sum()


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
    residual = masked_var(returns - values, mask)
    total = masked_var(returns, mask)
    return torch.where(total > 0, 1 - residual / total, torch.zeros_like(total))


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


def counted(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x`, 0 in padding; a product with the mask would let nan by, forward and backward."""
    return at_least_float32(x).masked_fill(~mask, 0)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in its own precision where that is enough for sums."""
    return x if x.dtype == torch.float64 else x.float()
