"""The simulated devices refuse what real ones refuse, and compute what the CPU computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import devices
from tests.devices import guards

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(guards.missing() is not None, reason=str(guards.missing()))


@pytest.mark.parametrize("kind", devices.KINDS)
def test_planted_mistakes_are_refused_and_the_rest_works(kind):
    command = [sys.executable, "-m", "tests.devices.planted", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"that must work do ({kind})" in done.stdout
