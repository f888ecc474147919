"""Temporary files and folders: those of the dead go, those of the living stay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detox.stage import artifacts
from tests.stage.artefacts import ROOT, SETTINGS, publish

CONTAINER = ["unshare", "--pid", "--fork"]


def can_be_made() -> bool:
    """Return whether this system lets a process have process numbers of its own."""
    if shutil.which(CONTAINER[0]) is None:
        return False
    return subprocess.run([*CONTAINER, "true"], stderr=subprocess.DEVNULL).returncode == 0


def test_leftovers_of_dead_processes_go_and_drafts_of_living_ones_stay(tmp_path):
    dead = tmp_path / ".step-0010.4000000-0123abcd.tmp"
    dead.mkdir()
    (dead / "half").write_text("half")
    (tmp_path / ".state.json.4000000-0123abcd.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("not ours to remove")
    with artifacts.publish(tmp_path / "alive", stage="data_preparation", settings=SETTINGS) as draft:
        publish(tmp_path / "prepared")
        assert draft.path.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "alive", "prepared"]


HOLD = """
import sys, time
from pathlib import Path
from detox.stage import artifacts
from tests.stage.artefacts import SETTINGS
with artifacts.publish(Path(sys.argv[1]), stage="data_preparation", settings=SETTINGS) as draft:
    print(draft.path, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not can_be_made(), reason="the system lets nobody make a space of process numbers")
def test_the_draft_of_a_process_in_another_container_stays(tmp_path):
    """Its number is of another process here, or of none."""
    command = [*CONTAINER, sys.executable, "-c", HOLD, str(tmp_path / "alive")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        draft = Path(other.stdout.readline().strip())
        publish(tmp_path / "prepared")
        assert draft.is_dir()
        other.communicate()
    assert other.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive", "prepared"]
