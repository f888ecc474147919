"""Every stage on simulated devices: what it writes, to the bit what the CPU writes where it takes the same branches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import config
import data_preparation
from detox import cli
from tests import devices, tiny
from tests.devices import guards

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(guards.missing() is not None, reason=str(guards.missing()))

EXTRA = "--reward.extra length=0.05 overlap-reference=0.5"
LIMIT = ("--data.max-query-tokens", "120")
TRAIN = (
    "--reward.model reward --rollout.max-new-tokens 10 --ppo.batch-size 4 --ppo.minibatch-size 2 --ppo.ppo-epochs 2 "
    "--ppo.learning-rate 1e-2 --ppo.lora-r 2 --save.every 1 --ppo.updates 2"
).split()
EVALUATE = (
    "--toxicity.model reward --judge.model reward --judge.label hate --evaluation.samples 2 --evaluation.best-of 2 "
    "--evaluation.max-new-tokens 10 --evaluation.examples 4 --evaluation.resamples 100 --evaluation.min-slice 2"
).split()

# Of each run: the base, the index of the device where there are several, and flags.
RUNS = {
    "packed": ("t5", 0, "--engine packed --dtype float32 --ppo.advantages gae --ppo.value-warmup 4"),
    "packed-bf16": ("t5", 1, "--engine packed --dtype bfloat16 --ppo.lora-scope all --ppo.kl-penalty full"),
    "hf": ("t5", 1, "--engine hf --dtype float32 --ppo.lora-scope all --ppo.lora-targets q,v --ppo.schedule linear"),
    "hf-bf16": ("t5", 0, "--engine hf --dtype bfloat16 --ppo.samples-per-dialogue 2 --ppo.advantages rloo " + EXTRA),
    "bart": ("bart", 0, "--dtype float32 --ppo.kl-penalty full --ppo.score-normalize --ppo.advantages gae"),
}


def named(kind: str, index: int) -> str:
    """Return the device that a run is told to take."""
    return f"cuda:{index}" if kind == "cuda" and index else kind


def commands(kind: str, on_cpu: bool) -> list[list[str]]:
    """Return the stages of all runs, each with its flags."""
    made = []
    for run, (base, index, flags) in RUNS.items():
        where = ["--run", run, "--device", "cpu" if on_cpu else named(kind, index), "--threads", "1"]
        adapter = ["--model.base", base, "--model.adapter", "lora" if base == "t5" else "none"]
        made.append(["training_ppo", *where, *adapter, *TRAIN, *flags.split()])
    first = made[0]
    place, updates = first.index("--device"), first.index("--ppo.updates")
    made.append([*first[:place], *first[place + 2 : updates + 1], "3", *first[updates + 2 :]])  # goes on where it was
    for run, (_, index, flags) in RUNS.items():
        dtype = flags.split()[flags.split().index("--dtype") + 1]
        where = ["--run", run, "--device", "cpu" if on_cpu else named(kind, index), "--threads", "1", "--dtype", dtype]
        more = ["--export", f"exported-{run}"] if run == "packed" else []
        made.append(["evaluate_ppo", *where, *EVALUATE, *more])
    device = "cpu" if on_cpu else named(kind, 1)
    ask = ["--ask", "dialogue.txt", "--toxicity.model", "reward", "--judge.model", "reward", "--judge.label", "hate"]
    made.append(["evaluate_ppo", "--run", "hf", "--device", device, "--evaluation.max-new-tokens", "10", *ask])
    if not on_cpu:
        moved = ["training_ppo", "--run", "moved", "--model.base", "t5", "--model.adapter", "lora", *TRAIN]
        made.append([*moved[:-1], "1", "--device", "cpu"])
        made.append([*moved, "--device", device])
    lora = "--run lora --model.base t5 --lora.max-steps 2 --lora.batch-size 4 --lora.r 2".split()
    made.append(["training_lora", *lora, "--device", device])
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny models, a dialogue, and prepared dialogues for every run."""
    root = tiny.start_world(tmp_path_factory.mktemp("world"), train=12, validation=4, test=6)
    tiny.bart(root / "bart")
    (root / "dialogue.txt").write_text("#Person1#: you are a rude clown.\n#Person2#: no.\n")
    with tiny.inside(root):
        for base in ("t5", "bart"):
            argv = ["--model.base", base, "--data.dataset", "dialogues", "--run", f"of-{base}"]
            assert cli.run(config.Preparation, data_preparation.main, [*argv, *LIMIT]) == 0
        for run, base in [("lora", "t5"), ("moved", "t5"), *((run, base) for run, (base, _, _) in RUNS.items())]:
            shutil.copytree(f"checkpoints/of-{base}/prepared", f"checkpoints/{run}/prepared")
    return root


@pytest.fixture(scope="module", params=devices.KINDS)
def both(request, world, tmp_path_factory):
    """The kind, and where all stages ran on a simulated device, and on the CPU in that device's way."""
    ways = {how: tmp_path_factory.mktemp(how) / "w" for how in (request.param, f"cpu-as-{request.param}")}
    running = {}
    for how, place in ways.items():
        shutil.copytree(world, place)
        told = [json.dumps(command) for command in commands(request.param, on_cpu=how.startswith("cpu"))]
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


@pytest.mark.parametrize("run", RUNS)
def test_evaluation_gives_what_the_cpu_gives(both, run):
    _, place, cpu = both
    for name in ("results.json", "examples.jsonl", "report.md"):
        mine, its = (next(where.glob(f"checkpoints/{run}/evaluation/step-*/{name}")).read_text() for where in both[1:])
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
