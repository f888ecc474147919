"""Where dialogues come from, and which split they fall into."""

from __future__ import annotations

import json

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub.utils import filter_repo_objects

import config
from detox.data import preparation, sources
from detox.data.sources import locate
from detox.data.splits import SPLITS
from detox.stage.errors import UserError
from tests.data.dialogues import folder, row, rows, write_csv, write_json_lines


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_single_file_is_split_by_dialogue(tmp_path, tokenizer, suffix):
    content = rows("any", 60)
    again = [row(f"again_{n}", f"ANN: hello any {n}\nBob:  you are late", "they quarrel") for n in range(60)]

    def splits(records: list[dict[str, str]]) -> dict[str, set[str]]:
        path = tmp_path / f"all.{suffix}"
        if suffix == "csv":
            write_csv(path, records)
        elif suffix == "jsonl":
            write_json_lines(path, records)
        elif suffix == "json":
            path.write_text(json.dumps(records, indent=1))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
        settings = config.Data(dataset=str(path), validation_fraction=0.3, test_fraction=0.3)
        dataset, counts = preparation.prepare(settings, tokenizer, 0)
        assert sum(counts[f"{split}/read"] for split in SPLITS) == len(records)
        return {split: set(part["id"]) for split, part in dataset.items()}

    once = splits(content)
    assert set().union(*once.values()) == {r["id"] for r in content}
    assert all(len(ids) >= 8 for ids in once.values()) and sum(map(len, once.values())) == 60
    assert splits(content + again) == once  # the same dialogue in other case and spacing falls into the same split
    half = splits(content[:30])
    assert all(half[split] <= once[split] for split in SPLITS)


def test_what_the_library_saves_in_its_own_format_is_told(tmp_path):
    DatasetDict({"train": Dataset.from_list(rows("train", 3))}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="written by `save_to_disk`"):
        sources.locate(config.Data(dataset=str(tmp_path / "saved")), 0)


def test_a_file_that_changes_is_seen(tmp_path):
    folder(tmp_path)
    source = sources.locate(config.Data(dataset=str(tmp_path)), 0)
    before = source.state()
    assert source.state() == before
    path = tmp_path / "train.csv"
    path.write_text(path.read_text() + "\n")
    assert source.state() != before


