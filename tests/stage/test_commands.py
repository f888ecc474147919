"""Commands that messages name: complete, understood by their stage, and none the user did not need."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import config
from detox.stage import commands, parsing

DEMO, FLAN = (config.preset(config.PPOTraining, name) for name in ("demo", "flan-t5"))


def typed(line: str) -> config.Stage:
    """Return the settings that a command line gives."""
    python, script, *words = shlex.split(line)
    assert python == "python"
    return parsing.parse(config.STAGES[script], words)


@pytest.mark.parametrize(
    "settings",
    [
        FLAN,
        DEMO,
        replace(DEMO, run="trial", checkpoints="my runs", seed=3, device="cuda:1", threads=2),
        replace(FLAN, reward=config.Reward(model="my model", label="not hate", extra=("length=0.1", "a b.py:f=1"))),
        replace(FLAN, ppo=config.PPO(whiten_advantages=False, score_scale=True, max_ref_kl=None, updates=3)),
        replace(FLAN, model=config.Model(base="./t5", revision="v1", adapter="lora"), report_to="tensorboard"),
        replace(config.preset(config.Preparation, "demo"), data=config.Data(prompt="Say it:\n{dialogue} ")),
        replace(config.preset(config.EvaluationStage, "demo"), judge=config.Judge(label="very toxic"), power=0.1),
    ],
)
def test_a_command_gives_the_settings_again(settings):
    script = {kind: name for name, kind in config.STAGES.items()}[type(settings)]
    assert typed(commands.again(script, settings)) == settings


def test_a_command_says_no_more_than_it_must():
    assert commands.again("training_ppo.py", FLAN) == "python training_ppo.py"
    assert commands.again("training_ppo.py", replace(DEMO, overwrite=True)) == "python training_ppo.py --preset demo"
    tracked = replace(DEMO, report_to="wandb", seed=2)
    line = commands.again("training_ppo.py", tracked, "--overwrite", without=("--report-to",))
    assert line == "python training_ppo.py --preset demo --overwrite --seed 2"


def test_what_makes_an_artefact_is_typed_for_the_run_that_it_is_of():
    def before(settings: config.Stage, folder: str) -> str:
        return commands.before("data_preparation", settings, Path(folder))

    assert before(FLAN, "checkpoints/flan-t5/prepared") == "python data_preparation.py"
    assert before(DEMO, "checkpoints/demo/prepared") == "python data_preparation.py --preset demo"
    own = replace(DEMO, run="r", checkpoints="kept", seed=3, model=config.Model(base="./t5"))
    line = "python data_preparation.py --preset demo --run r --checkpoints kept --model.base ./t5"
    assert before(own, "kept/r/prepared") == line
    moved = "python data_preparation.py --preset demo --run other --checkpoints away --model.base ./t5"
    assert before(own, "away/other/prepared") == moved
    assert before(replace(DEMO, run="r"), "checkpoints/demo/prepared") == "python data_preparation.py --preset demo"


@pytest.mark.parametrize(
    ("started", "told"),
    [
        ("data_preparation.py", "training_ppo.py"),
        ("./training_ppo.py", "training_ppo.py"),
        ("../detox/training_lora.py", "../detox/training_ppo.py"),
        ("../my own/evaluate_ppo.py", "'../my own/training_ppo.py'"),
        ("/usr/bin/pytest", "training_ppo.py"),
        ("", "training_ppo.py"),
    ],
)
def test_a_command_names_the_script_beside_the_one_that_runs(tmp_path, monkeypatch, started, told):
    for name in ("here", "detox", "my own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training_ppo.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", [started, "--run", "r"])
    assert commands.program("training_ppo.py") == f"python {told}"
    assert commands.command("training_ppo.py", DEMO) == f"python {told} --preset demo"
    monkeypatch.setattr(commands, "installed", {"training_ppo.py": "detox-train"})
    assert commands.command("training_ppo.py", DEMO) == "detox-train --preset demo"


@pytest.mark.parametrize(
    ("there", "settings", "told"),
    [
        (["demo/prepared"], FLAN, "--preset demo"),
        (["demo/prepared", "flan-t5/.lock"], FLAN, "--preset demo"),
        (["demo/ppo"], FLAN, None),
        (["demo/prepared", "flan-t5/lora"], FLAN, None),
        (["demo/prepared"], replace(FLAN, run="r"), None),
        (["flan-t5/prepared"], DEMO, None),
        ([], FLAN, None),
    ],
)
def test_a_forgotten_preset(tmp_path, monkeypatch, there, settings, told):
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path("checkpoints", name).mkdir(parents=True)
    folder = Path("checkpoints", settings.run_name, "prepared")
    assert commands.forgotten_preset(settings, folder) == told
    advice = commands.missing("data_preparation", settings, folder)
    others = "checkpoints has the run demo: name one with --run, or run " if settings.run else "run "
    assert advice.startswith("did you forget --preset demo? there is checkpoints/demo; or run " if told else others)
    assert advice.endswith(" first")


def test_a_run_that_is_not_there_names_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("other/prepared", "mine/prepared", "empty/ppo"):
        Path("checkpoints", name).mkdir(parents=True)

    def advice(run):
        settings = replace(FLAN, run=run)
        return commands.missing("data_preparation", settings, Path("checkpoints", settings.run_name, "prepared"))

    again = "run python data_preparation.py --run mien first"
    assert advice("mien") == f"checkpoints has the runs mine, other: name one with --run, or {again}"
    assert advice("empty").startswith("run python data_preparation.py"), "it is there, and lacks a stage"
    assert advice(None).startswith("run python data_preparation.py"), "no run was named"
