"""Fitting the value head by ridge regression before the first update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, float("inf"))


@torch.no_grad()
def fit(head: nn.Linear, features: Tensor, targets: Tensor, owners: Tensor) -> float:
    """Set `head` to the ridge regression of `targets` on `features`; its strength is found by cross-validation.

    No learning rate and no number of steps have to suit the model's width, as they would for gradient descent.

    Args:
        head: d -> 1, with bias.
        features: [N, d], hidden states.
        targets: [N], returns.
        owners: [N] of ints, the response that each row is of; one response's rows stay in one fold, since their
            returns are alike.

    Returns:
        The share of the targets' variance that is explained on held-out responses, at the strength chosen; 0 where
        the mean is the best guess.
    """
    x, y, fold = features.cpu().double(), targets.cpu().double(), owners.cpu() % FOLDS
    errors = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for held_out in range(FOLDS):
        test = fold == held_out
        if not test.any() or test.all():
            continue
        for i, (weight, bias) in enumerate(_solutions(x[~test], y[~test])):
            errors[i] += (x[test] @ weight + bias - y[test]).square().sum()
    best = int(errors.argmin()) if bool(errors.any()) else len(STRENGTHS) - 1
    weight, bias = _solutions(x, y)[best]
    head.weight.copy_(weight[None])
    head.bias.fill_(float(bias))
    return max(0.0, float(1 - errors[best] / errors[-1])) if float(errors[-1]) > 0 else 0.0


def _solutions(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return weight [d] and bias for each strength, in units of the features' mean variance times their number."""
    mean_x, mean_y = x.mean(0), y.mean()
    centred = x - mean_x
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    moment = vectors.T @ (centred.T @ (y - mean_y))
    unit = values.mean().clamp(min=1e-12)
    found = []
    for strength in STRENGTHS:
        weight = vectors @ (moment / (values.clamp(min=0) + strength * unit))
        found.append((weight, mean_y - mean_x @ weight))
    return found
