"""Settings: presets are valid and what they claim; a wrong value is refused in one line that names it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from detox.stage.errors import UserError

STAGES = (config.Preparation, config.LoraTraining, config.PPOTraining, config.EvaluationStage)


def changed(stage: type, path: str, value: object) -> config.Stage:
    """Settings of `stage` with the one at the dotted `path` set to `value`."""
    settings = config.preset(stage, "flan-t5")
    group, _, name = path.rpartition(".")
    if group:
        inner = dataclasses.replace(getattr(settings, group), **{name: value})
        return dataclasses.replace(settings, **{group: inner})
    return dataclasses.replace(settings, **{name: value})


def names(settings: object) -> list[str]:
    """What the settings take from a hub or a disk: models and data."""
    found = []
    for setting in dataclasses.fields(settings):
        value = getattr(settings, setting.name)
        if dataclasses.is_dataclass(value):
            found += names(value)
        elif setting.name in ("base", "model", "adapter", "dataset"):
            found.append(value)
    return found


@pytest.mark.parametrize("preset", config.PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_presets_are_valid(stage, preset):
    settings = config.preset(stage, preset)
    settings.validate()
    assert settings.run_name == preset


@pytest.mark.parametrize("stage", STAGES)
def test_demo_takes_nothing_from_the_hub(stage):
    assert [name for name in names(config.preset(stage, "demo")) if not name.startswith("demo:")] == []


def test_default_preset_is_the_real_job():
    preparation, training = config.Preparation(), config.PPOTraining()
    assert preparation.data.dataset == "knkarthick/dialogsum"
    assert preparation.model.base == training.model.base == "google/flan-t5-base"
    assert training.reward.model == "facebook/roberta-hate-speech-dynabench-r4-target"
    assert (training.reward.label, training.reward.signal) == ("nothate", "logit")
    assert (training.ppo.updates, training.ppo.batch_size) == (20, 16)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="--preset=gpt: choose flan-t5 or demo"):
        config.preset(config.Preparation, "gpt")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Preparation().seed = 1


@pytest.mark.parametrize(
    "stage, path, value, flag",
    [
        (config.Preparation, "seed", -1, "--seed=-1"),
        (config.Preparation, "seed", 2**31, "--seed=2147483648"),
        (config.Preparation, "run", "../elsewhere", "--run=../elsewhere"),
        (config.Preparation, "run", "a/b", "--run=a/b"),
        (config.Preparation, "run", ".hidden", "--run=.hidden"),
        (config.Preparation, "run", "", "--run="),
        (config.Preparation, "run", "x" * 101, "--run=xxx"),
        (config.Preparation, "checkpoints", "", "--checkpoints=''"),
        (config.Preparation, "model.base", " ", "--model.base=' '"),
        (config.Preparation, "data.dataset", "", "--data.dataset=''"),
        (config.Preparation, "data.prompt", "Summarize", "--data.prompt='Summarize'"),
        (config.Preparation, "data.prompt", "{dialogue} {dialogue}", "--data.prompt="),
        (config.Preparation, "data.max_query_tokens", 0, "--data.max-query-tokens=0"),
        (config.Preparation, "data.min_query_tokens", 513, "--data.min-query-tokens=513"),
        (config.Preparation, "data.max_examples", 0, "--data.max-examples=0"),
        (config.Preparation, "data.workers", 0, "--data.workers=0"),
        (config.Preparation, "data.test_fraction", 0.5, "--data.test-fraction=0.5"),
        (config.Preparation, "data.validation_fraction", float("nan"), "--data.validation-fraction=nan"),
        (config.LoraTraining, "lora.r", 0, "--lora.r=0"),
        (config.LoraTraining, "lora.dropout", 1.0, "--lora.dropout=1.0"),
        (config.LoraTraining, "device", "gpu", "--device=gpu"),
        (config.LoraTraining, "device", "cuda:", "--device=cuda:"),
        (config.LoraTraining, "threads", 0, "--threads=0"),
        (config.PPOTraining, "reward.label", "", "--reward.label=''"),
        (config.PPOTraining, "reward.batch_size", 0, "--reward.batch-size=0"),
        (config.PPOTraining, "reward.weight", -1.0, "--reward.weight=-1.0"),
        (config.PPOTraining, "reward.extra", ("length",), "--reward.extra='length'"),
        (config.PPOTraining, "reward.extra", ("length=nan",), "--reward.extra='length=nan'"),
        (config.PPOTraining, "reward.extra", ("=1",), "--reward.extra='=1'"),
        (config.PPOTraining, "reward.extra", ("lenght=1",), "--reward.extra='lenght=1'"),
        (config.PPOTraining, "reward.extra", ("mine.py=1",), "--reward.extra='mine.py=1'"),
        (config.PPOTraining, "reward.extra", (":f=1",), "--reward.extra=':f=1'"),
        (config.PPOTraining, "reward.extra", ("length=1", "length=2"), "--reward.extra=length=1 length=2"),
        (config.PPOTraining, "rollout.temperature", 0.7, "--rollout.temperature=0.7"),
        (config.PPOTraining, "rollout.top_k", 50, "--rollout.top-k=50"),
        (config.PPOTraining, "rollout.top_p", 0.9, "--rollout.top-p=0.9"),
        (config.PPOTraining, "rollout.max_new_tokens", -1, "--rollout.max-new-tokens=-1"),
        (config.PPOTraining, "ppo.learning_rate", float("nan"), "--ppo.learning-rate=nan"),
        (config.PPOTraining, "ppo.learning_rate", float("inf"), "--ppo.learning-rate=inf"),
        (config.PPOTraining, "ppo.minibatch_size", 5, "--ppo.minibatch-size=5"),
        (config.PPOTraining, "ppo.kl_coef", -0.1, "--ppo.kl-coef=-0.1"),
        (config.PPOTraining, "ppo.gamma", 1.1, "--ppo.gamma=1.1"),
        (config.PPOTraining, "ppo.lam", -0.1, "--ppo.lam=-0.1"),
        (config.PPOTraining, "ppo.samples_per_dialogue", 3, "--ppo.samples-per-dialogue=3"),
        (config.PPOTraining, "ppo.samples_per_dialogue", 1, "--ppo.advantages=rloo"),
        (config.PPOTraining, "ppo.gamma", 0.9, "--ppo.gamma=0.9"),
        (config.PPOTraining, "ppo.value_warmup", 16, "--ppo.value-warmup=16"),
        (config.PPOTraining, "ppo.value_refit", -1, "--ppo.value-refit=-1"),
        (config.PPOTraining, "ppo.step_kl", 0.0, "--ppo.step-kl=0.0"),
        (config.PPOTraining, "ppo.whiten_memory", 1.0, "--ppo.whiten-memory=1.0"),
        (config.PPOTraining, "model.adapter", "", "--model.adapter=''"),
        (config.PPOTraining, "save.keep", 0, "--save.keep=0"),
        (config.EvaluationStage, "evaluation.samples", 0, "--evaluation.samples=0"),
        (config.EvaluationStage, "evaluation.threshold", 1.0, "--evaluation.threshold=1.0"),
        (config.EvaluationStage, "evaluation.resamples", 99, "--evaluation.resamples=99"),
        (config.EvaluationStage, "judge.label", " ", "--judge.label=' '"),
    ],
)
def test_a_wrong_value_is_named(stage, path, value, flag):
    with pytest.raises(UserError) as refusal:
        changed(stage, path, value).validate()
    assert str(refusal.value).startswith(flag)
    assert "\n" not in str(refusal.value)


def test_terms_of_the_reward_have_names_and_weights():
    extra = ("length=0.05", "overlap-dialogue=-1", "my/own=x.py:f=2", "pack.age:f=1e-3")
    settings = changed(config.PPOTraining, "reward.extra", extra)
    settings.validate()
    terms = {"length": 0.05, "overlap-dialogue": -1.0, "my/own=x.py:f": 2.0, "pack.age:f": 0.001}
    assert settings.reward.terms == terms


def test_forced_sampling_is_allowed():
    settings = changed(config.PPOTraining, "rollout.force", True)
    dataclasses.replace(settings, rollout=dataclasses.replace(settings.rollout, top_k=50)).validate()


NUMBERS = [
    (stage, f"{group.name}.{setting.name}")
    for stage in STAGES
    for group in dataclasses.fields(stage)
    if dataclasses.is_dataclass(group.type)
    for setting in dataclasses.fields(group.type)
    if type(setting.default) in (int, float)
]


@given(st.sampled_from(NUMBERS), st.one_of(st.integers(), st.floats()))
def test_any_number_is_accepted_or_refused_in_one_line(which, number):
    stage, path = which
    try:
        changed(stage, path, number).validate()
    except UserError as refusal:
        assert "\n" not in str(refusal)


def test_settings_and_command_line_import_no_torch():
    program = "import sys, config, detox.stage.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
