"""What a stage says to type next, typed as it stands: it runs, and does what was meant; what an evaluation reads."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

import config
import data_preparation
import evaluate_ppo
import training_lora
import training_ppo
from detox.evaluation import scorers
from detox.evaluation.folders import decides
from detox.model import loading
from detox.ppo import checkpoint_record
from detox.ppo.next_step import next_step
from detox.scoring.classifier import load_classifier
from detox.stage import artifacts, cli, commands, notes, parsing, run_preset
from detox.stage.errors import UserError
from tests import tiny

MAINS = {
    "data_preparation.py": data_preparation.main,
    "training_lora.py": training_lora.main,
    "training_ppo.py": training_ppo.main,
    "evaluate_ppo.py": evaluate_ppo.main,
}
SIZES = {
    "data": {"dataset": "dialogues"},
    "lora": {"max_steps": 1, "batch_size": 2},
    "ppo": {"updates": 1, "batch_size": 4, "minibatch_size": 4, "ppo_epochs": 1, "lora_r": 2},
    "judge": {"model": "judge", "label": "toxic"},
    "evaluation": {"samples": 1, "best_of": 1, "resamples": 100, "min_slice": 2, "bad_words": "default"},
    "device": "cpu",
}


def run(script: str, *words: str) -> int:
    of_run = {"evaluate_ppo.py": evaluate_ppo.of_run, "training_ppo.py": training_ppo.of_run}
    return cli.run(config.STAGES[script], MAINS[script], list(words), of_run=of_run.get(script))


def typed(line: str) -> list[str]:
    python, *words = shlex.split(line)
    assert python == "python"
    return words


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(commands, "file", None)
    monkeypatch.setattr(commands, "kept", frozenset())
    notes.forget()
    scorers.load_scorers.cache_clear()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with tiny models, among them a classifier whose labels are its own, and a file of settings."""
    tiny.start_world(tmp_path, train=8, validation=4, test=4)
    tiny.classifier(tmp_path / "polite", ("curt", "kind"), seed=3)
    tiny.bert_classifier(tmp_path / "judge", seed=1)
    (tmp_path / "my sizes.yaml").write_text(yaml.safe_dump(SIZES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_line_runs_as_it_is_printed(place, capsys):
    """From a run whose place, preset, models and file are unusual; the file has what no line says."""
    where = "--checkpoints elsewhere --run own --preset demo --seed 3 --model.base t5".split()
    file = ["--config", "my sizes.yaml"]
    assert run("data_preparation.py", *where, *file) == 0
    line = capsys.readouterr().out.partition("next: ")[2].strip()
    script, *words = typed(line.partition(", then ")[2])
    settings = parsing.parse(config.STAGES[script], words)
    assert script == "training_ppo.py" and settings.ppo.updates == 1
    assert settings.model == config.Model("t5", adapter="auto"), "the preset's adapter belongs to another base"
    assert run("training_lora.py", *where, *file) == 0
    script, *words = typed(capsys.readouterr().out.partition("next: ")[2])
    assert script == "training_ppo.py" and words[-2:] == file
    reward = "--reward.model polite --reward.label kind --rollout.max-new-tokens 5".split()
    assert run(script, *words, *reward) == 0
    line = capsys.readouterr().out.partition("next: ")[2].strip()
    assert line == (
        "python evaluate_ppo.py --preset demo --run own --checkpoints elsewhere --device cpu --config 'my sizes.yaml'"
    )
    script, *words = typed(line)
    assert run(script, *words) == 0
    folder = place / "elsewhere/own/evaluation/step-0001"
    results = json.loads((folder / "results.json").read_text())
    assert results["models"] == {
        "base": "t5",
        "adapter": "elsewhere/own/lora",
        "reward": "polite",
        "toxicity": "polite",
        "judge": "judge",
    }
    assert "--toxicity.model polite --toxicity.label curt" in results["command"], "the figures say what they are of"
    told = "note: --toxicity.model polite --toxicity.label curt --evaluation.max-new-tokens 5, to fit how "
    assert capsys.readouterr().err == f"{told}elsewhere/own/ppo/step-0001 was trained\n"
    made = (folder / "manifest.json").stat().st_mtime_ns
    for again in (
        results["command"],
        "python evaluate_ppo.py --run own --checkpoints elsewhere --config 'my sizes.yaml'",
    ):
        script, *words = typed(again)
        assert run(script, *words) == 0
        assert (folder / "manifest.json").stat().st_mtime_ns == made, "the same evaluation"


# ------------------------------------------------------------------------------- what an evaluation reads from a run

CASES = [
    ("", ("nothate", "hate"), None, "", ""),
    ("--preset demo", ("nothate", "hate"), None, "--preset demo", ""),
    ("--preset demo --seed 3 --ppo.updates 7 --ppo.kl-coef 1", ("nothate", "hate"), None, "--preset demo", ""),
    ("--reward.model own", ("nothate", "hate"), None, "", "--toxicity.model own"),
    (
        "--run r --checkpoints c --device cpu --rollout.max-new-tokens 9 --reward.model own --reward.label fine",
        ("not fine", "fine"),
        None,
        "--run r --checkpoints c --device cpu",
        "--evaluation.max-new-tokens 9 --toxicity.model own --toxicity.label 'not fine'",
    ),
    ("--dtype float32", ("nothate", "hate"), None, "--dtype float32", ""),
    ("--reward.revision v2", ("nothate", "hate"), None, "", "--toxicity.model {usual} --toxicity.revision v2"),
    ("--reward.model own --reward.label a", ("a", "b", "hate"), None, "", "--toxicity.model own"),
    (
        "--reward.model own --reward.label a",
        ("a", "b", "c"),
        None,
        "--toxicity.label LABEL",
        "--toxicity.model own",
    ),
    ("--reward.model own --reward.label=--b", ("--a", "--b"), None, "", "--toxicity.model own --toxicity.label=--a"),
    ("--reward.model own --reward.label x", ("x",), "regression", "", ""),
    ("--reward.model own --reward.label x", ("x",), None, "", ""),
    (
        "--reward.model own --reward.label toxic",
        ("toxic",),
        "multi_label_classification",
        "",
        "--toxicity.model own --toxicity.label toxic",
    ),
]


def trained(settings: config.PPOTraining) -> Path:
    """Write what a checkpoint says of its training."""
    folder = Path(settings.checkpoints, settings.run_name, "ppo", "step-0001")
    with artifacts.publish(folder, stage="training_ppo", settings=settings):
        pass
    return folder


def evaluation(*words: str) -> config.EvaluationStage:
    return parsing.parse(config.EvaluationStage, words, of_run=evaluate_ppo.of_run)


@pytest.mark.parametrize(("flags", "labels", "kind", "told", "read"), CASES)
def test_the_next_line_evaluates_as_was_trained(tmp_path, monkeypatch, flags, labels, kind, told, read):
    monkeypatch.chdir(tmp_path)
    settings = parsing.parse(config.PPOTraining, flags.split())
    tiny.classifier(tmp_path / "own", labels, problem_type=kind)
    reward = load_classifier("own", label=settings.reward.label)
    if settings.reward.revision is not None:
        monkeypatch.setattr(loading, "read_config", lambda name, revision: (reward.model.config, {}))
    line = next_step(settings, config.preset(config.EvaluationStage, settings.preset), reward)
    command, _, asked = line.removeprefix("next: ").partition(" (")
    assert command == f"python evaluate_ppo.py {told}".strip()
    assert asked == ("LABEL: the toxic one of a, b, c)" if "LABEL" in told else "")
    folder = trained(settings)
    expected = parsing.parse(config.EvaluationStage, shlex.split(f"{told} {read}".format(usual=settings.reward.model)))
    assert evaluation(*typed(command)[1:]) == expected
    if settings.run is None:
        found = evaluation(*shlex.split(told), "--checkpoint", str(folder))
        assert replace(found, checkpoint=()) == expected, "a checkpoint says it as its run does"


@pytest.mark.parametrize(
    ("words", "toxicity"),
    [
        ("", ("own", "bad")),
        ("--toxicity.model t5", ("t5", "hate")),
        ("--toxicity.label rude", ("own", "rude")),
        ("--toxicity.model t5 --toxicity.label rude", ("t5", "rude")),
        ("--toxicity.model demo:reward", ("demo:reward", "hate")),
        ("--toxicity.label hate", ("own", "hate")),
        ("--preset flan-t5", (config.Toxicity.model, "hate")),
    ],
)
def test_what_the_user_sets_goes_before_the_run(tmp_path, monkeypatch, words, toxicity):
    monkeypatch.chdir(tmp_path)
    tiny.classifier(tmp_path / "own", ("good", "bad"))
    demo = config.preset(config.PPOTraining, "demo")
    trained(replace(demo, run="r", reward=config.Reward("own", label="good")))
    (tmp_path / "s.yaml").write_text(
        "".join(f"{name}: {value}\n" for name, value in re.findall(r"--(\S+) (\S+)", words))
    )
    for given in (words.split(), ["--config", "s.yaml"]):
        settings = evaluation("--run", "r", *given)
        assert (settings.toxicity.model, settings.toxicity.label) == toxicity
        assert settings.preset == ("flan-t5" if "flan-t5" in words else "demo")
        again = commands.again("evaluate_ppo.py", settings)
        assert evaluation(*typed(again)[1:]) == settings, (
            "a value that is the preset's is told where the run has another"
        )


def test_a_classifier_in_the_users_own_presets_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(config._DEMO[config.EvaluationStage], "toxicity", config.Toxicity("mine"))
    tiny.classifier(tmp_path / "own")
    trained(replace(config.preset(config.PPOTraining, "demo"), run="r", reward=config.Reward("own")))
    assert evaluation("--run", "r").toxicity == config.Toxicity("mine")


def test_the_toxic_one_of_many_labels_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.classifier(tmp_path / "own", ("a", "b", "c"))
    folder = trained(config.PPOTraining(run="r", reward=config.Reward("own", label="a")))
    with pytest.raises(UserError) as error:
        evaluation("--run", "r")
    assert str(error.value) == (
        f"--toxicity.label=hate: own, which {folder} was trained with, has no such label; name the toxic one of a, b, c"
    )
    assert evaluation("--run", "r", "--toxicity.label", "b").toxicity == config.Toxicity("own", label="b")


def test_the_adapter_of_a_preset_on_another_base_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demo, prepared = config.preset(config.PPOTraining, "demo"), Path("checkpoints/demo/prepared")
    with artifacts.publish(prepared, stage="data_preparation", settings=config.preset(config.Preparation, "demo")):
        pass
    training_ppo.find_inputs(demo, prepared.parent)
    training_ppo.find_inputs(replace(demo, model=config.Model("own", adapter="mine")), prepared.parent)
    assert capsys.readouterr().err == ""
    training_ppo.find_inputs(replace(demo, model=replace(demo.model, base="own")), prepared.parent)
    told = "note: --model.adapter demo:lora is the preset's, for demo:base; for own say auto, none or your own\n"
    assert capsys.readouterr().err == told


def test_the_adapter_of_the_run_goes_before_an_embedded_one_but_not_in_a_run_that_began_otherwise(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    demo, run = config.preset(config.PPOTraining, "demo"), Path("checkpoints/demo")
    assert training_ppo.of_run(demo, {"--preset"}) == []
    with artifacts.publish(run / "lora", stage="training_lora", settings=config.preset(config.LoraTraining, "demo")):
        pass
    assert training_ppo.of_run(demo, {"--preset", "--model.adapter"}) == []
    assert training_ppo.of_run(config.PPOTraining(run="demo"), {"--run"}) == [], "auto finds it"
    assert capsys.readouterr().err == ""
    assert training_ppo.of_run(demo, {"--preset"}) == ["--model.adapter", "auto"]
    assert capsys.readouterr().err == "note: --model.adapter auto, as checkpoints/demo/lora is there\n"
    own = ["--model.adapter", "auto"]
    for inputs, taken in (({}, []), ({"lora": run / "lora"}, own)):
        with artifacts.publish(
            run / "ppo" / f"step-000{1 + len(inputs)}", stage="training_ppo", settings=demo, inputs=inputs
        ):
            pass
        assert training_ppo.of_run(demo, {"--preset"}) == taken
        assert training_ppo.of_run(replace(demo, overwrite=True), {"--preset"}) == own, "the run begins anew"
    (run / "lora").rename(run / "gone")
    assert training_ppo.of_run(demo, {"--preset"}) == own and not training_ppo.of_run(
        replace(demo, overwrite=True), {"--preset"}
    )
    with artifacts.publish(
        run / "prepared", stage="data_preparation", settings=config.preset(config.Preparation, "demo")
    ):
        pass
    with pytest.raises(UserError, match=r"demo/lora: no such folder; run python training_lora.py --preset demo first"):
        training_ppo.find_inputs(replace(demo, model=replace(demo.model, adapter="auto")), run)
    (run / "lora").mkdir()
    shutil.rmtree(run / "ppo")
    assert training_ppo.of_run(demo, {"--preset"}) == own, "what it lacks is told where it is read"


def test_the_judge_is_the_one_that_a_preset_has_beside_the_reward_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = trained(config.PPOTraining(run="r", reward=config.Reward("demo:reward")))
    settings = evaluation("--run", "r")
    assert (settings.toxicity, settings.judge) == (config.Toxicity("demo:reward"), config.Judge("demo:judge"))
    words = "--judge.model demo:judge"
    told = f"note: --toxicity.model demo:reward {words}, to fit how {folder} was trained\n"
    assert capsys.readouterr().err == told and words in commands.again("evaluate_ppo.py", settings)
    own = ("--judge.model", "t5")
    assert evaluation("--run", "r", *own).judge == config.Judge("t5")
    trained(replace(config.preset(config.PPOTraining, "demo"), run="d"))
    assert evaluation("--run", "d").judge == config.Judge("demo:judge")


def test_another_judge_is_asked_for_where_training_was_against_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = config.preset(config.PPOTraining, "demo")
    usual, reward = config.preset(config.EvaluationStage, "demo"), load_classifier("demo:judge", label="neutral")
    line = next_step(replace(demo, reward=config.Reward("demo:judge", label="neutral")), usual, reward)
    asked = "JUDGE: another classifier than demo:judge, TOXIC: its toxic label"
    assert line == f"next: python evaluate_ppo.py --preset demo --judge.model JUDGE --judge.label TOXIC ({asked})"


def test_a_reward_that_measures_nothing_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.classifier(tmp_path / "own", ("x",), problem_type="regression")
    folder = trained(config.PPOTraining(run="r", reward=config.Reward("own", label="x")))
    assert evaluation("--run", "r").toxicity == config.Toxicity()
    assert capsys.readouterr().err == (
        f"note: own, which {folder} was trained with, gives no probabilities: toxicity is by {config.Toxicity.model}\n"
    )


def test_checkpoints_that_were_trained_in_different_ways(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = []
    for name in ("one", "two"):
        tiny.classifier(tmp_path / name)
        folders.append(str(trained(config.PPOTraining(run=name, reward=config.Reward(name)))))
    settings = evaluation("--checkpoint", *folders)
    assert settings.toxicity == config.Toxicity()
    assert "trained in different ways" in capsys.readouterr().err
    alone = commands.command(
        "evaluate_ppo.py", settings, "--checkpoint", folders[0], *commands.changed(settings, decides)
    )
    assert evaluation(*typed(alone)[1:]) == replace(settings, checkpoint=(folders[0],))


def test_a_classifier_is_found_from_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.classifier(tmp_path / "own")
    trained(config.PPOTraining(run="r", reward=config.Reward("own")))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    settings = evaluation("--run", "r", "--checkpoints", "../checkpoints")
    assert settings.toxicity.model == str(tmp_path / "own")


# ------------------------------------------------------------------------------------------- the file of settings


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("ppo.updates: 3", "--run own", "--run own"),
        ("run: own\ndevice: cpu", "", "--run own --device cpu"),
        ("judge.model: judge", "--run own --preset demo", "--preset demo --run own --config s.yaml"),
        ("preset: demo\njudge.model: j", "--preset flan-t5", "--preset flan-t5 --config s.yaml"),
        ("device: cuda\njudge.model: j", "--device auto", "--device auto --config s.yaml"),
        ("judge.model: j\noverwrite: true", "--overwrite", "--no-overwrite --config s.yaml"),
        ("judge.model: j\noverwrite: true", "", "--no-overwrite --config s.yaml"),
        ("judge.model: j\noverwrite: off", "", "--config s.yaml"),
    ],
)
def test_a_line_names_the_file_where_it_has_more_for_that_stage(tmp_path, monkeypatch, text, words, told):
    monkeypatch.chdir(tmp_path)
    tiny.classifier(tmp_path / "own")
    (tmp_path / "s.yaml").write_text(text)
    settings = parsing.parse(config.PPOTraining, ["--config", "s.yaml", *words.split()])
    line = next_step(settings, config.preset(config.EvaluationStage, settings.preset), load_classifier("own"))
    assert line == f"next: python evaluate_ppo.py {told}"
    found = parsing.parse(config.EvaluationStage, typed(line.removeprefix("next: "))[1:])
    for name in ("preset", "run", "device", "checkpoints"):
        assert getattr(found, name) == getattr(settings, name)


def test_the_adapter_that_was_just_made_goes_before_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("model.adapter: old\nppo.updates: 3")
    settings = parsing.parse(config.LoraTraining, ["--config", "s.yaml"])
    line = training_lora.next_step(settings)
    assert line == "python training_ppo.py --model.adapter auto --config s.yaml"
    assert parsing.parse(config.PPOTraining, typed(line)[1:]).model.adapter == "auto"


def test_the_command_for_a_stage_that_is_missing_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("data.dataset: dialogues\nmodel.base: t5")
    assert run("training_ppo.py", "--config", "s.yaml", "--run", "own") == 2
    error = capsys.readouterr().err
    assert error.endswith("run python data_preparation.py --run own --model.base t5 --config s.yaml first\n"), error


def test_what_was_made_from_other_data_is_started_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = replace(config.preset(config.Preparation, "demo"), run="r")
    following = "next: python training_ppo.py --preset demo --run r"
    Path("checkpoints/r/ppo").mkdir(parents=True)
    assert data_preparation.next_step(settings) == following, "nothing is there but the log"
    Path("checkpoints/r/ppo/step-0001").mkdir()
    Path("checkpoints/r/ppo/step-0001/manifest.json").touch()
    capsys.readouterr()
    again = "--overwrite --config checkpoints/r/ppo/step-0001/manifest.json"
    assert data_preparation.next_step(settings) == f"{following} --model.base demo:base {again}"
    told = "note: checkpoints/r/ppo/step-0001 is from before; --overwrite replaces it, with the settings that it had\n"
    assert capsys.readouterr().out == told
    adapter = replace(config.preset(config.LoraTraining, "demo"), run="r")
    line = training_lora.next_step(adapter)
    assert line.endswith(f"--run r --model.base demo:base --model.adapter auto {again}")


def test_a_run_begins_again_with_its_settings_where_its_data_are_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepared, step = Path("checkpoints/r/prepared"), Path("checkpoints/r/ppo/step-0001")
    settings = replace(config.Preparation(), run="r", model=config.Base("own"))
    own = config.Model("own", adapter="mine")
    trained = replace(config.PPOTraining(), run="r", model=own, reward=config.Reward(model="polite", label="kind"))

    def prepare(text):
        with artifacts.publish(prepared, stage="data_preparation", settings=settings, overwrite=True) as draft:
            (draft.path / "data").write_text(text)

    prepare("one")
    with artifacts.publish(step, stage="training_ppo", settings=trained, inputs={"prepared": prepared}):
        pass
    prepare("one")
    assert data_preparation.next_step(settings) == "next: python evaluate_ppo.py --run r", "nothing is to be trained"
    prepare("two")
    script, *words = typed(data_preparation.next_step(settings).removeprefix("next: "))
    assert script == "training_ppo.py", "it started from another adapter than the run's own"
    assert parsing.parse(config.PPOTraining, words) == replace(trained, overwrite=True)


def test_a_run_whose_training_was_cut_short_goes_on_where_its_data_are_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = replace(config.preset(config.Preparation, "demo"), checkpoints="runs/my own", run="r")
    prepared, step = Path("runs/my own/r/prepared"), Path("runs/my own/r/ppo/step-0003")
    trained = replace(config.PPOTraining(), checkpoints="runs/my own", run="r", seed=3)
    with artifacts.publish(prepared, stage="data_preparation", settings=settings):
        pass
    for done in (3, 20):
        with artifacts.publish(
            step, stage="training_ppo", settings=trained, overwrite=True, inputs={"prepared": prepared}
        ) as draft:
            draft.counts["updates"] = done
        line = data_preparation.next_step(settings).removeprefix("next: ")
        told = capsys.readouterr().out
        if done == 3:
            assert "note: the run was trained on the same data, 3 of 20 updates" in told
            script, *words = typed(line)
            assert parsing.parse(config.STAGES[script], words) == trained
        else:
            assert told == "note: the run was trained on the same data\n" and "evaluate_ppo.py" in line


def test_an_adapter_is_not_proposed_for_another_base(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    demo = config.preset(config.Preparation, "demo")
    assert data_preparation.next_step(demo) == "next: python training_ppo.py --preset demo"
    settings = replace(demo, model=config.Base("own"))
    lora, train = (
        f"python {script} --preset demo --model.base own" for script in ("training_lora.py", "training_ppo.py")
    )
    following = f"next: {lora} (optional), then {train} --model.adapter auto"
    assert data_preparation.next_step(settings) == following
    for adapter, base, told in (
        ("mine", "own", f"next: {train} --overwrite"),
        ("mine", "old", f"{following} --overwrite"),
        ("none", "old", f"next: {train} --overwrite"),
    ):
        trained = replace(config.preset(config.PPOTraining, "demo"), model=config.Model(base, adapter=adapter))
        folder = Path("checkpoints/demo/ppo/step-0001")
        with artifacts.publish(folder, stage="training_ppo", settings=trained, overwrite=True):
            pass
        assert data_preparation.next_step(settings) == f"{told} --config {folder}/manifest.json"
    Path("s.yaml").write_text("model.adapter: mine")
    settings = parsing.parse(config.Preparation, "--preset demo --model.base own --config s.yaml".split())
    assert data_preparation.next_step(settings).startswith(f"next: {train} --overwrite --config s.yaml")


@pytest.mark.parametrize("preset", ["flan-t5", "demo"])
def test_an_adapter_of_other_data_is_made_again_before_what_starts_from_it(tmp_path, monkeypatch, capsys, preset):
    """With settings from manifests, as the lines themselves propose."""
    monkeypatch.chdir(tmp_path)
    own, of_preset = config.Base("own"), lambda stage: replace(config.preset(stage, preset), run="r")
    settings = replace(of_preset(config.Preparation), model=own)
    adapter = replace(of_preset(config.LoraTraining), model=own, seed=4)
    start = config.Model("own", adapter="checkpoints/r/lora")
    trained = replace(of_preset(config.PPOTraining), model=start, reward=config.Reward(model="polite", label="kind"))
    parts = {name: Path("checkpoints/r", name) for name in ("prepared", "lora")}

    def make(folder, stage, settings, *inputs, text=""):
        read = {name: parts[name] for name in inputs}
        with artifacts.publish(folder, stage=stage, settings=settings, overwrite=True, inputs=read) as draft:
            (draft.path / "data").write_text(text)

    make(parts["prepared"], "data_preparation", settings)
    make(parts["lora"], "training_lora", adapter, "prepared")
    make(Path("checkpoints/r/ppo/step-0001"), "training_ppo", trained, "prepared", "lora")
    training_ppo.find_inputs(trained, Path("checkpoints/r"))
    assert capsys.readouterr().err == ""
    make(parts["prepared"], "data_preparation", settings, text="another prompt")
    first, last = data_preparation.next_step(settings).removeprefix("next: ").split(", then ")
    assert "optional" not in first
    training_ppo.find_inputs(trained, Path("checkpoints/r"))
    told = "note: checkpoints/r/lora was trained on other data than checkpoints/r/prepared holds; made anew with: "
    assert capsys.readouterr().err == f"{told}{first}\n"
    script, *words = typed(first)
    now = parsing.parse(config.STAGES[script], words)
    assert (script, now) == ("training_lora.py", replace(adapter, overwrite=True))
    make(parts["lora"], "training_lora", now, "prepared", text="another adapter")
    script, *words = typed(training_lora.next_step(now))
    assert parsing.parse(config.STAGES[script], words).reward == trained.reward, "what follows has its settings too"
    script, *words = typed(last)
    assert parsing.parse(config.STAGES[script], words) == replace(trained, overwrite=True)


def test_before_any_training_the_preset_is_that_of_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = replace(config.EvaluationStage(), run="r")
    manifest = Path("checkpoints/r/prepared/manifest.json")
    manifest.parent.mkdir(parents=True)
    for content in ("{", '{"config": {"preset": "gone"}}', '{"config": {"preset": "flan-t5"}}'):
        manifest.write_text(content)
        assert evaluate_ppo.of_run(settings, set()) == []
    manifest.write_text('{"config": {"preset": "demo"}}')
    assert evaluate_ppo.of_run(settings, {"--preset"}) == []
    assert evaluate_ppo.of_run(settings, {"--run"}) == ["--preset", "demo"]
    assert capsys.readouterr().err == "note: --preset demo, as checkpoints/r/prepared was prepared\n"


def test_training_takes_the_preset_of_its_data_and_tells_of_another_base(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with artifacts.publish(
        Path("checkpoints/r/prepared"), stage="data_preparation", settings=config.preset(config.Preparation, "demo")
    ):
        pass
    for stage in (config.PPOTraining, config.LoraTraining):
        taken = parsing.parse(stage, ["--run", "r"], of_run=run_preset.words)
        assert taken == replace(config.preset(stage, "demo"), run="r")
        notes.forget()
    told = "note: --preset demo, as checkpoints/r/prepared was prepared\n"
    assert capsys.readouterr().err == 2 * told
    named = parsing.parse(config.PPOTraining, ["--run", "r", "--preset", "flan-t5"], of_run=run_preset.words)
    assert named == replace(config.PPOTraining(), run="r")
    other = "checkpoints/r/prepared was prepared for --model.base demo:base, and this is google/flan-t5-base"
    assert capsys.readouterr().err == f"note: {other}\n"
    begun = replace(config.PPOTraining(), run="r")
    with artifacts.publish(Path("checkpoints/r/ppo/step-0001"), stage="training_ppo", settings=begun):
        pass
    assert parsing.parse(config.PPOTraining, ["--run", "r"], of_run=run_preset.words) == begun, "it goes on so"
    assert capsys.readouterr().err == ""


def test_going_on_keeps_the_file_for_the_stages_to_come(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("judge.model: own\nppo.kl-coef: 0.1")
    words = ["--run", "r", "--config", "s.yaml", "--ppo.kl-coef", "0.2"]
    settings = parsing.parse(config.PPOTraining, words)
    line = commands.go_on("training_ppo.py", settings)
    assert line.endswith(" --ppo.kl-coef 0.2 --config s.yaml"), "what was typed goes before the file"
    _, script, *words = shlex.split(line)
    assert parsing.parse(config.STAGES[script], words) == settings
    Path("s.yaml").write_text("ppo.kl-coef: 0.1")
    settings = parsing.parse(config.PPOTraining, ["--run", "r", "--config", "s.yaml"])
    assert commands.go_on("training_ppo.py", settings) == "python training_ppo.py --run r --ppo.kl-coef 0.1"


def test_a_file_that_lets_things_be_replaced_does_so_in_no_later_command(tmp_path, monkeypatch):
    """Unless that is what the command is for."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("judge.model: own\noverwrite: yes")
    settings = parsing.parse(config.PPOTraining, ["--run", "r", "--config", "s.yaml"])
    prepared = Path("checkpoints/r/prepared")
    for line, overwrites in (
        (commands.go_on("training_ppo.py", settings), False),
        (commands.go_on("training_ppo.py", settings, "--overwrite"), True),
        (commands.before("data_preparation", settings, prepared), False),
        (commands.before("data_preparation", settings, prepared, "--overwrite"), True),
        (training_lora.next_step(parsing.parse(config.LoraTraining, ["--config", "s.yaml"])), False),
    ):
        assert line.endswith("--config s.yaml")
        script, *words = typed(line)
        assert parsing.parse(config.STAGES[script], words).overwrite is overwrites


def test_the_file_goes_on_to_the_stage_that_needs_it(tmp_path, monkeypatch):
    """Though the stage before has no use for it; and an adapter that it names needs no training."""
    monkeypatch.chdir(tmp_path)
    for text, following in (
        ("judge.model: own", "python training_lora.py --run r --config s.yaml (optional), then python training_ppo.py"),
        ("model.adapter: own", "python training_ppo.py --run r --config s.yaml"),
    ):
        Path("s.yaml").write_text(text)
        settings = parsing.parse(config.Preparation, ["--run", "r", "--config", "s.yaml"])
        assert data_preparation.next_step(settings).startswith(f"next: {following}")


# ---------------------------------------------------------------------------------- runs that were copied or moved


@pytest.mark.parametrize("name", [None, "r"])
@pytest.mark.parametrize("run", ["checkpoints/copy", "elsewhere/r", "elsewhere/demo"])
def test_data_are_made_again_in_the_run_that_is_in_use(tmp_path, monkeypatch, name, run):
    monkeypatch.chdir(tmp_path)
    recorded = replace(config.preset(config.Preparation, "demo"), run=name, data=config.Data(dataset="d"))
    entry = json.loads(json.dumps({"config": asdict(recorded)}))
    advice = checkpoint_record.as_prepared(entry, config.STAGES, Path(run))
    command = advice.removeprefix("make it as it was (").removesuffix(")")
    script, *words = typed(command)
    now = parsing.parse(config.STAGES[script], words)
    assert Path(now.checkpoints, now.run_name) == Path(run)
    assert replace(now, run=name, checkpoints="checkpoints") == replace(recorded, overwrite=True)
    assert checkpoint_record.as_prepared({}, config.STAGES, Path(run)) == "make it as it was"


def test_data_of_a_source_that_has_changed_are_not_made_again_by_the_command_that_made_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, run = config.Preparation(data=config.Data(dataset="d")), Path("checkpoints/copy")

    def advice(**changes):
        now = replace(settings, data=replace(settings.data, **changes), run="copy", overwrite=True)
        with artifacts.publish(run / "prepared", stage="data_preparation", settings=now, overwrite=True):
            pass
        entry = json.loads(json.dumps({"config": asdict(settings)}))
        return checkpoint_record.as_prepared(entry, config.STAGES, run)

    source = "--data.dataset d or the tokenizer has changed"
    anew = "make it as it was (python data_preparation.py --run copy --overwrite --data.dataset d)"
    assert advice(workers=2) == f"put its source back as it was ({source}), then {anew}"
    assert advice(dataset="e") == advice(prompt="Say: {dialogue}") == anew


FOLDERS = {
    config.Preparation: "prepared",
    config.LoraTraining: "lora",
    config.PPOTraining: "ppo/step-0010",
    config.EvaluationStage: "evaluation/step-0010-validation",
}


def record(run: str, settings: config.Stage, *inputs: str) -> str:
    """Write an artefact of a stage into a run, and return its manifest."""
    folder = Path(run, FOLDERS[type(settings)])
    stage = next(script for script, kind in config.STAGES.items() if kind is type(settings)).removesuffix(".py")
    read = {name: Path(run, name) for name in inputs}
    with artifacts.publish(folder, stage=stage, settings=settings, overwrite=True, inputs=read):
        pass
    return str(folder / "manifest.json")


@pytest.mark.parametrize("stage", FOLDERS)
@pytest.mark.parametrize("name", [None, "old"])
def test_a_manifest_in_a_run_is_of_the_run_that_it_lies_in(tmp_path, monkeypatch, stage, name):
    """Wherever that was when it was written; elsewhere it is of the run that it names."""
    monkeypatch.chdir(tmp_path)
    settings = replace(config.preset(stage, "demo"), run=name, seed=3)
    own = record(f"checkpoints/{settings.run_name}", settings)
    assert parsing.parse(stage, ["--config", own]) == settings
    for run in ("checkpoints/copy", "moved/demo", "moved/old", str(tmp_path.parent / "far" / "flan-t5")):
        there = ["--config", record(run, settings)]
        now = parsing.parse(stage, there)
        assert (Path(now.checkpoints, now.run_name), now.seed, now.preset) == (Path(run), 3, "demo")
        assert Path(parsing.parse(stage, [*there, "--preset", "flan-t5"]).run_name).name == Path(run).name
        named = parsing.parse(stage, [*there, "--run", "mine", "--checkpoints", "kept"])
        assert (named.run_name, named.checkpoints) == ("mine", "kept")
    for elsewhere in ("settings.json", "checkpoints/copy/ppo/step-0010-of-q/manifest.json", "ppo/prepared.json"):
        Path(elsewhere).parent.mkdir(parents=True, exist_ok=True)
        Path(elsewhere).write_text(Path(own).read_text())
        assert parsing.parse(stage, ["--config", elsewhere]) == settings


def test_a_manifest_of_training_from_the_runs_own_adapter_means_the_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora = config.Model(adapter="checkpoints/old/lora")
    for run, inputs, adapter in (
        ("checkpoints/old", ("lora",), "checkpoints/old/lora"),
        ("moved/new", ("lora",), "moved/new/lora"),
        ("moved/other", (), "checkpoints/old/lora"),
    ):
        record(run, config.LoraTraining())
        manifest = record(run, replace(config.PPOTraining(), run="old", model=lora), *inputs)
        assert parsing.parse(config.PPOTraining, ["--config", manifest]).model.adapter == adapter
        words = ["--config", manifest, "--model.adapter", "mine"]
        assert parsing.parse(config.PPOTraining, words).model.adapter == "mine"


def test_the_run_is_told_from_within_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = Path(record("checkpoints/copy", replace(config.LoraTraining(), run="old")))
    for here in (Path(), Path("checkpoints"), Path("checkpoints/copy"), manifest.parent):
        monkeypatch.chdir(tmp_path / here)
        now = parsing.parse(config.LoraTraining, ["--config", os.path.relpath(tmp_path / manifest)])
        run = Path(now.checkpoints, now.run_name)
        assert (now.run, run.resolve()) == ("copy", (tmp_path / "checkpoints/copy").resolve())
        moved = commands.of_run(config.LoraTraining(), Path(os.path.relpath(tmp_path / "checkpoints/copy")))
        assert (moved.run, moved.checkpoints) == (now.run, now.checkpoints)


def test_what_a_run_has_is_its_own_and_the_last_one_is_of_most_updates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, settings = Path("checkpoints/r"), config.PPOTraining(run="r")
    for folder in ("step-10000", "step-9999", "step-9999-of-q", "step-9998/adapter", "step-99", "old/step-20000"):
        (run / "ppo" / folder).mkdir(parents=True)
        (run / "ppo" / folder / "manifest.json").touch()
    there = [run / "ppo" / name / "manifest.json" for name in ("step-9999", "step-10000")]
    assert commands.results("training_ppo.py", settings) == there
    (run / "lora/of-another").mkdir(parents=True)
    (run / "lora/of-another/manifest.json").touch()
    assert commands.results("training_lora.py", settings) == []
    (run / "lora/manifest.json").touch()
    assert commands.results("training_lora.py", settings) == [run / "lora/manifest.json"]


def test_what_a_copied_run_is_told_to_make_again_is_made_in_the_copy(tmp_path, monkeypatch):
    """Though the data of the copy are others than those of the manifests in it."""
    monkeypatch.chdir(tmp_path)
    old = dict(run="old", checkpoints="elsewhere")
    for run in ("elsewhere/old", "checkpoints/copy"):
        record(run, replace(config.Preparation(), **old))
        record(run, replace(config.LoraTraining(), **old), "prepared")
        start = config.Model(adapter="elsewhere/old/lora")
        record(run, replace(config.PPOTraining(), model=start, **old), "prepared", "lora")
    Path("checkpoints/copy/prepared/manifest.json").unlink()
    lines = data_preparation.next_step(replace(config.Preparation(), run="copy")).removeprefix("next: ")
    for line in lines.split(", then "):
        script, *words = typed(line)
        assert "--overwrite" in words
        now = parsing.parse(config.STAGES[script], [word for word in words if word not in ("--run", "copy")])
        assert (now.run, now.checkpoints) == ("copy", "checkpoints")
        assert script == "training_lora.py" or now.model.adapter == "checkpoints/copy/lora"
