"""What made a result: the versions of Python and the libraries, and the commit of this program. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "evaluate")


def installed() -> dict[str, str | None]:
    """Return the versions of Python and of the libraries that decide results; None of one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def git_rev() -> str | None:
    """Return the commit of this program, or None where it is not a git checkout of its own."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=True)
        top, commit = done.stdout.decode().splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return commit if Path(top) == root else None
