"""What a disk refuses, told in one line: it is full, read-only or forbidden. No torch."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from detox.stage.errors import UserError

_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EISDIR: "a folder is in the way; move it, or choose another name",
    errno.EIO: "check the disk",
}


def refusal(error: BaseException, path: object) -> UserError | None:
    """Return the line for a full, read-only or forbidden disk, or None for any other error.

    Args:
        error: what was raised; libraries hide the system's error in a cause, or in the text (safetensors).
        path: named where the error names none.
    """
    cause: BaseException | None = error
    while cause is not None:
        hidden = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(hidden[1]) if hidden else None
        if number in _ADVICE:
            written = getattr(cause, "filename2", None)  # of a copy or a renaming
            name = getattr(cause, "filename", None) if written is None else written
            return UserError(f"{path if name is None else os.fsdecode(name)}: {os.strerror(number)}; {_ADVICE[number]}")
        cause = cause.__cause__
    return None


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the disk refuses in this block into one line, which names `path` where the error names none.

    Raises:
        UserError: the disk is full, read-only or forbidden.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = refusal(error, path)
        if line is None:
            raise
        raise line from error
