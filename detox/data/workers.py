"""The processes that tokenize: workers of our own, or those of a launcher; results come in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

from detox.stage.errors import UserError
from detox.stage.parallel import Processes

Map = Callable[[Iterable[Any]], Iterator[Any]]


@contextmanager
def ordered_map(function: Callable[[Any], Any], workers: int, processes: Processes) -> Iterator[Map]:
    """Give a `map` over workers or the processes of the run: results in order, arguments read only a little ahead.

    Args:
        function: what is mapped.
        workers: how many to start; 1 starts none.
        processes: of the run; where they are several, they are the workers.

    Raises:
        UserError: a worker has died.
    """
    if processes.count > 1:
        yield partial(shared_map, function, processes)
        return
    if workers == 1:
        yield partial(map, function)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (function,))
    try:
        yield partial(_pooled_map, pool, 2 * workers)
    except BrokenProcessPool:
        raise UserError(f"--data.workers={workers}: a worker process died; try fewer") from None
    finally:
        pool.shutdown(cancel_futures=True)


def shared_map(function: Callable[[Any], Any], processes: Processes, arguments: Iterable[Any]) -> Iterator[Any]:
    """Map over the processes of a run: the main one reads the arguments, and all are given all results, in order."""
    arguments = iter(arguments)
    while block := processes.on_main(lambda: list(islice(arguments, processes.count))):
        yield from processes.map(function, block)


def _pooled_map(pool: ProcessPoolExecutor, ahead: int, arguments: Iterable[Any]) -> Iterator[Any]:
    running: deque[Future[Any]] = deque()
    for argument in arguments:
        with _deaf_to_interrupts():  # as are the workers that are started here, from their first moment
            running.append(pool.submit(_work, argument))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may say what signals do
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Keep the function in the worker, leave Ctrl-C to the parent, and end with it, however it ends."""
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(argument: Any) -> Any:
    return _function(argument)
