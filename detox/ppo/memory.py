"""Work that does not fit into memory is done in smaller pieces, with the same result."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from detox.model import devices
from detox.ppo.checks import TrainingError
from detox.ppo.state import TrainingState
from detox.stage import lack_of_memory

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_groups(state: TrainingState, count: int, run: Callable[[slice], Result]) -> list[Result]:
    """Return what `run` returns of one group of prompts after the other.

    A group has `state.rollout_size` prompts, which is halved for good where so many do not fit.

    Args:
        state: of the training.
        count: prompts.
        run: is given the rows of a group.

    Raises:
        TrainingError: one prompt alone does not fit.
    """
    parts: list[Result] = []
    done = 0
    while done < count:
        group = slice(done, min(done + (state.rollout_size or count), count))
        try:
            parts.append(run(group))
            done = group.stop
        except (RuntimeError, MemoryError) as error:
            size = group.stop - group.start
            _raise_unless_smaller_may_fit(state, error, size)
            state.rollout_size = (size + 1) // 2
            devices.empty_cache(state.engine.device)
            print(f"out of memory: sampling for {state.rollout_size} prompts at once, same result", file=sys.stderr)
        devices.trim_cache(state.engine.device)
    return parts


def in_microbatches(
    function: Callable[Concatenate[TrainingState, Given], Result],
) -> Callable[Concatenate[TrainingState, Given], Result]:
    """Let a function, which runs `state.microbatch_size` examples at once, begin again with half as many until it fits.

    Raises:
        TrainingError: one example alone does not fit.
    """

    @functools.wraps(function)
    def fitting(state: TrainingState, /, *given: Given.args, **named: Given.kwargs) -> Result:
        while True:
            try:
                return function(state, *given, **named)
            except (RuntimeError, MemoryError) as error:
                _raise_unless_smaller_may_fit(state, error, state.microbatch_size)
                state.optimizer.zero_grad()
                state.microbatch_size = (state.microbatch_size + 1) // 2
                devices.empty_cache(state.engine.device)
                size = state.microbatch_size
                print(f"out of memory: going on with microbatches of {size}, same result", file=sys.stderr)

    return fitting


def _raise_unless_smaller_may_fit(state: TrainingState, error: Exception, size: int) -> None:
    """Raise `error` again where it is no lack of memory, or where the work can't be cut in smaller pieces."""
    if not lack_of_memory.is_out_of_memory(error):
        raise error
    if state.engine.sharded:
        raise TrainingError(
            f"out of memory ({error}); what was saved is whole: with sharded weights all processes take the "
            "same steps, so lower --ppo.microbatch-size for all of them, or start more processes"
        ) from error
    if size == 1:
        raise TrainingError(
            f"out of memory with one example at a time ({error}); what was saved is whole: free some memory, "
            "choose a smaller --model.base, or prepare shorter dialogues (--data.max-query-tokens)"
        ) from error
