"""What is launched on a GPU, and how often the program waits for it: exact counts, which must not grow again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.devices import guards

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(guards.missing() is not None, reason=str(guards.missing()))


def test_launches_and_waits():
    command = [sys.executable, "-W", "ignore", "-m", "tests.devices.counts"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 300 < found["launches_a_token"] <= 450
    assert 5 < found["waits_a_rollout"] <= 40
    assert 1 <= found["waits_a_minibatch"] <= 5
    assert found["caches_emptied"] == 0, "each time waits for the device"
