"""What `--help` prints: every flag with its kind, default and description. No torch."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

from detox.stage import commands, flags

if TYPE_CHECKING:
    import config


WIDEST = 100


def help_text(settings: config.Stage, script: str, description: str = "") -> str:
    """Return what `--help` prints, as wide as the terminal, at most `WIDEST`.

    Args:
        settings: the defaults to show.
        script: file name of the stage.
        description: paragraphs; the stage's docstring unless given.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    head = description or type(settings).__doc__ or ""
    program = commands.program(script)
    lines = [f"usage: {program} [--flag value ...]", ""]
    for paragraph in head.strip().split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    lines += ["Examples:", f"  {program} --preset demo", f"  {program} --run trial --seed 1"]
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
