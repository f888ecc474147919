"""What goes wrong inside a stage: functions that a child process calls before the stage runs."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable

_WRITING = os.O_WRONLY | os.O_RDWR


def disk_fails(number: int, from_call: int = 1, once: bool = False, tally: str | None = None) -> None:
    """Let the n-th attempt to make, open or rename something below the working folder fail, and all later ones.

    Args:
        number: an errno, such as ENOSPC.
        from_call: counted from 1.
        once: later ones succeed.
        tally: file outside the folder that gets a byte an attempt.
    """
    here, calls = os.path.realpath("."), 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal calls
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING
        else:
            path, writes = arguments[0] if arguments else None, event in ("os.mkdir", "os.rename")
        if not writes or not isinstance(path, (str, bytes)):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(here):
            return
        calls += 1
        if tally is not None:
            with open(tally, "a") as file:
                file.write("x")
        if calls == from_call or (calls > from_call and not once):
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    sys.addaudithook(hook)


def count_writes(tally: str) -> None:
    """Append to `tally` a byte for each attempt that `disk_fails` would count."""
    disk_fails(errno.ENOSPC, from_call=sys.maxsize, tally=tally)


def draw_quickly() -> None:
    """Write the data of the curves in place of their picture: most kills of a tiny run would fall into its drawing."""
    from detox.report import drawing

    def data(figure) -> bytes:
        return json.dumps([line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]).encode()

    drawing.to_png = data


def limit_files(size: int) -> None:
    """Let no file grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _patch(owner: object, name: str, replace: Callable, calls: tuple[int, int]) -> None:
    """Call `replace(function, *arguments)` in place of calls number `calls[0]` to `calls[1]`, counted from 1."""
    function, count = getattr(owner, name), 0

    def patched(*arguments, **options):
        nonlocal count
        count += 1
        if calls[0] <= count <= calls[1]:
            return replace(function, *arguments, **options)
        return function(*arguments, **options)

    setattr(owner, name, patched)


def rewards(value: float, first: int, last: int) -> None:
    """Let the reward model give `value` for the first summary of some rollouts."""
    from detox.scoring.reward import RewardModel

    def spoiled(function, *arguments):
        scores = function(*arguments)
        scores[0] = value
        return scores

    _patch(RewardModel, "score", spoiled, (first, last))


def losses(value: float, first: int, last: int) -> None:
    """Make some of the policy's losses `value`."""
    from detox.ppo import update

    def spoiled(function, *arguments):
        loss, statistics = function(*arguments)
        return loss * value, statistics

    _patch(update, "policy_loss", spoiled, (first, last))


def gradients(value: float, first: int, last: int) -> None:
    """Put `value` into one gradient of some microbatches."""
    from detox.ppo import update

    def spoiled(function, trainer, *arguments):
        statistics = function(trainer, *arguments)
        trainer.parameters[0].grad.view(-1)[0] = value
        return statistics

    _patch(update, "microbatch", spoiled, (first, last))


def reward_raises(first: int) -> None:
    """Let the reward model raise."""
    from detox.scoring.reward import RewardModel

    def raises(*arguments):
        raise IndexError("index out of range\nin self")

    _patch(RewardModel, "score", raises, (first, sys.maxsize))


def summaries(text: str, first: int) -> None:
    """Let the policy say the same of every dialogue."""
    from detox.ppo import batches

    def same(function, *arguments):
        *rollout, found = function(*arguments)
        return *rollout, [text] * len(found)

    _patch(batches, "roll_out", same, (first, sys.maxsize))


def memory(where: str, most: int) -> None:
    """Let no more than `most` sequences fit into memory, in `rollout`, in `forward` or in `update`."""
    import torch

    from detox.model.engine import Engine

    name = {"rollout": "generate", "forward": "logprobs", "update": "logprobs"}[where]
    whole = getattr(Engine, name)

    def limited(engine, encoded, *arguments, **options):
        if len(encoded) > most and (where != "update" or torch.is_grad_enabled()):
            raise torch.OutOfMemoryError("out of memory (simulated)")
        return whole(engine, encoded, *arguments, **options)

    setattr(Engine, name, limited)
