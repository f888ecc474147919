"""The one exception that means "the user can fix this", and making foreign text safe to print."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


class UserError(Exception):
    """Wrong input, told in one line: what is wrong, with its value, and what to do about it."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: object, limit: int | None = None) -> str:
    """Return `text` on one line without control characters, bidi overrides or terminal escape sequences.

    Args:
        text: anything; what comes from data, models or the file system is never trusted.
        limit: cut to that many characters, the last one an ellipsis.
    """
    line = _ESCAPE.sub("", str(text))
    line = re.sub(r"\s+", " ", line)
    line = "".join(filter(str.isprintable, line)).strip()
    if limit is not None and len(line) > limit:
        line = line[: limit - 1] + "…"
    return line
