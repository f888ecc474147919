"""The processes that a stage runs as: their shares of the work, and what they tell each other.

`accelerate launch` and `torchrun` start a stage several times with the same settings. Each process works on its share;
what comes of it is put together in the order of the whole, so that the figures do not depend on their number.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from detox.stage.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = timedelta(hours=2)
"""A process waits so long for the others; one that has died is noticed at once."""
_FAILURE = "detox/failure"


class Elsewhere(UserError):
    """Another process has failed, and tells why; this one ends without a word."""


class Processes:
    """The processes of this run, seen from one of them.

    Attributes:
        rank: number of this process; 0 is the main one, which alone writes.
        count: how many there are.
        device: where tensors must lie to be exchanged.
        sharded: frozen weights are to be spread over the processes.
        bytes_sent: of tensors that this process has given to the others, headers left out.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | str = "cpu", sharded: bool = False):
        self.rank, self.count = rank, count
        self.device = torch.device(device)
        self.sharded = sharded
        self.bytes_sent = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, size: int) -> slice:
        """Return this process's part of `size` things in order: the parts are neighbours and as equal as can be."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over the processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors]).to(self.device)
        with _talking():
            dist.all_reduce(flat)
        self.bytes_sent += flat.nbytes
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, [sum of n, ...], in the order of the processes; n may differ."""
        if self.count == 1:
            return rows
        shapes = self.gather_objects(rows.shape)
        parts = [torch.empty(shape, dtype=rows.dtype, device=self.device) for shape in shapes]
        longest = max(shape.numel() for shape in shapes)
        sent = torch.zeros(longest, dtype=rows.dtype, device=self.device)
        sent[: rows.numel()] = rows.detach().flatten()
        received = [torch.empty_like(sent) for _ in parts]
        with _talking():
            dist.all_gather(received, sent)
        self.bytes_sent += sent.nbytes
        parts = [flat[: shape.numel()].view(shape) for flat, shape in zip(received, shapes, strict=True)]
        return torch.cat(parts).to(rows.device)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the (picklable) values of all processes, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _talking():
            dist.all_gather_object(values, value)
        return values

    def on_main(self, function: Callable[[], Result]) -> Result:
        """Let the main process alone run `function`; return in every process what it gave.

        Raises:
            UserError: in the main process what `function` raises; `Elsewhere` in the others.
        """
        if self.count == 1:
            return function()
        value, failure = None, None
        if self.is_main:
            try:
                value = function()
            except BaseException as error:
                failure = error
                if joined():
                    has_the_word()  # asked before the others hear of it, so that it is this process that tells
        value, failed = self._from_main((value, failure is not None))
        if failed:
            raise failure or Elsewhere("the main process has failed")
        return value

    def _from_main(self, value: Any) -> Any:
        """Return the main process's value."""
        told = [value]
        with _talking():
            dist.broadcast_object_list(told, src=0, device=self.device)
        return told[0]

    @contextlib.contextmanager
    def within(self, make: Callable[[], AbstractContextManager[Result]]) -> Iterator[Result]:
        """Let the main process alone enter the context that `make` gives; yield in every process what it gave."""
        with contextlib.ExitStack() as stack:
            yield self.on_main(lambda: stack.enter_context(make()))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return `function` of each item, in order; the processes take turns. Results must be picklable."""
        parts = self.gather_objects([function(item) for item in items[self.rank :: self.count]])
        results: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            results[rank :: self.count] = part
        return results


ALONE = Processes()


def start(device: str) -> Processes:
    """Join the other processes of the run, if a launcher has started some; only the main one speaks from then on.

    Args:
        device: as the setting names it; what is exchanged lies on a CUDA device unless that is `cpu`.

    Raises:
        UserError: the environment speaks of several processes, but does not say all that a launcher does.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return ALONE
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing or not size.isdigit():
        without = f" without {', '.join(missing)}" if missing else ""
        raise UserError(
            f"WORLD_SIZE={size} is set{without}, so no launcher has set it: unset it, or start the stage with "
            "`accelerate launch` or `torchrun`"
        )
    from accelerate import PartialState

    # Of Accelerate's FSDP, its launcher is used: the frozen blocks alone are sharded (detox/model/sharding.py).
    sharded = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    atexit.register(_leave)
    if not state.is_main_process:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (is open as long as the process lives)
    place = torch.device("cpu") if on_cpu else state.device
    return Processes(state.process_index, state.num_processes, place, sharded)


def _leave() -> None:
    """Close the connections while Python still runs: threads of theirs that outlive it abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def joined() -> bool:
    """Return whether this process has joined others."""
    return dist.is_initialized()


def has_the_word() -> bool:
    """Return whether this process is the one, of those that have joined, to say why the run fails: who asks first."""
    rank = str(dist.get_rank())
    with contextlib.suppress(RuntimeError):  # the launcher that keeps the store is gone
        return dist.distributed_c10d._get_default_store().compare_set(_FAILURE, "", rank).decode() == rank
    return True


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Turn the loss of another process into an error that leaves the word to that process."""
    try:
        yield
    except RuntimeError as error:
        raise Elsewhere(
            "another process of this run has ended without a word; start the run again: what is written is whole, and "
            "training goes on from its last checkpoint"
        ) from error
