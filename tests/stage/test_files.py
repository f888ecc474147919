"""Single files: written whole, digested in pieces."""

from __future__ import annotations

import hashlib
import os

import pytest

from detox.stage import files
from detox.stage.errors import UserError
from tests.stage.artefacts import tree


def test_a_file_that_a_library_wrote_for_its_user_alone_is_for_those_whom_the_umask_lets_read(tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.touch(0o700)
    before = os.umask(0o027)
    try:
        files.share(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o740


def test_write_atomic(tmp_path):
    files.write_atomic(tmp_path / "file", "é\n")
    assert (tmp_path / "file").read_bytes() == "é\n".encode()
    files.write_atomic(tmp_path / "file", b"\xff")
    assert tree(tmp_path) == {"file": b"\xff"}


def test_sha256_of_more_than_one_piece(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert files.sha256(tmp_path / "file") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_a_link_into_a_folder_that_is_not_there_is_told(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "gone/log")
    with pytest.raises(UserError, match="/log is a link into .*/gone, which is not there; bring it back"):
        files.write_atomic(tmp_path / "log", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
