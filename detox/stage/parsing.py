"""Settings from the words of a command line; what is wrong with one of them, in one line. No torch."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro import _errors as tyro_errors

from detox.stage import flags, paths
from detox.stage.errors import UserError
from detox.stage.help_text import help_text

if TYPE_CHECKING:
    import config
    from config import S


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
