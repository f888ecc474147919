"""What made a result: the versions of Python and the libraries, and the commit of this program. No torch."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "evaluate")
DIRTY = "-dirty"
"""What git says of a commit behind which there are changes."""


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
    """Return the commit of this program, `-dirty` behind it where files of it were changed since; None without a git
    checkout of its own."""
    root = Path(__file__).resolve().parents[2]
    found = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
    if len(found) != 2 or Path(found[0]) != root:
        return None
    commit = found[1]
    return f"{commit}{DIRTY}" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *words: str) -> str:
    """Return what git says of the repository at `root`, whatever one a hook of git's runs for; nothing if it fails."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=True, env=own)
        return done.stdout.decode()
    return ""
