"""The plan: exact on parameters, passes and bytes, within a fifth of measured peaks, and honest about budgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import config
import training_ppo
from benchmarks import ppo_step
from detox.model import loading, policy
from detox.model.devices import choose_dtype
from detox.plan import memory, published, update_time
from detox.plan.flops import useful_gflop
from detox.plan.machine import Machine
from detox.plan.model_sizes import ClassifierSizes, Sizes
from detox.plan.task import read
from detox.scoring.classifier import load_classifier
from detox.stage import cli
from tests import tiny

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

NEW_TOKENS = 32
NARROW = dict(
    d=256,
    d_ff=512,
    layers=4,
    heads=4,
    vocabulary=2000,
    classifier_d=64,
    classifier_layers=2,
    classifier_vocabulary=500,
)
WIDE = NARROW | dict(d=384, d_ff=768, layers=6, heads=6)
MANY_WORDS = (WIDE | dict(vocabulary=32128), dict(batch_size=16, minibatch_size=8), 100)
CASES = {
    "all layers": (
        NARROW,
        dict(batch_size=8, minibatch_size=8, lora_r=32, lora_scope="all", lora_targets="q,v"),
        200,
        "packed",
    ),
    "decoder": (
        WIDE | dict(vocabulary=8000),
        dict(batch_size=8, minibatch_size=8),
        150,
        "packed",
    ),
    "many words": (*MANY_WORDS, "packed"),
    "many words, Hugging Face's modules": (*MANY_WORDS, "hf"),
}
"""Shape, PPO settings, tokens of each prompt, engine."""

MEASURE = """
import json, os, sys
import torch
import config
from benchmarks import ppo_step

def iterate(shape, ppo, queries, engine, new_tokens):
    task = ppo_step.Task(shape, config.PPO(ppo_epochs=1, **ppo), "cpu", getattr(torch, sys.argv[3]), engine)
    run = ppo_step.this_project(task)
    classifier = ppo_step.make_classifier(shape, "cpu", torch.float32)
    for seed in range(2):
        run(task.prompts([queries] * ppo["batch_size"], seed), new_tokens, ppo_step.Timer("cpu"), classifier)

torch.set_num_threads(1)
iterate(ppo_step.SHAPES["tiny"], dict(batch_size=4, minibatch_size=2), 8, "packed", 4)  # loads what torch loads late
for name, (shape, ppo, queries, engine) in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        before = ppo_step.peak_mb()
        iterate(ppo_step.Shape(**shape), ppo, queries, engine, int(sys.argv[2]))
        print(json.dumps([name, ppo_step.peak_mb() - before]), flush=True)
        os._exit(0)
    os.wait()
"""
"""Prints the MB that two updates of each case take beyond the libraries."""


DTYPES = sorted({"float32", str(choose_dtype("auto", CPU)).removeprefix("torch.")})
"""float32, and bfloat16 where the processor computes in it."""


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def measured(dtype):
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(CASES), str(NEW_TOKENS), dtype],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(line) for line in result.stdout.splitlines() if line.startswith("["))


@pytest.mark.parametrize("case", CASES)
def test_plan_is_within_a_fifth_of_the_measured_peak(case, dtype, measured):
    shape, ppo, queries, engine = CASES[case]
    settings = replace(
        config.PPOTraining(),
        ppo=config.PPO(**ppo),
        dtype=dtype,
        rollout=config.Rollout(max_new_tokens=NEW_TOKENS),
    )
    made_for = ppo_step.Shape(**shape)
    summarizer = Sizes.of(ppo_step.t5_config(made_for), settings.ppo)
    classifier = sum(p.numel() for p in ppo_step.make_classifier(made_for, "cpu", torch.float32).parameters())
    made = memory.plan(settings, summarizer, classifier, CPU, queries, packed=engine == "packed")
    planned = (made.peak - made.parts["interpreter and libraries"]) / 2**20
    assert planned == pytest.approx(measured[case], rel=0.2)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two summarizers and a classifier, without their weights."""
    tiny.t5(tmp_path / "t5")
    tiny.t5(tmp_path / "tied", tied=True)
    tiny.bart(tmp_path / "bart")
    tiny.classifier(tmp_path / "reward")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_for(base, **ppo):
    return replace(
        config.PPOTraining(),
        model=config.Model(base=base),
        reward=config.Reward(model="reward"),
        ppo=config.PPO(**ppo),
        dtype="float32",
        device="cpu",
    )


