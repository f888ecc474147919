"""Several processes train as one: the same figures and weights, one that dies, sharded weights, shares and dealing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

import config
import data_preparation
from detox.ppo.ppo_config import Seq2SeqPPOConfig
from detox.ppo.update import deal
from detox.stage import cli, parallel
from detox.stage.errors import UserError
from tests import tiny

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--run r --model.base t5 --model.adapter lora --reward.model reward --rollout.max-new-tokens 8 --dtype float32 "
    "--ppo.batch-size 8 --ppo.minibatch-size 4 --ppo.ppo-epochs 2 --ppo.learning-rate 1e-3 --ppo.advantages gae "
    "--ppo.value-warmup 8 --ppo.lora-r 4 --device cpu --save.every 1 --save.keep 5 --ppo.updates 5 "
    "--ppo.score-normalize --ppo.kl-control adaptive"
).split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with tiny models and a prepared dataset for each of the runs `one`, `two`, `hf`, `fsdp`."""
    root = tiny.start_world(tmp_path_factory.mktemp("world"), train=20, validation=4, test=4)
    with tiny.inside(root):
        for place in ("one", "two", "dies", "hf", "fsdp"):
            argv = f"--model.base t5 --data.dataset dialogues --run r --checkpoints {place}".split()
            assert cli.run(config.Preparation, data_preparation.main, argv) == 0
    return root


def start(world, place, processes=1, launch="multi", more=(), **variables):
    command = [sys.executable, str(ROOT / "training_ppo.py"), "--checkpoints", place, *FLAGS, *more]
    if processes > 1:
        options = ["--config_file", str(ROOT / "configs" / f"{launch}.yaml"), "--num_processes", str(processes)]
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options, *command[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        command, cwd=world, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def train(world, place, *arguments, **options):
    process = start(world, place, *arguments, **options)
    output, error = process.communicate()
    assert process.returncode == 0, error
    return output


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines]


def assert_same(world, place, other):
    mine, its = (world / name / "r/ppo" for name in (place, other))
    ours, theirs = metrics(mine), metrics(its)
    assert len(ours) == len(theirs) and ours[0].keys() == theirs[0].keys()
    for one, two in zip(ours, theirs):
        for key in one:
            np.testing.assert_allclose(one[key], two[key], rtol=1e-4, atol=1e-6, err_msg=key)
    step = f"step-{len(ours):04d}"
    for name in ("adapter/adapter_model", "ppo_lora", "value_head"):
        one, two = (load_file(folder / step / f"{name}.safetensors") for folder in (mine, its))
        for key in one:
            torch.testing.assert_close(
                one[key], two[key], atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.fixture(scope="module")
def one(world):
    """The run of a single process."""
    train(world, "one")
    return "one"


def test_two_processes_train_as_one(world, one):
    output = train(world, "two", 2)
    assert_same(world, "two", one)
    assert output.count("update 5/5") == 1, "the main process alone speaks"
    first, last = (
        load_file(world / "two/r/ppo" / name / "ppo_lora.safetensors") for name in ("step-0002", "step-0005")
    )
    assert max(float((first[key] - last[key]).abs().max()) for key in first) > 1e-4, "there was something to learn"


def test_a_process_that_dies_ends_the_run_and_one_process_goes_on(world, one):
    folder = world / "dies/r/ppo"
    launcher = start(world, "dies", 2)
    while launcher.poll() is None and not (folder / "step-0002").exists():
        time.sleep(0.01)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    victim = next(worker for worker in workers if worker.environ().get("RANK") == "1")
    victim.kill()
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert error.count("another process of this run has ended without a word") == 1, error
    assert not any(worker.is_running() for worker in workers)
    assert 2 <= len([name for name in os.listdir(folder) if name.startswith("step-")]) < 5
    assert "goes on" in train(world, "dies")
    assert_same(world, "dies", one)


def test_sharded_weights_train_as_whole_ones(world):
    train(world, "hf", more=["--engine", "hf"])
    output = train(world, "fsdp", 2, launch="fsdp")
    assert "sharded" in output
    assert_same(world, "fsdp", "hf")


def test_what_is_wrong_is_told_once_however_late_the_main_process_is(world, one, tmp_path):
    late = "import os, time\nif os.environ.get('RANK') == '0':\n    time.sleep(3)\n"
    (tmp_path / "sitecustomize.py").write_text(late)
    for flags, expected in (
        (["--ppo.kl-horizon", "0"], "--ppo.kl-horizon=0: must be greater than 0"),
        (
            ["--seed", "3"],
            "made with other settings: --seed was 0, now 3; use its own "
            "(--config one/r/ppo/step-0005/manifest.json), another --run, or --overwrite",
        ),
    ):
        _, error = start(world, one, 2, more=flags, PYTHONPATH=str(tmp_path)).communicate()
        told = [line for line in error.splitlines() if line.startswith("error:")]
        assert told and told[0].endswith(expected), error
        assert error.count(expected) == 1, error
    assert not (world / one / "r/.lock").exists()


@pytest.mark.parametrize(
    ("size", "others", "told"),
    [
        ("2", (), "WORLD_SIZE=2 is set without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, so no launcher"),
        ("2", ("RANK", "LOCAL_RANK", "MASTER_ADDR"), "is set without MASTER_PORT, so no launcher"),
        ("many", ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "WORLD_SIZE=many is set, so no launcher"),
    ],
)
def test_an_environment_that_no_launcher_made_is_refused(monkeypatch, size, others, told):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    for name in others:
        monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match=told):
        parallel.start("cpu")


def test_a_minibatch_that_can_not_be_shared_is_refused():
    with pytest.raises(UserError, match="--ppo.minibatch-size=4: 3 processes can't share it evenly"):
        Seq2SeqPPOConfig.from_settings(config.PPO(minibatch_size=4), seed=0, engine="hf", cpu=True, processes=3)
    made = Seq2SeqPPOConfig.from_settings(
        config.PPO(minibatch_size=8, microbatch_size=8), seed=0, engine="hf", cpu=True, processes=2
    )
    assert (made.batch_size, made.mini_batch_size, made.gradient_accumulation_steps) == (8, 4, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_are_neighbours_and_everything_is_somebodys(count):
    shares = [parallel.Processes(rank, count).share(11) for rank in range(count)]
    assert [i for share in shares for i in range(11)[share]] == list(range(11))
    assert max(share.stop - share.start for share in shares) - min(share.stop - share.start for share in shares) <= 1


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_minibatch_has_as_many_examples_of_each_process(processes):
    for seed in range(20):
        minibatches = deal(16, 4, [seed])
        assert sorted(i for minibatch in minibatches for i in minibatch) == list(range(16))
        for minibatch in minibatches:
            owners = [i // (16 // processes) for i in minibatch]
            assert [owners.count(rank) for rank in range(processes)] == [4 // processes] * processes
    assert len({str(deal(16, 4, [seed])) for seed in range(20)}) > 15, "at random"
    with pytest.raises(ValueError, match="dealt"):
        deal(10, 4, [0])
