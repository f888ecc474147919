"""The check of the first ratio: planted mistakes are caught in every dtype, rounding never stops a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import ratio_check
from detox.ppo.checks import MOST_OFF
from tests.devices import guards

ROOT = Path(__file__).resolve().parent.parent.parent


def measured(dtype, *flags):
    """Return mean and largest |ratio - 1|, as checked and in other company, of rounding and of each mistake."""
    command = [sys.executable, "-W", "ignore", "benchmarks/ratio_check.py", "--shape", "tiny", "--child", dtype, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_planted_mistake_is_caught(dtype):
    found = measured(dtype)
    most = MOST_OFF[getattr(torch, dtype)]
    assert found.pop("rounding")[0] <= most
    assert set(found) == set(ratio_check.MISTAKES)
    assert all(figures[0] > 2 * most for figures in found.values()), found


@pytest.mark.skipif(guards.missing() is not None, reason=str(guards.missing()))
@pytest.mark.parametrize(("dtype", "parts"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_products_that_depend_on_the_batch_never_stop_a_run(dtype, parts):
    checked, _, other, _ = measured(dtype, "--parts", parts)["rounding"]
    assert checked <= MOST_OFF[getattr(torch, dtype)]
    assert other > 0, "what this is about"
