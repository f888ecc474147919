"""Settings from the words of a command line; what is wrong with one of them, in one line. No torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro import _errors as tyro_errors

from detox.stage import commands, flags, manifest, paths, settings_file
from detox.stage.errors import UserError
from detox.stage.help_text import help_text
from detox.stage.settings_file import SettingsFile

if TYPE_CHECKING:
    import config
    from config import S


def parse(
    stage: type[S],
    argv: Sequence[str],
    description: str = "",
    of_run: Callable[[S, Set[str]], list[str]] | None = None,
) -> S:
    """Return the validated settings of a stage.

    Args:
        stage: class of the settings.
        argv: the words.
        description: head of `--help`.
        of_run: returns what the run says of settings that are in none of the flags named, by a word or a file.

    Raises:
        SystemExit: help was asked for, and printed.
        UserError: an argument is unknown, given twice, without value, or has a wrong value.
    """
    _refuse_repeated(argv)
    words, file = _without_file(argv, stage)
    commands.file = None if file is not None and Path(file.path).name == manifest.NAME else file
    commands.kept = frozenset()
    try:
        defaults = _defaults(stage, words, file)
        if not {"-h", "--help"}.isdisjoint(words):
            print(help_text(defaults, Path(sys.argv[0]).name, description))
            raise SystemExit(0)
        settings = _typed(words, defaults)
        found = of_run(settings, _names(words).union(file.given if file else ())) if of_run else []
        if found:
            words = [*words, *found]
            settings = _typed(words, _defaults(stage, words, file))
        settings.validate()
    except UserError as error:
        raise (error if file is None or flags.blamed(error) in _names(words) else file.blamed(error)) from None
    return paths.tidy(settings)


def _without_file(argv: Sequence[str], stage: type[S]) -> tuple[list[str], SettingsFile | None]:
    """Return the other words, and what the file that --config names sets."""
    for position, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == flags.CONFIG.name:
            end = position + 1 if equals else position + 2
            value = value if equals else "".join(argv[position + 1 : end])
            if not value or (not equals and value.startswith("-")):
                raise UserError(f"{name}: a value is missing")
            return [*argv[:position], *argv[end:]], settings_file.read(value, stage.stages())
    return list(argv), None


def _defaults(stage: type[S], words: list[str], file: SettingsFile | None) -> S:
    """Return what holds where no flag says otherwise: the preset's settings, and over them the file's."""
    if file is None:
        return stage.of_preset(_preset_name(words, stage.preset))
    usual = _preset_name(words, file.text("--preset") or stage.preset)
    defaults = stage.of_preset(usual)
    try:
        return replace(_typed(file.words(defaults), defaults), preset=defaults.preset)
    except UserError as error:
        raise file.blamed(error) from None


def _typed(words: Sequence[str], defaults: S) -> S:
    with tyro_errors.on_parse_error(lambda event: _refuse(event, defaults)):
        return tyro.cli(type(defaults), args=list(words), default=defaults)


def _names(words: Sequence[str]) -> set[str]:
    """Return the flags that were typed."""
    return {word.partition("=")[0].replace("_", "-") for word in words}


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
        raise UserError(_unknown(event.tokens, defaults))
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


def _unknown(tokens: Sequence[str], defaults: config.Stage) -> str:
    name, *more = (token.partition("=")[0].replace("_", "-") for token in tokens)
    if not name.startswith("-") or name == "-":
        return f"unexpected argument {tokens[0]!r}; every setting is an option, see --help"
    stages = {script: flags.flag_names(stage()) for script, stage in defaults.stages().items()}
    elsewhere = [script for script, theirs in stages.items() if name in theirs]
    if elsewhere:
        likewise = [other for other in more if any(other in stages[script] for script in elsewhere)]
        beside = f"; likewise {', '.join(likewise)}" if likewise else ""
        return f"{name}: no such option here, but in {' and '.join(elsewhere)}{beside}"
    near = flags.nearest(name, flags.flag_names(defaults))
    return f"{name}: no such option; " + (f"did you mean {near}?" if near else "see --help")
