"""The order in which training meets the prompts: shuffled epochs, a function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """One dialogue's turn in training.

    Attributes:
        key: its place in the stream; with the seed it decides the random numbers of its rollout.
        row: its row in the training split.
        query_ids: [length] of ids.
    """

    key: int
    row: int
    query_ids: Tensor


class PromptStream:
    """An endless stream of prompts: every dialogue once an epoch, each epoch in an order of its own.

    An epoch's number stands where other streams of random numbers have theirs: the orders of the first ones come of the
    same bits as some draws of rollouts and minibatches, which relates nothing that matters.

    Args:
        input_ids: the prompts' ids, such as a column of a dataset.
        seed: of the shuffling.
        position: how many prompts were taken before.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], seed: int, position: int = 0):
        self.input_ids = input_ids
        self.seed = seed
        self.position = position
        self._epoch = -1
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> list[Prompt]:
        """Return the next `count` prompts."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Prompt:
        epoch, place = divmod(self.position, len(self.input_ids))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.input_ids))
        row = int(self._order[place])
        prompt = Prompt(self.position, row, torch.tensor(self.input_ids[row]))
        self.position += 1
        return prompt
