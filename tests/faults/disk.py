"""A disk that is really small: a tmpfs that one process mounts in a name space of its own, where Linux lets it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE, _DETACH = 1 << 18, 1 << 14, 2


@functools.cache
def possible() -> bool:
    """Return whether this system lets a child process mount a small disk."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-m", __name__], cwd=root, capture_output=True).returncode == 0


def used(folder: Path) -> int:
    """Return the bytes that the files below a folder take on such a disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)


@contextlib.contextmanager
def small(folder: Path, size: int) -> Iterator[None]:
    """Put a folder on a disk of `size` bytes that this process alone sees; its contents end in `kept(folder)`.

    Raises:
        OSError: the system does not allow it.
    """
    folder.mkdir(exist_ok=True)
    shutil.copytree(folder, kept(folder))
    _leave_common_mounts()
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode())
    shutil.copytree(kept(folder), folder, dirs_exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(kept(folder))
        shutil.copytree(folder, kept(folder))
        _call("umount2", os.fsencode(folder), _DETACH)


def kept(folder: Path) -> Path:
    """Return where the contents of a small disk are found when its process has ended."""
    return folder.with_name(f"{folder.name}.kept")


def _leave_common_mounts() -> None:
    """Take a mount name space: with root's rights, or with those of a user name space."""
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:
        _call("unshare", _NEW_USER | _NEW_MOUNTS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    _call("mount", None, b"/", None, _PRIVATE | _RECURSIVE, None)


def _call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"{name}: not on this system")
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        try:
            with small(Path(place, "disk"), PAGE):
                Path(place, "disk", "full").write_bytes(bytes(PAGE + 1))
        except OSError as error:
            sys.exit(error.errno != errno.ENOSPC)
    sys.exit(1)
