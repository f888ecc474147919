"""A stage on the command line: run with settings from flags, errors as one line and an exit code. No torch.

What scripts import before they come here needs no installed package: a Python that lacks some is told so in a line.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from detox.stage import environment, flags, lack_of_memory, notes, paths, storage, versions
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    from config import S


USER_ERROR, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
_UNTIL_TOLD = 60.0
"""Seconds for which a process that leaves the word to another waits to be ended by the launcher, whose signal comes
once: what was ended by one waits a moment."""
_MOMENT = 1.0
_SOON = 0.05
"""Seconds until a lost signal is sent again, by when what lost it is done."""
_NO_MEMORY = "out of memory: free some, or choose a smaller model, smaller batches or another --device"
_OWN = ("config", "detox")
_ENVIRONMENT = (
    "take the Python that has it (source .venv/bin/activate), or run: python -m pip install -r requirements.txt"
)


safe = ""
"""What is saved so far, and how to go on from there; told where the stage is stopped."""


class _Terminated(BaseException):
    """SIGTERM arrived."""


_late: list[int] = []
"""SIGTERM where it arrived after a failure and before that was told."""


def run(
    stage: type[S],
    main: Callable[[S], int | None],
    argv: Sequence[str] | None = None,
    description: str = "",
    of_run: Callable[[S, Set[str]], list[str]] | None = None,
) -> int:
    """Run a stage with settings from the command line.

    Args:
        stage: class of the settings.
        main: does the stage's work; what it returns is the exit code, None is 0.
        argv: arguments without the program's name; None takes those of the process.
        description: head of `--help`; the stage's docstring unless given.
        of_run: see `parsing.parse`.

    Returns:
        The exit code: 0, 2 (wrong input, told in one line), 130 (SIGINT), 143 (SIGTERM), 141 (reader gone).
        A bug keeps its traceback.
    """
    _speak_utf8()
    environment.take_out_what_is_no_number()
    notes.forget()
    global safe
    safe = "nothing on disk is lost; type the same command again"
    words = list(sys.argv[1:] if argv is None else argv)
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    _late.clear()
    try:
        from detox.stage import parsing

        with _sigterm_raises(), _lost_signals_come_again():
            settings = parsing.parse(stage, words, description, of_run)
            if settings.overwrite:
                safe = "nothing on disk is lost; the same command starts it over"
            paths.demand_utf8(settings.checkpoints)
            versions.git_rev()  # of the code that runs, whatever is edited meanwhile
            try:
                code = main(settings) or 0
            except UserError as error:
                raise flags.about(error, settings) from None
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return _tell_once(f"error: {error}", USER_ERROR)
    except KeyboardInterrupt:
        return _tell_once(f"interrupted: {safe}", INTERRUPTED, _MOMENT)
    except _Terminated:
        return _tell_once(f"terminated: {safe}", TERMINATED, _MOMENT)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN:
            raise
        return _tell_once(f"error: {sys.executable} lacks the package {error.name!r}; {_ENVIRONMENT}", USER_ERROR)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and any(map(_reader_is_gone, (sys.stdout, sys.stderr))):
            return BROKEN_PIPE
        told = storage.refusal(error, "output") or (_NO_MEMORY if lack_of_memory.is_out_of_memory(error) else None)
        if told is None:
            raise
        return _fail(f"error: {told}", USER_ERROR)
    finally:
        _on_sigterm(before)
        _drop_unwritable()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as SIGINT does, so that half-written artefacts are removed.

    It is only noted once something has failed: a launcher ends all processes when one fails, the one that tells too.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    def note(number: int, frame: FrameType | None) -> None:
        _late.append(number)

    _on_sigterm(handle)
    try:
        yield
    except BaseException:
        _on_sigterm(note)
        raise


@contextlib.contextmanager
def _lost_signals_come_again() -> Iterator[None]:
    """Send a signal once more whose exception was lost.

    Python discards what is raised in a `__del__`, and a signal that comes while garbage is collected is obeyed in one.
    """
    usual, timers = sys.unraisablehook, []
    numbers: dict[type[BaseException], int] = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}

    def send(number: int) -> None:
        if hasattr(signal, "pthread_kill"):  # wakes a main thread that waits
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:
            signal.raise_signal(number)

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type not in numbers:
            return usual(lost)
        timers.append(threading.Timer(_SOON, send, [numbers[lost.exc_type]]))
        timers[-1].daemon = True
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for timer in timers:
            timer.cancel()


def _on_sigterm(handler: Any) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, handler)


class _Fork(threading.local):
    """Leaves SIGTERM to the system in a forked worker, which its pool ends so, and which has nothing to clean up.

    Python would run a handler of ours only after the wait that the worker may just begin, and forgets a signal that
    comes while it forks; the pool would wait for that worker without end.
    """

    mask: set[int | signal.Signals] | None = None

    def before(self) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        if str(getattr(handler, "__module__", "")).startswith("detox."):
            self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def in_parent(self) -> None:
        if self.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            self.mask = None

    def in_child(self) -> None:
        if self.mask is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.in_parent()


if hasattr(os, "register_at_fork"):  # Windows has neither
    _fork = _Fork()
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.in_parent, after_in_child=_fork.in_child)


def _speak_utf8() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _has_the_word() -> bool:
    """Return whether this is the process, of several that a launcher has started, that tells of the failure.

    Before they have joined they all do the same, and the main one speaks.
    """
    parallel = sys.modules.get("detox.stage.parallel")
    if parallel is None or not parallel.joined():
        return environment.is_first_process()
    return parallel.has_the_word()


def _tell_once(line: str, code: int, seconds: float = _UNTIL_TOLD) -> int:
    """Fail, or leave the line for some seconds to the process that has the word; return the exit code."""
    if _has_the_word():
        return _fail(line, code)
    _on_sigterm(signal.SIG_DFL)
    # The first process to end makes the launcher end the others, the one that tells included.
    time.sleep(_MOMENT if _late else seconds)
    return code


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
    return code


def _reader_is_gone(stream: TextIO) -> bool:
    if not hasattr(select, "poll"):  # Windows, where a pipe can't be asked
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_unwritable() -> None:
    """Point an output that can't be written to nowhere, so that the interpreter's last flush is silent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
