"""Names of folders as people type them: one folder is one model, from wherever it is named."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import config
from detox.evaluation import checkpoints
from detox.ppo import checkpoint_record, resume
from detox.stage import cli, paths
from detox.stage.errors import UserError
from tests import tiny
from tests.test_bad_input import FLAGS, STAGES

EVALUATION = "--evaluation.samples 1 --evaluation.max-new-tokens 6 --evaluation.best-of 0 --evaluation.resamples 100"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world") / "w"
    tiny.start_world(root, train=8, validation=3, test=3)
    tiny.classifier(root / "judge", ("fine", "toxic"), seed=1)
    with tiny.inside(root):
        assert run("data_preparation") == run("training_ppo", "--ppo.updates 1 --model.adapter lora") == 0
    return root


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Path:
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "w"


def run(stage: str, flags: str = "") -> int:
    words, more = FLAGS[stage].split(), flags.split()
    given = dict(zip(words[::2], words[1::2], strict=True)) | {"--run": "r"}
    for flag in more:
        given.pop(flag, None)
    kind, main = STAGES[stage]
    return cli.run(kind, main, [*(word for pair in given.items() for word in pair), *more])


def test_every_field_that_names_a_place_is_known():
    """`~` works in all of them: a setting that is one is either here or named as none."""
    others = {"preset", "run", "revision", "adapter_revision", "prompt", "device", "label", "targets", "lora_targets"}
    others |= {"id_column", "dialogue_column", "summary_column", "topic_column", "push_to_hub", "extra"}
    found = set()

    def collect(kind) -> None:
        import dataclasses
        import typing

        kinds = typing.get_type_hints(kind)  # without the rules that stand in them
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                collect(field.type)
            elif kinds[field.name] in (str, typing.Optional[str], tuple[str, ...]):
                found.add(field.name)

    for stage in (config.Preparation, config.LoraTraining, config.PPOTraining, config.EvaluationStage):
        collect(stage)
    assert found - others == paths._SETTINGS


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("~/w/t5", "{home}/w/t5"),
        ("t5/", "t5"),
        ("./t5", "t5"),
        ("checkpoints/../t5//", "t5"),
        ("./gone", "./gone"),
        ("gone/", "gone/"),
        ("google/flan-t5-base", "google/flan-t5-base"),
        ("demo:base", "demo:base"),
        ("", ""),
        (".", "."),
    ],
)
def test_what_is_typed_and_what_it_becomes(place, typed, becomes):
    wanted = becomes.format(home=place.parent)
    for value in (config.Base(base=typed), config.Toxicity(model=typed)):
        assert [*vars(paths.tidy(value)).values()][0] == wanted
    assert paths.tidy(config.EvaluationStage(checkpoint=(typed,))).checkpoint == (wanted,)


def test_a_tilde_in_every_flag(place):
    assert run("data_preparation", "--checkpoints ~/c --model.base ~/w/t5 --data.dataset ~/w/dialogues") == 0
    lora = "--checkpoints ~/c --model.base ~/w/t5 --lora.max-steps 1"
    assert run("training_lora", lora) == 0
    Path("mine.py").write_text("def one(summaries, **_): return [1.0] * len(summaries)\n")
    ppo = "--checkpoints ~/c --model.base ~/w/t5 --model.adapter ~/c/r/lora/ --reward.model ~/w/reward --ppo.updates 1"
    assert run("training_ppo", f"{ppo} --reward.extra ~/w/mine.py:one=1") == 0
    inputs = json.loads(Path("~/c/r/ppo/step-0001/manifest.json").expanduser().read_text())["inputs"]
    assert "lora" in inputs, "the run's own adapter, by whatever name"
    Path("words.txt").write_text("fool\n")
    flags = "--toxicity.model ~/w/reward --judge.model ~/w/judge/ --evaluation.bad-words ~/w/words.txt --export ~/out"
    assert run("evaluate_ppo", f"--checkpoints ~/c --checkpoint ~/c/r/ppo/step-0001/ {flags} {EVALUATION}") == 0
    Path("d.txt").write_text("the people talk\n")
    assert run("evaluate_ppo", f"--checkpoints ~/c --ask ~/w/d.txt {EVALUATION}") == 0
    assert (place.parent / "out" / "model.safetensors").exists() and not list(place.glob("~*"))


@pytest.mark.parametrize("name", ["{}/", "./{}", "{here}/{}", "../w/{}", "~/w/{}"])
def test_one_folder_is_one_model(place, capsys, name):
    def again(updates: int) -> int:
        base, adapter, reward = (name.format(folder, here=place) for folder in ("t5", "lora", "reward"))
        flags = f"--model.base {base} --model.adapter {adapter} --reward.model {reward} --ppo.updates {updates}"
        return run("training_ppo", flags)

    assert again(1) == 0 and "is complete" in capsys.readouterr().out
    assert again(2) == 0 and "goes on" in capsys.readouterr().out
    shutil.copytree("t5", "other")
    assert run("training_ppo", "--model.base other --model.adapter lora --ppo.updates 3") == 2
    assert "--model.base was" in capsys.readouterr().err


def test_a_function_of_a_reward_is_the_same_by_another_name_of_its_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    for now, is_same in (("../mine.py:f=1", True), ("../mine.py:f=2", False), ("../mine.py:g=1", False)):
        assert resume._is_same(["length=1", "mine.py:f=1"], ["length=1", now], [tmp_path]) is is_same
    assert not resume._is_same(["mine.py:f=1"], [], [tmp_path])


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("names", ["relative", "absolute"])
def test_a_run_that_was_moved_or_is_evaluated_from_elsewhere(place, tmp_path, monkeypatch, capsys, names, moved):
    before = f"{place}/" if names == "absolute" else ""
    flags = f"--model.base {before}t5 --model.adapter {before}lora --reward.model {before}reward --ppo.updates 1"
    assert run("training_ppo", f"--overwrite {flags}") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = Path(shutil.move(place, tmp_path / "archive")) if moved else place
    flags = f"--checkpoint {root}/checkpoints/r/ppo/step-0001 --toxicity.model {root}/reward --judge.model {root}/judge"
    capsys.readouterr()
    code = run("evaluate_ppo", f"{flags} {EVALUATION}")
    if names == "absolute" and moved:
        error = capsys.readouterr().err
        assert code == 2 and f"{place}/t5: no such folder; " in error and "put it back" in error
        return
    assert code == 0, capsys.readouterr().err
    monkeypatch.chdir(root)
    again = "--toxicity.model reward --judge.model judge/"
    capsys.readouterr()
    assert run("evaluate_ppo", f"--checkpoint checkpoints/r/ppo/step-0001 {again} {EVALUATION}") == 0
    assert "as the reference" not in capsys.readouterr().err, "the same evaluation, which is there"


def test_what_is_found_nowhere_is_told_with_where_it_was_looked_for(place, tmp_path, monkeypatch, capsys):
    assert run("training_ppo", "--overwrite --ppo.updates 1 --model.adapter lora") == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree("t5")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("evaluate_ppo", f"--checkpoint {place}/checkpoints/r/ppo/step-0001 {EVALUATION}") == 2
    error = capsys.readouterr().err
    assert f"t5: no such folder in {tmp_path / 'elsewhere'} or {place}" in error and "put it back" in error


def test_checkpoints_of_one_model_by_two_names_are_one_model(place):
    shutil.copytree("checkpoints/r", "checkpoints/s")
    absolute = f"--model.base {place}/t5 --model.adapter {place}/lora --reward.model {place}/reward"
    assert run("training_ppo", f"--run s --overwrite --ppo.updates 1 --seed 1 {absolute}") == 0
    both = ("checkpoints/r/ppo/step-0001", "checkpoints/s/ppo/step-0001")
    found = checkpoints.find(config.EvaluationStage(checkpoint=both), config.PPOTraining)
    assert {case.training.model.base for case in found} == {"t5"}
    assert checkpoints.differ_by_seed(found)


def test_the_working_folder_is_noted_with_a_checkpoint(place):
    assert run("training_ppo", "--overwrite --ppo.updates 1 --model.adapter lora") == 0
    folder = Path("checkpoints/r/ppo/step-0001")
    manifest = checkpoint_record.read_manifest(folder)
    assert manifest["notes"]["working_folder"] == os.getcwd()
    assert checkpoint_record.working_folders(folder, manifest) == [place, place]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_no_utf8_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    for stage, (kind, main) in STAGES.items():
        assert cli.run(kind, main, ["--preset", "demo"]) == 2, stage
        told = capsys.readouterr().err
        assert r"/f\xfcr/checkpoints: this name is not read as UTF-8; rename that folder" in told
    assert not any(folder.iterdir())


def test_a_locale_that_reads_a_name_as_another_is_told(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("latin-1"))
    with pytest.raises(UserError, match="/ü: this name is not read as UTF-8; set PYTHONUTF8=1"):
        paths.demand_utf8("/ü".encode().decode("latin-1"))