def test_shards_of_parquet_in_a_data_folder(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    for split in SPLITS:
        for shard in range(2):
            table = pyarrow.Table.from_pylist(rows(split, 6)[3 * shard : 3 * shard + 3])
            pyarrow.parquet.write_table(table, tmp_path / "data" / f"{split}-0000{shard}-of-00002.parquet")
    dataset, _ = preparation.prepare(config.Data(dataset=str(tmp_path)), tokenizer, 0)
    assert dataset["train"]["id"][:] == [f"train_{n}" for n in range(6)]


def test_the_demo_corpus_depends_on_the_seed_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(sources, "DEMO_DIALOGUES", {"train": 20, "validation": 4, "test": 5})
    settings = config.Data(dataset="demo:corpus")
    first, _ = preparation.prepare(settings, tokenizer, 0)
    again, _ = preparation.prepare(settings, tokenizer, 0)
    other, _ = preparation.prepare(settings, tokenizer, 1)
    assert {split: len(part) for split, part in first.items()} == {"train": 20, "validation": 4, "test": 5}
    assert first["train"].to_list() == again["train"].to_list() != other["train"].to_list()
    assert all(2 <= len(references) <= 3 for references in first["test"]["summaries"])


def test_a_hub_dataset_comes_as_plain_files_at_a_known_commit(tmp_path, monkeypatch):
    commit = tmp_path / ("b" * 40)
    commit.mkdir()
    folder(commit)
    asked = {}

    def download(name, *, repo_type, revision, allow_patterns, **options):
        asked.update(name=name, repo_type=repo_type, revision=revision, patterns=allow_patterns)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("detox.model.hub.problem", lambda endpoint: None)
    source = locate(config.Data(dataset="owner/talks", revision="v1"), 0)
    assert (source.name, source.revision) == ("owner/talks", "b" * 40)
    assert (asked["name"], asked["repo_type"], asked["revision"]) == ("owner/talks", "dataset", "v1")
    assert [path.name for path in source.files] == ["train.csv", "validation.csv", "test.csv"]
    wanted = ["train.csv", "dialogsum.dev.jsonl", "data/test-00000-of-00001.parquet"]
    unwanted = ["README.md", "talks.py", "train.zip", "train.pkl", "images/cat.png"]
    assert list(filter_repo_objects(wanted + unwanted, allow_patterns=asked["patterns"])) == wanted


LAYOUTS = {
    "train alone": (["train.csv"], {"train", "validation", "test"}),
    "another name": (["samsum.csv"], {"train", "validation", "test"}),
    "shards of train": (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"], {"train"}),
    "val": (["train.csv", "val.csv", "test.csv"], set()),
    "valid": (["train.csv", "valid.jsonl", "test.csv"], set()),
    "dev": (["talks.train.jsonl", "talks.dev.jsonl", "talks.test.jsonl"], set()),
    "no validation": (["train.csv", "test.csv"], {"train", "validation"}),
    "no test": (["train.csv", "val.csv"], {"train", "test"}),
    "eval": (["training.csv", "validation.csv", "eval.csv"], set()),
}


@pytest.mark.parametrize(("names", "cut"), LAYOUTS.values(), ids=LAYOUTS)
def test_splits_by_other_names_or_taken_out_of_train(tmp_path, tokenizer, names, cut):
    for number, name in enumerate(names):
        content = [row(f"{number}_{n}", f"Ann: {number} hello {n}") for n in range(80)]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (write_csv if name.endswith("csv") else write_json_lines)(tmp_path / name, content)
    dataset, counts = preparation.prepare(config.Data(dataset=str(tmp_path)), tokenizer, 0)
    found = {split: set(dataset[split]["dialogue"]) for split in SPLITS}
    assert sum(map(len, found.values())) == 80 * len(names) == len(set().union(*found.values()))
    whole = {split for split in SPLITS if len(found[split]) == 80}
    assert "train" in cut or whole == set(SPLITS)
    for split in ("validation", "test"):
        assert (split not in whole) == (split in cut or cut == {"train"}), split


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda tmp: tmp / "nothing", {}, "no such file or folder"),
        (lambda tmp: "there.csv", {}, "no such file or folder"),
        (lambda tmp: "demo:nothing", {}, "no such file or folder"),
        (lambda tmp: "~nobody/talks", {}, "no such file or folder"),
        (lambda tmp: "../" * 3 + "x", {}, "no such file or folder"),
        (lambda tmp: "demo:corpus", {"revision": "main"}, "--data.revision=main"),
        (lambda tmp: tmp, {}, r"no file for the train split \(it has no data file\); it takes train.csv"),
    ],
)
def test_a_dataset_that_is_not_there_is_named(tmp_path, make, changes, message):
    with pytest.raises(UserError, match=message):
        locate(config.Data(dataset=str(make(tmp_path)), **changes), 0)


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "talks.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match="format .xlsx; it must be .csv, .tsv, .jsonl, .json, .parquet"):
        locate(config.Data(dataset=str(tmp_path / "talks.xlsx")), 0)


def test_names_of_splits_in_capitals(tmp_path):
    settings = folder(tmp_path)
    (tmp_path / "test.csv").rename(tmp_path / "test.CSV")
    (tmp_path / "validation.csv").rename(tmp_path / "Dev.csv")
    found = locate(settings, 0)
    assert [path.name for path in found.files] == ["train.csv", "Dev.csv", "test.CSV"] and not found.cut
    write_csv(tmp_path / "TEST.tsv", rows("test", 1))
    with pytest.raises(UserError, match=r"several files for the test split \(TEST.tsv, test.CSV\)"):
        locate(settings, 0)


def test_two_files_for_a_split_are_refused(tmp_path):
    settings = folder(tmp_path)
    write_csv(tmp_path / "dev.csv", rows("dev", 1))
    with pytest.raises(UserError, match=r"several files for the validation split \(dev.csv, validation.csv\)"):
        locate(settings, 0)
