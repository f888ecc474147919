"""The lock of a run: one writer, who is named, and nothing left of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detox.stage import artifacts, run_lock
from detox.stage.errors import UserError
from tests.stage.artefacts import ROOT, SETTINGS, publish, tree

HOLD = """
import os, sys, time
from pathlib import Path
from detox.stage import run_lock
with run_lock.hold(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        print("locked", os.getpid(), flush=True)
        time.sleep(60)
    if "fork" not in sys.argv:
        print("locked", os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_a_second_process_is_refused_until_the_first_dies(tmp_path, mode):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run", mode], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        worker = int(holder.stdout.readline().split()[1])
        try:
            with pytest.raises(UserError, match=f"run is in use by process {holder.pid}; "):
                with run_lock.hold(tmp_path / "run"):
                    pytest.fail("locked twice")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    try:
        with run_lock.hold(tmp_path / "run"):
            assert (tmp_path / "run" / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        if worker != holder.pid:
            os.kill(worker, signal.SIGKILL)


def test_a_lock_leaves_nothing_of_its_own(tmp_path):
    with run_lock.hold(tmp_path / "checkpoints" / "run"):
        pass
    assert tree(tmp_path) == {}
    with run_lock.hold(tmp_path / "checkpoints" / "run"):
        publish(tmp_path / "checkpoints" / "run" / "prepared")
    assert [path.name for path in (tmp_path / "checkpoints" / "run").iterdir()] == ["prepared"]


def test_a_lock_keeps_a_folder_that_was_there(tmp_path):
    with run_lock.hold(tmp_path):
        pass
    assert tmp_path.is_dir()


@pytest.mark.parametrize("path", ["file", "file/run", "file/run/deeper"])
def test_a_file_in_the_way_is_named(tmp_path, path):
    (tmp_path / "file").write_text("")
    for action in (
        run_lock.hold(tmp_path / path),
        artifacts.publish(tmp_path / path / "ppo", stage="s", settings=SETTINGS),
    ):
        with pytest.raises(UserError, match="file"):
            with action:
                pytest.fail("made")
    assert list(tree(tmp_path)) == ["file"]


def test_a_read_only_target_is_told(tmp_path, monkeypatch):
    def read_only(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(
        UserError, match=f"^{tmp_path}/run: Read-only file system; choose a folder that can be written$"
    ):
        with run_lock.hold(tmp_path / "run"):
            pytest.fail("locked")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a folder in which nobody can make a file")
def test_a_place_where_no_file_can_be_made_is_told_instead_of_waited_for():
    with pytest.raises(UserError, match="^/proc/self: Read-only file system; choose a folder that can be written$"):
        with run_lock.hold(Path("/proc/self")):
            pytest.fail("locked")
    with pytest.raises(UserError, match="^/proc: Read-only file system"):
        publish(Path("/proc/x"))