@pytest.mark.parametrize("base", ["t5", "tied", "bart"])
@pytest.mark.parametrize("scope, targets", [("all", "all-linear"), ("decoder", "all-linear")])
def test_counts_parameters_as_the_models_have_them(world, base, scope, targets):
    settings = settings_for(base, lora_scope=scope, lora_targets=targets, lora_r=3)
    loaded = loading.load_summarizer(base)
    weights = sum(parameter.numel() for parameter in loaded.parameters())
    made = policy.make_policy(loaded, settings.ppo)
    trained = [p for name, p in made.named_parameters() if p.requires_grad and "v_head" not in name]
    classifier = load_classifier("reward", None, "nothate").model
    for path in world.rglob("*.safetensors"):
        path.unlink()

    task = read(settings, world / "no-run", 512)
    found = task.plan_memory().parts
    assert task.packed == (base != "bart") and not task.notes
    assert found["base model"] == 4 * weights
    assert found["adapters"] == 8 * sum(parameter.numel() for parameter in trained)
    assert found["value head"] == 8 * sum(parameter.numel() for parameter in made.v_head.parameters())
    assert found["reward model"] == 4 * sum(parameter.numel() for parameter in classifier.parameters())


def test_half_the_microbatch_takes_about_half_the_activations(world):
    whole, half = (settings_for("t5", minibatch_size=8, microbatch_size=size) for size in (8, 4))
    large, small = (read(settings, world / "no-run", 512).plan_memory() for settings in (whole, half))
    ratio = small.parts["activations of the update"] / large.parts["activations of the update"]
    assert 0.5 < ratio < 0.75
    assert small.peak < large.peak
    assert small.parts["optimizer"] == large.parts["optimizer"]


def test_budget_picks_the_largest_microbatch_that_fits(world):
    settings = settings_for("t5", minibatch_size=8, lora_scope="all")
    rest = (read(settings, world / "no-run", 512).summarizer, 1000, CPU, 300, True)
    peaks = {
        size: memory.plan(replace(settings, ppo=replace(settings.ppo, microbatch_size=size)), *rest).peak
        for size in (1, 2, 4, 8)
    }
    between = (peaks[2] + peaks[4]) / 2 / memory.GIB
    assert memory.largest_microbatch(replace(settings, plan=True, plan_budget_gb=between), *rest) == 2
    assert (
        memory.largest_microbatch(replace(settings, plan=True, plan_budget_gb=peaks[8] / memory.GIB * 1.5), *rest) == 8
    )
    assert memory.largest_microbatch(replace(settings, plan=True, plan_budget_gb=0.001), *rest) is None


def test_command_prints_the_plan_without_weights_or_prompts(world, capsys):
    for path in world.rglob("*.safetensors"):
        path.unlink()
    flags = "--model.base t5 --reward.model reward --device cpu --plan --plan-budget-gb 0.01".split()
    assert cli.run(config.PPOTraining, training_ppo.main, flags) == 0
    told = capsys.readouterr().out
    for part in (
        "base model",
        "adapters",
        "value head",
        "optimizer",
        "reward model",
        "rollout",
        "update",
        "logits",
        "peak",
    ):
        assert part in told
    assert "prompts of 512 tokens" in told and "nothing fits 0.01 GB: models and libraries alone take " in told
    assert not (world / "checkpoints").exists()


# --- shapes ---


PUBLISHED = {
    "google/flan-t5-small": 76_961_152,
    "google/flan-t5-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
    "google/flan-t5-xl": 2_849_757_184,
    "google/flan-t5-xxl": 11_135_332_352,
}
"""Parameters, as the hub has them."""


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No hub, and nothing of it in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_parameters(offline, name):
    shape = published.find_shape(name)
    assert shape.is_published
    made = Sizes.of(shape.settings, config.PPO(), shape.untied)
    assert made.weights == PUBLISHED[name]
    assert made.weights - made.encoder_blocks - made.decoder_blocks == 2 * 32128 * made.d + 2 * made.d  # and last norms


