"""What a stage has to tell: lines for its user, as wide as a terminal is; for its manifest, which files it read."""

from __future__ import annotations

import functools
import shutil
import sys
import textwrap
from typing import Any

from detox.stage import environment
from detox.stage.errors import printable

pickles: dict[str, str] = {}
"""Pickles that this stage has read: model/file -> sha256."""
_told: set[str] = set()


def forget() -> None:
    """Begin a stage: what another one in this process has read is none of its business."""
    pickles.clear()
    _told.clear()


def for_manifest() -> dict[str, Any]:
    """Return the notes that belong into the manifest of what this stage writes."""
    return {"pickles": dict(pickles)} if pickles else {}


def folded(text: str) -> str:
    """Return a text with its long lines broken between words, where stdout is a terminal."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    fold = functools.partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(part for line in text.split("\n") for part in (fold(line) if len(line) > width else [line]))


def tell(line: str) -> None:
    """Say once, in one process of those that a launcher has started, what was done with a user's files."""
    if line not in _told and environment.is_first_process():
        print(f"note: {printable(line)}", file=sys.stderr)
    _told.add(line)
