"""Settings from a file: what is read, what goes before what, and what is refused in which words."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import config
import evaluate_ppo
from detox.stage import artifacts, cli, commands, notes, parsing
from detox.stage.errors import UserError

DEMO = config.preset(config.PPOTraining, "demo")


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Return what a stage makes of a file's text and of further words."""
    monkeypatch.chdir(tmp_path)

    def parse(text: str | bytes, *words: str, stage: type[config.Stage] = config.PPOTraining) -> config.Stage:
        (tmp_path / "s.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return parsing.parse(stage, ["--config", "s.yaml", *words])

    return parse


def ppo(**changes: object) -> config.PPOTraining:
    return config.PPOTraining(ppo=config.PPO(**changes))


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", config.PPOTraining()),
        ("# nothing yet\nppo:\n", config.PPOTraining()),
        ("ppo: {updates: 3, kl_coef: 1e-5}", ppo(updates=3, kl_coef=1e-5)),
        ("ppo.updates: 3\nppo:\n  kl-coef: 0.5", ppo(updates=3, kl_coef=0.5)),
        ("ppo: {score_scale: yes, whiten_advantages: off}", ppo(score_scale=True, whiten_advantages=False)),
        ("ppo: {score_clip: null, max-ref-kl: None, early_stop_kl: ~}", ppo(score_clip=None, max_ref_kl=None)),
        ("reward: {label: no}", config.PPOTraining(reward=config.Reward(label="no"))),
        ("reward: {extra: [length=0.1]}", config.PPOTraining(reward=config.Reward(extra=("length=0.1",)))),
        ("reward.extra: length=0.1", config.PPOTraining(reward=config.Reward(extra=("length=0.1",)))),
        ("preset: demo\nseed: 7", replace(DEMO, seed=7)),
        ("lora: {r: 4}\ndata.dataset: d\nplan: false\nsplit: validation", config.PPOTraining()),
        (b"\xef\xbb\xbfseed: 7", config.PPOTraining(seed=7)),
    ],
)  # fmt: skip
def test_what_a_file_sets(parsed, text, settings):
    assert parsed(text) == settings


def test_flags_go_before_the_file_and_the_file_before_the_preset(parsed):
    text = "preset: demo\nppo: {updates: 3, kl_coef: 0.3}\nseed: 5"
    expected = replace(DEMO, seed=5, ppo=replace(DEMO.ppo, updates=4, kl_coef=0.3))
    assert parsed(text, "--ppo.updates", "4") == expected
    assert parsed(text, "--preset", "flan-t5").model.base == config.PPOTraining().model.base
    assert parsed("ppo.minibatch_size: 32", "--ppo.batch-size", "32").ppo.minibatch_size == 32


@pytest.mark.parametrize("stage", config.STAGES.values())
def test_one_file_serves_all_stages(parsed, stage):
    text = (
        "run: own\nmodel: {base: b, adapter: none}\nlora.r: 4\nppo.updates: 3\nevaluation.samples: 5\ndata.workers: 2"
    )
    assert parsed(text, stage=stage).run == "own"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ppo: {updates: -1}", "s.yaml: ppo.updates=-1: must be greater than 0"),
        ("ppo.kl_coef: much", "s.yaml: ppo.kl_coef='much': must be a number"),
        ("ppo: {updates: 1.5}", "s.yaml: ppo.updates='1.5': must be a whole number"),
        ("ppo: {schedule: fast}", "s.yaml: ppo.schedule=fast: choose kl or linear or constant"),
        ("ppo: {score_scale: 2}", "s.yaml: ppo.score_scale=2: must be true or false"),
        ("ppo: {updates: }", "s.yaml: ppo.updates: a value is missing"),
        ("ppo: {updates: [1, 2]}", "s.yaml: ppo.updates: takes one value, not a list"),
        ("reward: {extra: [[a]]}", "s.yaml: reward.extra: takes a list of plain values"),
        ("ppo: {updates: {a: 1}}", "s.yaml: ppo.updates: takes a value, not names with values"),
        ("ppo: {kl_coeff: 1}", "s.yaml: ppo.kl_coeff: no such setting; did you mean ppo.kl-coef?"),
        ("kl_coef: 1", "s.yaml: kl_coef: no such setting; did you mean ppo.kl-coef?"),
        ("config: other.yaml", "s.yaml: config: no such setting"),
        ("a: &a {ppo: *a}", "s.yaml: a: no such setting"),
        ("ppo: &a {ppo: *a}", "s.yaml: ppo.ppo: no such setting"),
        ("ppo: 3", "s.yaml: ppo: is a group; write its settings below it, or as ppo.NAME"),
        ("seed: 1\nseed: 2", "s.yaml: seed is given twice; keep one of them"),
        ("ppo: {updates: 1}\nppo.updates: 2", "s.yaml: ppo.updates is given twice"),
        ("[a]: 3", "s.yaml: ?: no such setting"),
        ("? {a: b}\n: 3", "s.yaml: ?: no such setting"),
        ("preset: [demo]", "s.yaml: preset: takes one value, not a list"),
        ("reward: {extra: [-h]}", "s.yaml: reward.extra: -h: no value of a list begins with a dash"),
        ("preset: big", "s.yaml: preset=big: choose flan-t5 or demo"),
        ("- seed", "s.yaml: must hold names with values"),
        ("seed", "s.yaml: must hold names with values"),
        ("seed: [", "s.yaml: not YAML in line 1"),
        ("a: 1\n\tb: 2", "s.yaml: not YAML in line 2"),
        ("a: \x01", "s.yaml: not YAML"),
        ("[" * 5000, "s.yaml: not YAML"),
        (b"\xff\xfe", "s.yaml: not text in UTF-8; save it as that"),
    ],
)  # fmt: skip
def test_what_is_refused(parsed, text, told):
    with pytest.raises(UserError) as refused:
        parsed(text)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)