def test_published_reward_model_is_roberta_base_with_two_labels(offline):
    made = ClassifierSizes.of(published.find_shape(published.ROBERTA_BASE).settings)
    assert made.weights == 124_647_170


def test_a_config_in_reach_is_read(world):
    assert not published.find_shape("t5").is_published


def test_models_that_are_neither_in_reach_nor_known_are_refused(offline, capsys):
    assert cli.run(config.PPOTraining, training_ppo.main, ["--plan", "--model.base", "google/t5-v1_1-base"]) == 2
    assert "google/t5-v1_1-base" in capsys.readouterr().err


# --- several devices ---


def test_useful_work_is_what_torch_counts():
    """torch's own counter sees the same products, forward and backward, in an unpadded pass of the same model."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, length, new_tokens = ppo_step.Shape(64, 96, 6, 4, 16, 160, 32, 2, 100), 40, 6
    ppo = config.PPO(ppo_epochs=1, lora_scope="all", lora_r=4)
    model, classifier = ppo_step.make_t5(shape), ppo_step.make_classifier(shape, "cpu", torch.float32)
    for made in (model, classifier):
        made.set_attn_implementation("eager")  # the counter knows no fused attention on a CPU
    work_of = useful_gflop(
        Sizes.of(model.config, ppo),
        ClassifierSizes.of(classifier.config),
        [length],
        new_tokens,
        ppo,
    )

    def count(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 1e9

    ids = dict(input_ids=torch.full((1, length), 5), decoder_input_ids=torch.full((1, new_tokens), 5))
    with torch.no_grad():
        forward = count(lambda: model(**ids))
        assert work_of["encode"] == pytest.approx(count(lambda: model.get_encoder()(ids["input_ids"])), rel=1e-6)
        # The counter takes causal attention in full, and the classifier's last layers too.
        assert work_of["encode"] + work_of["generate"] == pytest.approx(forward, rel=0.02)
        assert work_of["score"] == pytest.approx(
            count(lambda: classifier(torch.full((1, new_tokens + 2), 5))), rel=0.02
        )
    trained = policy.make_policy(model, ppo).pretrained_model
    both = count(lambda: trained(**ids).logits.sum().backward())
    assert work_of["epochs"] == pytest.approx(both, rel=0.05)  # no gradient goes into the first layers' inputs


@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_passes_are_those_that_an_update_makes(scope):
    """Counted on the modules, whose weights FSDP would fetch for each."""
    ppo = config.PPO(batch_size=4, minibatch_size=4, microbatch_size=2, ppo_epochs=3, lora_scope=scope)
    shape, new_tokens = ppo_step.SHAPES["tiny"], 5
    task = ppo_step.Task(shape, ppo, "cpu", torch.float32, "hf")
    counted = dict.fromkeys(("encoder", "decoder"), 0)

    def counting(stack):
        def hook(module, *_):
            counted[stack] += 2 if torch.is_grad_enabled() else 1  # a backward pass follows

        return hook

    made = ppo_step.make_t5(shape)
    for stack in counted:
        getattr(made, stack).block[0].register_forward_hook(counting(stack))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo_step, "make_t5", lambda _: made)
        iterate = ppo_step.this_project(task)
    classifier = ppo_step.make_classifier(shape, "cpu", torch.float32)
    for seed in range(2):  # the first update also finds out whether sampling's log-probabilities serve
        counted.update(encoder=0, decoder=0)
        iterate(task.prompts([6, 7, 8, 9], seed), new_tokens, ppo_step.Timer("cpu"), classifier)
    expected = update_time.passes(ppo, new_tokens, scope == "all", torch.float32)
    assert (counted["encoder"], counted["decoder"]) == expected


MACHINE = Machine(gflops=100.0, memory_rate=1e6, link_rate=2.0, sources=("", "", ""))


def test_devices_share_the_computing_and_exchange_what_is_trained(world):
    task = read(settings_for("t5", batch_size=16, minibatch_size=8, ppo_epochs=3, lora_r=4), world / "no-run", 512)
    one, two, eight = (task.plan_update(MACHINE, count) for count in (1, 2, 8))
    assert one.exchange == 0 and one.gradient_bytes == 0 and one.gathered_bytes == 0
    assert two.compute == pytest.approx(one.compute / 2)
    trained = policy.make_policy(loading.load_summarizer("t5"), task.settings.ppo)
    gradients = sum(p.numel() for p in policy.trainable(trained).values()) * 4 * 6
    assert two.gradient_bytes == eight.gradient_bytes == gradients and two.gathered_bytes == 0
    assert two.exchange == pytest.approx(gradients / 2e9 + 6 * 4 * update_time.LATENCY)
    assert eight.exchange == pytest.approx(1.75 * gradients / 2e9 + 6 * 28 * update_time.LATENCY)


def test_sampling_takes_at_least_as_long_as_reading_the_weights(world):
    task = read(settings_for("t5", batch_size=16, minibatch_size=8), world / "no-run", 512)
    slow = replace(MACHINE, gflops=1e9, memory_rate=1e-3)
    one, two = (task.plan_update(slow, count) for count in (1, 2))
    weights = task.summarizer.decoder_blocks + task.summarizer.d * task.summarizer.vocabulary
    reading = task.settings.rollout.max_new_tokens * 4 * weights / 1e6
    assert reading < two.compute < one.compute < 2 * two.compute


def test_devices_among_which_the_blocks_are_sharded_hold_a_part_and_fetch_the_rest(world):
    task = read(settings_for("t5", batch_size=16, minibatch_size=8, ppo_epochs=1), world / "no-run", 512)
    summarizer = task.summarizer
    layers = summarizer.encoder_blocks + summarizer.decoder_blocks
    whole, four = task.plan_memory(4).parts["base model"], task.plan_memory(4, sharded=True).parts["base model"]
    assert whole - four == 4 * (layers - layers // 4 - 2 * summarizer.largest_block)
    assert task.plan_memory(4, sharded=True).decoder == 4 * (summarizer.decoder_blocks - summarizer.decoder_blocks // 4)
    made = task.plan_update(MACHINE, 4, sharded=True)
    passes = 1 + 3 * 2  # all of sampling; the reference, forward and backward: two minibatches
    fetched = 4 * (summarizer.encoder_blocks + passes * summarizer.decoder_blocks)
    assert made.gathered_bytes == fetched * 3 // 4
    assert made.exchange > task.plan_update(MACHINE, 4).exchange + made.gathered_bytes / 2e9


def test_command_plans_a_large_model_for_many_gpus_without_hub_or_gpu(offline, capsys):
    flags = "--plan --plan-processes 1 2 64 --device cuda --ppo.batch-size 128 --ppo.minibatch-size 64"
    flags += " --plan-budget-gb 80 --model.base google/flan-t5-xxl --plan-link-rate 50"
    assert cli.run(config.PPOTraining, training_ppo.main, flags.split()) == 0
    told = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in told.splitlines()}
    assert rows["devices"] == ["1", "2", "64"] and rows["prompts of each"] == ["128", "64", "2"]
    assert rows["base model"] == [f"{PUBLISHED['google/flan-t5-xxl'] * 2 / 2**20:,.0f}"] * 3
    assert len(rows["microbatch in 80 GB"]) == len(rows["weights fetched, MB"]) == 3
    assert rows["times as fast as one"][0] == "1.00"
    for said in ("google/flan-t5-xxl: not in reach", "A100's data sheet", "50.00 GB a second", "--plan-link-rate"):
        assert said in told
    assert not list(offline.glob("checkpoints"))


def test_rates_are_measured_on_a_device_that_is_here(world, capsys):
    flags = "--model.base t5 --reward.model reward --device cpu --plan --plan-processes 1 2".split()
    assert cli.run(config.PPOTraining, training_ppo.main, flags) == 0
    told = capsys.readouterr().out
    assert told.count("measured here") == 2 and "data sheet" not in told


def test_budget_without_plan_is_refused(capsys):
    assert cli.run(config.PPOTraining, training_ppo.main, ["--plan-budget-gb", "4"]) == 2
    assert capsys.readouterr().err.strip() == "error: --plan-budget-gb=4.0: needs --plan"
