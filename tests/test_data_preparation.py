"""Stage 1 from the command line to the folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import config
import data_preparation
from detox.data import sources
from detox.data.prepared import load_prepared
from detox.data.splits import SPLITS
from detox.stage import cli
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder; what a stage leaves there is seen."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def prepare(base: Path, *arguments: str) -> int:
    limits = ("--data.max-query-tokens", "2000", "--data.max-summary-tokens", "500")
    return cli.run(config.Preparation, data_preparation.main, ["--model.base", str(base), *limits, *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_becomes_a_prepared_dataset(base, place, tmp_path, capsys):
    source = tiny.dialogsum(tmp_path / "source", train=5, validation=3, test=2)
    assert prepare(base, "--data.dataset", str(source), "--run", "trial") == 0
    assert set(contents(place)) == {
        f"checkpoints/trial/prepared/{name}"
        for name in ("manifest.json", "tokenizer.json", "source.json", "dataset_dict.json")
        + tuple(f"{split}/{part}" for split in SPLITS for part in ("dataset_info.json", "state.json"))
        + tuple(f"{split}/data-00000-of-00001.arrow" for split in SPLITS)
    }
    prepared = load_prepared(place / "checkpoints/trial/prepared")
    assert {split: len(part) for split, part in prepared.items()} == {"train": 5, "validation": 3, "test": 2}
    assert [len(references) for references in prepared["test"]["summaries"]] == [3, 3]
    manifest = json.loads((place / "checkpoints/trial/prepared/manifest.json").read_text())
    assert (manifest["counts"]["train/kept"], manifest["counts"]["test/further reference"]) == (5, 4)
    out, err = capsys.readouterr()
    assert ["kept", "5", "3", "2"] in [line.split() for line in out.splitlines()]
    ppo = f"python training_ppo.py --run trial --model.base {base}"
    assert f"next: {ppo.replace('ppo', 'lora')} (optional), then {ppo}\n" in out
    assert err == ""


def test_splits_without_a_file_are_said_to_be_shares_of_the_train_rows(base, place, tmp_path, capsys):
    source = tiny.dialogsum(tmp_path / "source", train=40)
    for split in ("validation", "test"):
        (source / f"{split}.csv").unlink()
    assert prepare(base, "--data.dataset", str(source), "--data.test-fraction", "0.3") == 0
    said = capsys.readouterr().out
    assert "note: no file for validation and test: a share of the train rows, by a hash of each, is taken\n" in said


def test_the_demo_preset_prepares_its_corpus(base, place, monkeypatch, capsys):
    monkeypatch.setattr(sources, "DEMO_DIALOGUES", {"train": 6, "validation": 2, "test": 2})
    assert prepare(base, "--preset", "demo") == 0
    words = f"--preset demo --model.base {base}"
    following = f"python training_lora.py {words} (optional), then python training_ppo.py {words} --model.adapter auto"
    assert capsys.readouterr().out.endswith(f"wrote checkpoints/demo/prepared\nnext: {following}\n")


def test_the_same_settings_give_the_same_bytes(base, place, tmp_path):
    source = tiny.dialogsum(tmp_path / "source", train=5, validation=3, test=2)
    for run in ("one", "two"):
        assert prepare(base, "--data.dataset", str(source), "--run", run) == 0
    one, two = (contents(place / "checkpoints" / run / "prepared") for run in ("one", "two"))
    assert {name: part for name, part in one.items() if name != "manifest.json"} == {
        name: part for name, part in two.items() if name != "manifest.json"
    }


def test_what_stands_is_replaced_only_when_asked(base, place, tmp_path, capsys):
    small = tiny.dialogsum(tmp_path / "small", train=4, validation=2, test=2)
    large = tiny.dialogsum(tmp_path / "large", train=9, validation=2, test=2)
    assert prepare(base, "--data.dataset", str(small)) == 0
    before = contents(place)
    capsys.readouterr()
    assert prepare(base, "--data.dataset", str(large)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents(place) == before
    assert prepare(base, "--data.dataset", str(large), "--overwrite") == 0
    assert len(load_prepared(place / "checkpoints/flan-t5/prepared")["train"]) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,dialogue,summary\n1,\x1b[31mhello\n", "train.csv:2: 2 fields where the header has 3"),
        ("id,talk,summary\n1,hello,hi\n", "train.csv:2: no column 'dialogue' (it has id, talk, summary)"),
        ("id,dialogue,summary\n1,hello,\n", "no example left in the train split (1 read, 1 no summary)"),
    ],
)
def test_bad_data_ends_in_one_line_and_nothing_on_disk(base, place, tmp_path, capsys, content, message):
    source = tiny.dialogsum(tmp_path / "source", train=2, validation=2, test=2)
    (source / "train.csv").write_text(content)
    assert prepare(base, "--data.dataset", str(source)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(place.iterdir()) == []
