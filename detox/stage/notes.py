"""What a stage has to tell of the files that it read: lines for its user, notes for its manifest."""

from __future__ import annotations

import sys
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


def tell(line: str) -> None:
    """Say once, in one process of those that a launcher has started, what was done with a user's files."""
    if line not in _told and environment.is_first_process():
        print(f"note: {printable(line)}", file=sys.stderr)
    _told.add(line)
