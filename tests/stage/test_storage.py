"""What a disk refuses becomes one line."""

from __future__ import annotations

import errno

import pytest

from detox.stage import storage


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, ""), "here: No space left on device; free some space"),
        (
            OSError(errno.EROFS, "", "there"),
            "there: Read-only file system; choose a folder that can be written",
        ),
        (OSError(errno.EACCES, "", b"there"), "there: Permission denied; check its permissions"),
        (
            OSError(errno.EFBIG, "", "read.py", None, "written.py"),  # a copy or a renaming
            "written.py: File too large; raise the limit on file sizes (ulimit -f)",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "here: No space left on device; free some space",
        ),
        (RuntimeError("No such file or directory (os error 2)"), None),
        (FileNotFoundError(errno.ENOENT, "", "there"), None),
        (ValueError("wrong"), None),
    ],
)
def test_storage_errors(error, line):
    told = storage.refusal(error, "here")
    assert line == (told and str(told))


def test_storage_error_finds_the_cause():
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "", "there")
    assert str(storage.refusal(error, "here")) == "there: No space left on device; free some space"
