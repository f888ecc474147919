"""Temporary files and folders beside what they become, and what dead processes left of them. No torch.

One is called `.<name>.<process>-<token>.<suffix>`, and its process holds a lock file beside it. The number of the
process could not say whether it lives: on a shared disk, other machines and containers count their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from detox.stage import lock_file

ALL = "*"
"""A name that stands for every name in its folder."""


def temporary(target: Path, suffix: str = "tmp") -> Path:
    """Return a new temporary name beside `target`; the suffix says what for."""
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.{suffix}"


def leftovers(target: Path, suffix: str) -> list[Path]:
    """Return the temporary files and folders that stand beside `target` for it; its name may be `ALL`."""
    name = ".+" if target.name == ALL else re.escape(target.name)
    pattern = re.compile(rf"\.{name}\.\d+-[0-9a-f]{{8}}\.{suffix}")
    try:
        names = os.listdir(target.parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [target.parent / name for name in sorted(names) if pattern.fullmatch(name)]


def owner(temporary: Path) -> Path:
    """Return what a temporary name stands for."""
    return temporary.with_name(temporary.name[1:].rsplit(".", 2)[0])


@contextlib.contextmanager
def held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Mark a temporary file or folder as in use by a living process.

    Yields:
        False where another process holds it, unless this one may `wait`.
    """
    with lock_file.held(path.with_suffix(".lock"), wait) as descriptor:
        yield descriptor is not None


def sweep(target: Path) -> None:
    """Remove what dead processes left beside `target`, and what they left of it."""
    everything = target.with_name(ALL)
    for path in leftovers(everything, "tmp") + leftovers(target, "old") + leftovers(everything, "lock"):
        with contextlib.suppress(OSError), held(path) as mine:
            if mine and path.suffix != ".lock":  # which goes with the hold on it
                discard(path)


def discard(path: Path) -> None:
    """Remove a temporary file or folder, or as much of it as can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
