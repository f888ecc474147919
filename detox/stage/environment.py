"""Variables of the environment: those that the hub's client takes for numbers, and the launcher's. No torch, no client.

A value that is no number ends the client's import with a traceback, even where no hub is needed. So such a variable is
taken out before, and told of where the hub is.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_NUMBERS: dict[str, Callable[[str], object]] = {
    "HF_HUB_ETAG_TIMEOUT": int,
    "HF_HUB_DOWNLOAD_TIMEOUT": int,
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": float,
}

problems: list[str] = []
"""What was found, a sentence each."""


def take_out_what_is_no_number() -> None:
    """Remove such variables from the environment of this process and its children, and note them in `problems`."""
    for name, number in _NUMBERS.items():
        try:
            number(os.environ.get(name, "0"))
        except ValueError:
            problems.append(f"{name}={os.environ.pop(name)!r} is no number")


def is_first_process() -> bool:
    """Return whether no launcher has started this process, or as the first one: it speaks for the others."""
    return os.environ.get("RANK", "0") == "0"
