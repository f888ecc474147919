"""Single files: written whole and on the disk, known by their digest. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from detox.stage import drafts, storage
from detox.stage.errors import UserError


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write one file: a reader sees the old contents or the new, never a part.

    Raises:
        UserError: the file can't be written.
    """
    named, path = path, Path(os.path.realpath(path))
    if named.is_symlink() and not path.parent.is_dir():
        raise UserError(
            f"{named} is a link into {path.parent}, which is not there; bring it back, or move the link away"
        )
    with storage.told(path):
        drafts.sweep(path)
        temporary = drafts.temporary(path)
        with drafts.held(temporary, wait=True):
            try:
                write_new(temporary, data.encode() if isinstance(data, str) else data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, and wait until the disk has it."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def share(path: Path) -> None:
    """Let those read a file whom the umask lets read new ones; some libraries write for their user alone."""
    mask = os.umask(0)
    os.umask(mask)
    with contextlib.suppress(OSError):  # a disk that knows no permissions
        path.chmod(path.stat().st_mode | 0o666 & ~mask)


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file."""
    with open(path, "rb+") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the file system knows that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
