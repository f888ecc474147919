"""Lock files: held by one living process, gone with the hold. No torch.

The system drops the lock of a process that dies, on this machine and, where the disk is shared, on others; a forked
child keeps none (filelock).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock file at `path`, which is made for it and removed afterwards.

    Yields:
        Its descriptor, to be written to; None where another process holds it, unless this one may `wait`.

    Raises:
        OSError: the file can't be made or locked.
    """
    import filelock

    _touch(path)
    descriptors: list[int] = []
    lock = filelock.FileLock(path, timeout=-1 if wait else 0, poll_interval=0.01, on_acquired=descriptors.append)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield None
        return
    try:
        yield descriptors[0]
    finally:
        with contextlib.suppress(PermissionError):  # Windows, where filelock removes the file after its release
            path.unlink(missing_ok=True)  # while it is locked: nobody takes what is removed
        lock.release()


def _touch(path: Path) -> None:
    """Make the file, since filelock would try without end where none can be made, such as below /proc."""
    for last in (False, True):  # a former holder may take the folder away, and another one bring it back
        try:
            return path.touch()
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            if last:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path.parent)) from None
