"""The value head as a critic: fitted by ridge regression, and trusted as far as it has predicted well."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from detox.ppo.moments import moments

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, float("inf"))


TRUST_WINDOW = 8
"""Rollouts by whose prediction the value head is judged."""


@dataclass(frozen=True)
class Lesson:
    """What the value head can learn of one rollout.

    Attributes:
        features: [tokens, d] float32, packed hidden states, on the CPU.
        returns: [tokens] float32, theirs.
        lengths: [B] int64, tokens of each response.
    """

    features: Tensor
    returns: Tensor
    lengths: Tensor


class Critic:
    """Remembers how well the value head predicted the last rollouts, and what it is fitted to.

    Args:
        head: d -> 1, with bias.
        window: rollouts before the last one that it is fitted to as well.

    Attributes:
        lessons: of the last `window` rollouts.
        record: of each of the last rollouts, the variance of its returns (times its tokens) that the values left
            unexplained, and all of it; [2] float32.
    """

    def __init__(self, head: nn.Linear, window: int):
        self.head = head
        self.lessons: deque[Lesson] = deque(maxlen=window)
        self.record: deque[Tensor] = deque(maxlen=TRUST_WINDOW)

    @property
    def trust(self) -> float:
        """Share of the returns' variance within the last rollouts that the values explained, from 0 to 1.

        Each rollout was predicted before anything was learned from it.
        """
        left, total = torch.stack(list(self.record) or [torch.zeros(2)]).double().sum(0).tolist()
        return max(0.0, 1 - left / total) if total > 0 else 0.0

    def judge(self, values: Tensor, returns: Tensor, mask: Tensor) -> None:
        """Take note of how the values [B, T] predicted the differences within a rollout's returns [B, T]."""
        unexplained, all_of_it = (moments(x, mask)[2] for x in (returns - values, returns))
        self.record.append(torch.stack([unexplained, all_of_it]).cpu())

    def learn(self, lessons: Sequence[Lesson]) -> float:
        """Fit the head to these rollouts and to the ones remembered; return `fit`'s explained variance."""
        told = [*self.lessons, *lessons]
        self.lessons.extend(lessons)
        lengths = torch.cat([lesson.lengths for lesson in told])
        owners = torch.arange(len(lengths)).repeat_interleave(lengths)
        features, returns = (torch.cat([getattr(lesson, name) for lesson in told]) for name in ("features", "returns"))
        return fit(self.head, features, returns, owners)

    def tensors(self) -> dict[str, Tensor]:
        """Return what an exact resume needs."""
        found = {f"record.{i}": tensor for i, tensor in enumerate(self.record)}
        for i, lesson in enumerate(self.lessons):
            found |= {f"lessons.{i}.{name}": value for name, value in vars(lesson).items()}
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` returned."""

        def count(kind: str) -> int:
            return len({name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")})

        names = [field.name for field in fields(Lesson)]
        self.lessons.extend(
            Lesson(*(tensors[f"lessons.{i}.{name}"] for name in names)) for i in range(count("lessons"))
        )
        self.record.extend(tensors[f"record.{i}"] for i in range(count("record")))


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
