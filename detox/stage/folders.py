"""Folders that come, change places and go as a whole: no reader ever meets a part of one. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from detox.stage import drafts
from detox.stage.errors import UserError


def make(folder: Path) -> None:
    """Make a folder and its parents where they are missing.

    Raises:
        UserError: a file is in the way, or a name is none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        what = "leads to no folder" if there.is_symlink() else "is a file, not a folder"
        raise UserError(f"{there} {what}; choose another --run or --checkpoints") from None
    except FileNotFoundError:
        raise UserError(f"{folder} can't be made; choose another --checkpoints") from None


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents for this block; those that are left empty go again. Errors as in `make`."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()


def remove(folder: Path) -> None:
    """Remove an artefact, or a folder of them: renamed first, so that no reader ever meets a part."""
    doomed = drafts.temporary(Path(os.path.realpath(folder)))
    os.rename(folder, doomed)
    drafts.discard(doomed)


def replace(target: Path, draft: Path) -> None:
    """Put `draft` in the place of `target`; what stood there goes, or is left under a draft's name."""
    if not os.path.lexists(target):
        os.rename(draft, target)
    elif not _exchange(draft, target):
        old = drafts.temporary(target, "old")
        with drafts.held(old, wait=True):
            os.rename(target, old)
            os.rename(draft, target)
            drafts.discard(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can (Linux): the name is never without a folder."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return False
    return renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0


def recover(target: Path) -> None:
    """Put the old folder back where a replacement was killed between its two renames."""
    for _ in range(100):
        replaced = [] if os.path.lexists(target) else drafts.leftovers(target, "old")
        if not replaced:
            return
        for old in replaced:
            with contextlib.suppress(OSError), drafts.held(old) as mine:
                if mine and not os.path.lexists(target):
                    os.rename(old, target)
        time.sleep(0.01)  # its writer lives and is about to put the new one there


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in a folder; an only copy is put back."""
    for old in drafts.leftovers(folder / drafts.ALL, "old"):
        recover(drafts.owner(old))
    drafts.sweep(folder / drafts.ALL)


@contextlib.contextmanager
def aside(folder: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> Iterator[None]:
    """Move a folder out of the way of its successor, which is made in this block, and put it back where that fails.

    Args:
        folder: may be missing.
        own: says of a name in the folder that it is this program's; what else lies there is handed on.
        is_whole: says of the successor that it can take the old one's place.
    """
    place = Path(os.path.realpath(folder))
    kept = drafts.temporary(place, "before")
    with drafts.held(kept, wait=True):
        try:
            if place.exists():
                os.rename(place, kept)
                if folder.is_symlink():
                    place.mkdir()  # the link stays, and leads to the successor
            yield
        finally:
            _settle(kept, own, is_whole)


def settle(folder: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> None:
    """Finish what `aside` could not, because its process died; arguments as there."""
    for kept in drafts.leftovers(Path(os.path.realpath(folder)), "before"):
        with contextlib.suppress(OSError), drafts.held(kept) as mine:
            if mine:
                _settle(kept, own, is_whole)


def _settle(kept: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> None:
    folder = drafts.owner(kept)
    if not kept.exists():
        return
    if not is_whole(folder):
        if folder.exists():
            remove(folder)
        os.rename(kept, folder)
        return
    for name in os.listdir(kept):
        if not own(name) and not os.path.lexists(folder / name):
            os.rename(kept / name, folder / name)
    remove(kept)