def test_a_flag_that_is_wrong_is_blamed_and_not_the_file(parsed):
    with pytest.raises(UserError, match=r"^--ppo\.updates=0: must be greater than 0$"):
        parsed("ppo.updates: 3", "--ppo.updates", "0")
    with pytest.raises(UserError, match=r"^s\.yaml: ppo\.updates='x': must be a whole number$"):
        parsed("ppo.updates: x", "--ppo.updates", "3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "none.yaml"], "error: --config=none.yaml: no such file"),
        (["--config=."], "error: --config=.: is a folder"),
        (["--config"], "error: --config: a value is missing"),
        (["--config", "--seed", "1"], "error: --config: a value is missing"),
        (["--config", "a", "--config", "b"], "error: --config is given twice"),
        (["--confi", "a"], "error: --confi: no such option; did you mean --config?"),
    ],
)
def test_a_file_that_is_not_there_costs_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert cli.run(config.PPOTraining, lambda settings: None, words) == 2
    error = capsys.readouterr().err
    assert error.startswith(told) and error.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [
        *(config.preset(stage, name) for stage in config.STAGES.values() for name in config.PRESETS),
        replace(DEMO, run="own", reward=config.Reward(label="no", revision="1e5", extra=("length=0.1",)), threads=2),
        replace(DEMO, ppo=replace(DEMO.ppo, score_clip=None, whiten_advantages=False, learning_rate=1e-5)),
        config.Preparation(data=config.Data(prompt="Say:\n{dialogue} \U0001f600 '\"#", id_column="off")),
        config.EvaluationStage(checkpoint=("a b", "c"), power=0.1),
    ],
)
def test_a_manifest_gives_the_settings_that_made_it(tmp_path, settings):
    with artifacts.publish(tmp_path / "made", stage="any", settings=replace(settings, overwrite=True)):
        pass
    assert parsing.parse(type(settings), ["--config", str(tmp_path / "made" / "manifest.json")]) == settings


def test_a_command_in_a_message_needs_no_file(parsed):
    settings = parsed("preset: demo\nrun: own\nppo: {updates: 3, score_clip: null}\nreward.label: no")
    line = commands.again("training_ppo.py", settings)
    assert parsing.parse(config.PPOTraining, shlex.split(line)[2:]) == settings


@pytest.mark.parametrize(
    ("text", "words", "preset"),
    [
        ("", [], "flan-t5"),
        ("", ["--run", "own"], "demo"),
        ("run: own", [], "demo"),
        ("run: own", ["--preset", "flan-t5"], "flan-t5"),
        ("run: own\npreset: flan-t5", [], "flan-t5"),
        ("", ["--run", "other"], "flan-t5"),
        ("", ["--run", "broken"], "flan-t5"),
    ],
)
def test_an_evaluation_takes_the_preset_of_its_run_unless_told(tmp_path, monkeypatch, capsys, text, words, preset):
    notes.forget()
    monkeypatch.chdir(tmp_path)
    step = Path("checkpoints/own/ppo/step-0003")
    with artifacts.publish(step, stage="training_ppo", settings=replace(DEMO, run="own")):
        pass
    broken = Path("checkpoints/broken/ppo/step-0001")
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("[]")
    Path("s.yaml").write_text(text + "\nevaluation.samples: 6")
    words = ["--config", "s.yaml", *words, "--evaluation.min-slice", "7"]
    settings = parsing.parse(config.EvaluationStage, words, of_run=evaluate_ppo.of_run)
    usual = config.preset(config.EvaluationStage, preset)
    expected = replace(usual, run=settings.run, evaluation=replace(usual.evaluation, samples=6, min_slice=7))
    assert settings == expected
    told = f"note: --preset demo, to fit how {step} was trained\n"
    other = (
        f"note: {step} was trained under --preset demo: what was not set is now that of --preset flan-t5, and figures "
        "may be others\n"
    )
    assert capsys.readouterr().err == (told if preset == "demo" else other if settings.run == "own" else "")


def test_an_option_of_another_stage_is_told_to_be_one():
    with pytest.raises(UserError, match="^--model.adapter: no such option here, but in training_ppo.py$"):
        parsing.parse(config.Preparation, ["--model.adapter", "demo:lora"])
    with pytest.raises(UserError, match="^--model.adapter: .* but in training_ppo.py; likewise --reward.model$"):
        parsing.parse(config.Preparation, ["--model.adapter", "demo:lora", "--reward.model=demo:reward"])
    with pytest.raises(UserError, match="--model.bas: no such option; did you mean --model.base"):
        parsing.parse(config.Preparation, ["--model.bas", "demo:base"])
