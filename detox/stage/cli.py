"""The command line of a stage: settings from flags, errors as one line and an exit code. No torch."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import select
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import tyro
from tyro import _errors as tyro_errors

from detox.stage import environment, flags, lack_of_memory, notes, paths, storage
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config
    from config import S


USER_ERROR, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
WIDEST_HELP = 100
_NO_MEMORY = "out of memory: free some, or choose a smaller model, smaller batches or another --device"


class _Terminated(BaseException):
    """SIGTERM arrived."""


def run(
    stage: type[S],
    main: Callable[[S], int | None],
    argv: Sequence[str] | None = None,
    description: str = "",
) -> int:
    """Run a stage with settings from the command line.

    Args:
        stage: class of the settings.
        main: does the stage's work; what it returns is the exit code, None is 0.
        argv: arguments without the program's name; None takes those of the process.
        description: head of `--help`; the stage's docstring unless given.

    Returns:
        The exit code: 0, 2 (wrong input, told in one line), 130 (SIGINT), 143 (SIGTERM), 141 (reader gone).
        A bug keeps its traceback.
    """
    _speak_utf8()
    environment.take_out_what_is_no_number()
    notes.forget()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_raises():
            settings = parse(stage, arguments, description)
            code = main(settings) or 0
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return _fail(f"error: {error}", USER_ERROR) if _has_the_word() else USER_ERROR
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED) if _has_the_word() else INTERRUPTED
    except _Terminated:
        return _fail("terminated", TERMINATED) if _has_the_word() else TERMINATED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and any(map(_reader_is_gone, (sys.stdout, sys.stderr))):
            return BROKEN_PIPE
        told = storage.refusal(error, "output") or (_NO_MEMORY if lack_of_memory.is_out_of_memory(error) else None)
        if told is None:
            raise
        return _fail(f"error: {told}", USER_ERROR)
    finally:
        _drop_unwritable()


def parse(stage: type[S], argv: Sequence[str], description: str = "") -> S:
    """Return the validated settings of a stage.

    Raises:
        SystemExit: help was asked for, and printed.
        UserError: an argument is unknown, given twice, without value, or has a wrong value.
    """
    _refuse_repeated(argv)
    defaults = stage.of_preset(_preset_name(argv, stage.preset))
    if not {"-h", "--help"}.isdisjoint(argv):
        print(help_text(defaults, Path(sys.argv[0]).name, description))
        raise SystemExit(0)
    with tyro_errors.on_parse_error(lambda event: _refuse(event, defaults)):
        settings = tyro.cli(stage, args=list(argv), default=defaults)
    settings.validate()
    return paths.tidy(settings)


def command(script: str, settings: config.Stage, *flags: str) -> str:
    """Return what to type for `script` on the same run as `settings`."""
    words = ["python", script]
    if settings.preset != type(settings).preset:
        words += ["--preset", settings.preset]
    if settings.run is not None:
        words += ["--run", settings.run]
    if settings.checkpoints != type(settings).checkpoints:
        words += ["--checkpoints", settings.checkpoints]
    return shlex.join([*words, *flags])


def help_text(settings: config.Stage, program: str, description: str = "") -> str:
    """Return what `--help` prints, as wide as the terminal, at most `WIDEST_HELP`.

    Args:
        settings: the defaults to show.
        program: file name of the stage.
        description: paragraphs; the stage's docstring unless given.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST_HELP)
    head = description or type(settings).__doc__ or ""
    lines = [f"usage: python {program} [--flag value ...]", ""]
    for paragraph in head.strip().split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    lines += ["Examples:", f"  python {program} --preset demo", f"  python {program} --run trial --seed 1"]
    for group in flags.groups(settings):
        title = f"{group.name}: {group.description}" if group.name else "Options:"
        lines += ["", *textwrap.wrap(title, width)]
        for flag in group.flags:
            lines += _flag_help(flag, width)
    return "\n".join(lines)


def _flag_help(flag: flags.Flag, width: int) -> list[str]:
    name = f"{flag.name}, {flag.off}" if flag.off else f"{flag.name} {flag.kind}"
    text = f"{flag.description} (default: {flag.default})" if flag.default else flag.description
    margin = " " * 6
    wrapped = textwrap.wrap(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )
    return [f"  {name}", *wrapped]


def _preset_name(argv: Sequence[str], usual: str) -> str:
    """Find the preset, which the other defaults depend on."""
    for position, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == "--preset":
            following = argv[position + 1 : position + 2]
            value = value if equals else "".join(following)
            return usual if not equals and value[:1] in ("", "-") else value
    return usual


def _refuse_repeated(argv: Sequence[str]) -> None:
    seen: set[str] = set()
    for argument in argv:
        if argument == "--":
            raise UserError("unexpected argument '--'; every setting is an option, see --help")
        if not argument.startswith("--"):
            continue
        flag = argument.partition("=")[0].replace("_", "-")
        setting = re.sub(r"^--((?:.*\.)?)no-", r"--\1", flag)
        if setting in seen:
            raise UserError(f"{setting} is given twice; keep one of them")
        seen.add(setting)


def _refuse(event: tyro_errors.ParseErrorEvent, defaults: config.Stage) -> None:
    """Say in one line what tyro says in a box."""
    argument = getattr(event, "argument", None)
    flag = argument.lowered.name_or_flags[0] if argument is not None else "arguments"
    if isinstance(event, tyro_errors.UnrecognizedArgs):
        raise UserError(_unknown(event.tokens[0], flags.flag_names(defaults)))
    if isinstance(event, tyro_errors.InvalidChoice):
        raise UserError(f"{flag}={event.value}: choose {' or '.join(event.choices)}")
    if isinstance(event, tyro_errors.BadValue):
        raise UserError(f"{flag}: a value is missing")
    if isinstance(event, tyro_errors.InstantiationFailure):
        raise UserError(_wrong_value(flag, event.message))
    raise UserError(f"{flag}: {type(event).__name__}; see --help")


def _wrong_value(flag: str, message: str) -> str:
    for reason, rule in (
        ("could not convert string to float", "must be a number"),
        ("invalid literal for int() with base 10", "must be a whole number"),
        ("Could not find valid parse for arguments", "not what it takes, see --help"),
    ):
        found = re.search(rf"{re.escape(reason)}: (.*)", message)
        if found:
            return f"{flag}={found[1]}: {rule}"
    return f"{flag}: {message}"


def _unknown(token: str, known: list[str]) -> str:
    name = token.partition("=")[0].replace("_", "-")
    if not name.startswith("-") or name == "-":
        return f"unexpected argument {token!r}; every setting is an option, see --help"
    tail = name.lstrip("-").rpartition(".")[2]
    same_tail = [flag for flag in known if flag.lstrip("-").rpartition(".")[2] == tail]
    near = difflib.get_close_matches(name, same_tail or known, n=1, cutoff=0.0 if same_tail else 0.6)
    return f"{name}: no such option; " + (f"did you mean {near[0]}?" if near else "see --help")


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as SIGINT does, so that half-written artefacts are removed."""

    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker: its pool ends it so, and it has nothing to clean up
            os._exit(TERMINATED)
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _speak_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _has_the_word() -> bool:
    """Return whether this is the process, of several that a launcher has started, that tells of the failure.

    Before they have joined they all do the same, and the main one speaks.
    """
    parallel = sys.modules.get("detox.stage.parallel")
    if parallel is None or not parallel.joined():
        return os.environ.get("RANK", "0") == "0"
    return parallel.has_the_word()


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
