"""docs/settings.md: every flag of every stage, from `config.py`. `make docs` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

import config
from detox.stage import flags

PATH = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
COMMAND = "make docs"

HEAD = f"""# Settings

Written by `{COMMAND}` from [config.py](../config.py); edit that file, not this one.

Every setting is a flag of the stage that uses it: `--name value` or `--name=value`. An optional setting is taken away
by `None`. A switch is turned on by its name and off by `no-` before the last part of it: `--ppo.score-scale`,
`--ppo.no-score-scale`. Defaults come from the preset, `--preset flan-t5` unless given; where the column `demo` is
empty, both have the same.

`--config settings.yaml` reads settings from a file: it goes before the preset, which it may name, and flags go before
it. Names are those of the flags, nested or with dots, with `-` or `_`; values are what the flags take, switches `true`
or `false`, several values a list. One file may serve all stages: each takes the settings that it has. Relative paths in
it are of the working folder, as in flags. A `manifest.json` is such a file too, all of its settings but `overwrite`;
where it lies in a run, it is of that run, whatever its name was when it was written.
Commands in messages name what differs from the preset, and the file where it has more for the stage that they start.
"""


def text() -> str:
    """Return the reference in Markdown."""
    return "\n".join([HEAD, *(_stage(script, stage) for script, stage in config.STAGES.items())])


def _stage(script: str, stage: type[config.Stage]) -> str:
    lines = [f"## {script}", "", f"{(stage.__doc__ or '').strip()}", ""]
    usual, demo = (flags.groups(config.preset(stage, name)) for name in config.PRESETS)
    for group, other in zip(usual, demo, strict=True):
        if group.name:
            lines += [f"### {group.name}", "", group.description, ""]
        lines += ["| Flag | Value | Default | demo | Meaning |", "|---|---|---|---|---|"]
        lines += [_row(*pair) for pair in zip(group.flags, other.flags, strict=True)]
        lines.append("")
    return "\n".join(lines)


def _row(flag: flags.Flag, demo: flags.Flag) -> str:
    other = "" if demo.default == flag.default or flag.name == "--preset" else _code(demo.default)
    cells = (_code(flag.name), _value(flag), _code(flag.default), other, flag.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(flag: flags.Flag) -> str:
    """Return what to type behind a flag: a kind of value, or the choices."""
    if flag.kind.startswith("{"):
        return ", ".join(map(_code, flag.kind.strip("{}").split(",")))
    kind = flag.kind.removeprefix("None|").removesuffix("|None")
    words = {"": "switch", "INT": "whole number", "FLOAT": "number", "TEXT": "text", "[TEXT ...]": "one or more texts"}
    return words.get(kind, kind) + (", optional" if kind != flag.kind else "")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def problem() -> str | None:
    """Return what to say where the committed file is not what `config.py` says now."""
    current = PATH.is_file() and PATH.read_text(encoding="utf-8") == text()
    return None if current else f"docs/{PATH.name} is not what config.py says now; run `{COMMAND}` and commit it"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(problem())
    PATH.write_text(text(), encoding="utf-8")
    print(f"wrote {PATH}")
