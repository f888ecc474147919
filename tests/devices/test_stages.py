"""Every stage on simulated devices: what it writes, to the bit what the CPU writes where it takes the same branches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import devices
from tests.devices import guards
from tests.devices import world as the
from tests.devices.world import RUNS

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(guards.missing() is not None, reason=str(guards.missing()))


def named(kind, index):
    """The device that a run is told to take."""
    return f"cuda:{index}" if kind == "cuda" and index else kind


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return the.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", params=devices.KINDS)
def both(request, world, tmp_path_factory):
    """The kind, and where all stages ran on a simulated device, and on the CPU in that device's way."""
    ways = {how: tmp_path_factory.mktemp(how) / "w" for how in (request.param, f"cpu-as-{request.param}")}
    running = {}
    for how, place in ways.items():
        shutil.copytree(world, place)
        two = ["cpu", "cpu"] if how.startswith("cpu") else [named(request.param, 0), named(request.param, 1)]
        told = [json.dumps(command) for command in the.commands(*two)]
        running[how] = subprocess.Popen(
            [sys.executable, "-m", "tests.devices.stages", how, *told],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    for how, process in running.items():
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, how + out[-3000:] + err[-6000:]
        assert set(json.loads(out.splitlines()[-1])) == {0}, how + err[-3000:]
    return request.param, *ways.values()


def lines(place, run):
    found = [json.loads(line) for line in (place / f"checkpoints/{run}/ppo/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in found]


def ran_on(place, run, update):
    return json.loads((place / f"checkpoints/{run}/ppo/step-000{update}/state.json").read_text())["ran_on"]


@pytest.mark.parametrize("run", RUNS)
def test_training_gives_what_the_cpu_gives(both, run):
    _, place, cpu = both
    assert lines(place, run) == lines(cpu, run)
    last = f"checkpoints/{run}/ppo/step-000{len(lines(cpu, run))}"
    for name in ("adapter/adapter_model", "ppo_lora", "value_head", "optimizer"):
        mine, its = (load_file(where / last / f"{name}.safetensors") for where in (place, cpu))
        assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine), name


WHEN_AND_WHERE = re.compile(r"\d{4}-\d\d-\d\dT[\d:+\\]+|device \S+")
"""What is told of when a checkpoint was made, and in the command that made it of the device."""


@pytest.mark.parametrize("run", RUNS)
def test_evaluation_gives_what_the_cpu_gives(both, run):
    _, place, cpu = both
    for name in ("results.json", "examples.jsonl", "report.md"):
        found = (next(where.glob(f"checkpoints/{run}/evaluation/step-*/{name}")).read_text() for where in both[1:])
        mine, its = (WHEN_AND_WHERE.sub("", text) for text in found)
        assert mine == its, name


def test_the_device_that_is_named_is_the_one_that_runs_and_is_recorded(both):
    kind, place, _ = both
    for run, (_, index, _) in RUNS.items():
        for stage in ("ppo/step-0002", "evaluation/step-*"):
            manifest = json.loads(next(place.glob(f"checkpoints/{run}/{stage}/manifest.json")).read_text())
            assert manifest["device"] in (named(kind, index), f"{kind}:{index if kind == 'cuda' else 0}"), (run, stage)
    assert json.loads((place / "checkpoints/lora/lora/manifest.json").read_text())["device"] == named(kind, 1)


def test_a_run_goes_on_where_it_was(both):
    kind, place, _ = both
    first = {"dtype": "float32", "engine": "packed", "threads": 1, "device": "cuda:0" if kind == "cuda" else kind}
    assert [ran_on(place, "packed", update) for update in (2, 3)] == [first, first]


def test_a_run_goes_on_elsewhere_in_the_same_dtype_and_through_the_same_engine(both):
    kind, place, _ = both
    begun, moved = (ran_on(place, "moved", update) for update in (1, 2))
    assert begun["device"] == "cpu", "the device that is named, where there is a faster one"
    assert moved == begun | {"device": named(kind, 1)}


def test_the_export_is_the_cpus(both):
    _, place, cpu = both
    mine, its = (load_file(where / "exported-packed/model.safetensors") for where in (place, cpu))
    assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)
