"""The processes of a run as threads of one, so that a test of what they share starts no process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from detox.stage.parallel import Elsewhere, Processes


class Threads(Processes):
    """One of `count` threads; what they tell each other is pickled, as between processes."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[bytes]):
        super().__init__(rank, barrier.parties)
        self._barrier, self._board = barrier, board

    def gather_objects(self, value: Any) -> list[Any]:
        self._board[self.rank] = pickle.dumps(value)
        self._wait()
        values = [pickle.loads(told) for told in self._board]  # noqa: S301 - its own
        self._wait()
        return values

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self.gather_objects(rows.detach()))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        parts = self.gather_objects([tensor.detach() for tensor in tensors])
        for tensor, total in zip(tensors, map(sum, zip(*parts)), strict=True):
            tensor.copy_(total)

    def _from_main(self, value: Any) -> Any:
        told = self.gather_objects(value)[0]
        return value if self.is_main else told

    def _wait(self) -> None:
        try:
            self._barrier.wait(timeout=60)
        except threading.BrokenBarrierError:
            raise Elsewhere("another thread has failed") from None


def run(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """Return what `work` returns, or the exception that it raises, in each of `count` threads."""
    barrier, board = threading.Barrier(count), [b""] * count

    def one(rank: int) -> Any:
        try:
            return work(Threads(rank, barrier, board))
        except Exception as error:
            barrier.abort()
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
