"""Sources, readers, splits, filters, prompts and the prepared dataset on disk."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import config
from detox.data import preparation
from detox.stage import artifacts
from detox.stage.errors import UserError
from detox.stage.files import sha256
from detox.stage.parallel import Elsewhere
from tests import threads, tiny

WORDS = [
    "Summarize",
    "the",
    "following",
    "conversation.",
    "Summary:",
    "Ann:",
    "Bob:",
    "hello",
    "you",
    "late",
    "fool",
]
COLUMNS = ["id", "dialogue", "summary", "topic"]


def word_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """One token a word, and </s> at the end."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


def row(identity: str, dialogue: str, summary: str = "they chat", topic: str = "talk") -> dict[str, str]:
    return {"id": identity, "dialogue": dialogue, "summary": summary, "topic": topic}


def rows(split: str, count: int) -> list[dict[str, str]]:
    return [row(f"{split}_{n}", f"Ann: hello {split} {n}\nBob: you are late", f"they chat {n}") for n in range(count)]


def write_csv(path: Path, content: list[dict[str, str]], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(content)
    return path


def write_json_lines(path: Path, content: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in content), encoding="utf-8")
    return path


def folder(tmp_path: Path, **splits: list[dict[str, str]]) -> config.Data:
    """Write a folder in the hub's layout; a split that is not given gets three rows of its own."""
    for split in preparation.SPLITS:
        write_csv(tmp_path / f"{split}.csv", splits.get(split, rows(split, 3)))
    return config.Data(dataset=str(tmp_path))


def replaced(settings: config.Data, **changes: object) -> config.Data:
    return config.Data(**(vars(settings) | changes))


# --------------------------------------------------------------------------------------------------- layouts


def test_the_hubs_layout_gives_one_test_example_with_three_references(tmp_path, tokenizer):
    test = [row(f"test_0_{n}", "Ann: hello\nBob: you fool", f"they quarrel {n}", f"topic {n}") for n in (1, 2, 3)]
    dataset, counts = preparation.prepare(folder(tmp_path, test=test), tokenizer, 0)
    assert list(dataset) == ["train", "validation", "test"]
    assert all(split.features == preparation.FEATURES for split in dataset.values())
    query = "Summarize the following conversation.\n\nAnn: hello\nBob: you fool\n\nSummary: "
    assert dataset["test"][0] == {
        "id": "test_0",
        "dialogue": "Ann: hello\nBob: you fool",
        "query": query,
        "input_ids": tokenizer(query)["input_ids"],
        "summaries": ["they quarrel 1", "they quarrel 2", "they quarrel 3"],
        "topic": "topic 1",
    }
    assert dataset["test"][0]["input_ids"][-1] == tokenizer.eos_token_id
    assert dataset["train"]["summaries"][:] == [["they chat 0"], ["they chat 1"], ["they chat 2"]]
    assert (counts["test/read"], counts["test/kept"], counts["test/further reference"]) == (3, 1, 2)


def test_references_that_do_not_follow_each_other_are_found(tmp_path, tokenizer):
    first = [row(f"a_{n}", f"Ann: hello {n}", f"one {n}") for n in range(3)]
    second = [row(f"b_{n}", f"Ann:  Hello {n}", f"two {n}") for n in range(3)]
    dataset, _ = preparation.prepare(folder(tmp_path, test=first + second), tokenizer, 0)
    assert dataset["test"]["summaries"][:] == [[f"one {n}", f"two {n}"] for n in range(3)]
    assert dataset["test"]["id"][:] == ["a_0", "a_1", "a_2"]


def test_a_fourth_reference_is_counted_not_kept(tmp_path, tokenizer):
    test = [row(f"test_0_{n}", "Ann: hello", f"they chat {n}") for n in range(1, 6)]
    dataset, counts = preparation.prepare(folder(tmp_path, test=test), tokenizer, 0)
    assert dataset["test"]["summaries"][:] == [["they chat 1", "they chat 2", "they chat 3"]]
    assert (counts["test/further reference"], counts["test/beyond 3 references"]) == (2, 2)


def test_the_authors_json_lines_give_what_the_hubs_csv_gives(tmp_path, tokenizer):
    hub, authors = tmp_path / "hub", tmp_path / "authors"
    hub.mkdir()
    authors.mkdir()
    test = [row(f"test_{d}_{n}", f"Ann: hello {d}", f"chat {d} {n}") for d in range(3) for n in (1, 2, 3)]
    expected, _ = preparation.prepare(folder(hub, test=test), tokenizer, 0)
    for split, name in (("train", "train"), ("validation", "dev")):
        content = [{"fname" if key == "id" else key: text for key, text in r.items()} for r in rows(split, 3)]
        write_json_lines(authors / f"dialogsum.{name}.jsonl", content)
    three = [
        {"fname": f"test_{d}", "dialogue": f"Ann: hello {d}"}
        | {f"summary{n}": f"chat {d} {n}" for n in (1, 2, 3)}
        | {f"topic{n}": "talk" for n in (1, 2, 3)}
        for d in range(3)
    ]
    write_json_lines(authors / "dialogsum.test.jsonl", three)
    dataset, _ = preparation.prepare(config.Data(dataset=str(authors)), tokenizer, 0)
    assert {split: part.to_list() for split, part in dataset.items()} == {
        split: part.to_list() for split, part in expected.items()
    }


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
        assert sum(counts[f"{split}/read"] for split in preparation.SPLITS) == len(records)
        return {split: set(part["id"]) for split, part in dataset.items()}

    once = splits(content)
    assert set().union(*once.values()) == {r["id"] for r in content}
    assert all(len(ids) >= 8 for ids in once.values()) and sum(map(len, once.values())) == 60
    assert splits(content + again) == once  # the same dialogue in other case and spacing falls into the same split
    half = splits(content[:30])
    assert all(half[split] <= once[split] for split in preparation.SPLITS)


def test_shards_of_parquet_in_a_data_folder(tmp_path, tokenizer):
    (tmp_path / "data").mkdir()
    for split in preparation.SPLITS:
        for shard in range(2):
            table = pyarrow.Table.from_pylist(rows(split, 6)[3 * shard : 3 * shard + 3])
            pyarrow.parquet.write_table(table, tmp_path / "data" / f"{split}-0000{shard}-of-00002.parquet")
    dataset, _ = preparation.prepare(config.Data(dataset=str(tmp_path)), tokenizer, 0)
    assert dataset["train"]["id"][:] == [f"train_{n}" for n in range(6)]


def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, tokenizer):
    settings = folder(tmp_path)
    plain, _ = preparation.prepare(settings, tokenizer, 0)
    for path in tmp_path.glob("*.csv"):
        text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text)
    windows, _ = preparation.prepare(settings, tokenizer, 0)
    assert [split.to_list() for split in windows.values()] == [split.to_list() for split in plain.values()]


def test_columns_have_the_names_of_the_settings(tmp_path, tokenizer):
    names = {"id": "key", "dialogue": "talk", "summary": "gist", "topic": "about"}
    for split in preparation.SPLITS:
        content = [{names[column]: text for column, text in r.items()} for r in rows(split, 2)]
        write_csv(tmp_path / f"{split}.csv", content, list(names.values()))
    settings = config.Data(dataset=str(tmp_path), **{f"{column}_column": name for column, name in names.items()})
    dataset, _ = preparation.prepare(settings, tokenizer, 0)
    assert dataset["train"]["summaries"][:] == [["they chat 0"], ["they chat 1"]]
    assert dataset["train"]["topic"][:] == ["talk", "talk"]


def test_the_topic_may_be_absent(tmp_path, tokenizer):
    for split in preparation.SPLITS:
        content = [{"id": r["id"], "dialogue": r["dialogue"], "summary": r["summary"]} for r in rows(split, 2)]
        write_json_lines(tmp_path / f"{split}.jsonl", content)
    dataset, _ = preparation.prepare(config.Data(dataset=str(tmp_path)), tokenizer, 0)
    assert dataset["train"]["topic"][:] == ["", ""]


def test_the_demo_corpus_depends_on_the_seed_alone(tokenizer, monkeypatch):
    monkeypatch.setattr(preparation, "DEMO_DIALOGUES", {"train": 20, "validation": 4, "test": 5})
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
    source = preparation.locate(config.Data(dataset="owner/talks", revision="v1"), 0)
    assert (source.name, source.revision) == ("owner/talks", "b" * 40)
    assert (asked["name"], asked["repo_type"], asked["revision"]) == ("owner/talks", "dataset", "v1")
    assert [path.name for path in source.files] == ["train.csv", "validation.csv", "test.csv"]
    wanted = ["train.csv", "dialogsum.dev.jsonl", "data/test-00000-of-00001.parquet"]
    unwanted = ["README.md", "talks.py", "train.zip", "train.pkl", "images/cat.png"]
    assert list(filter_repo_objects(wanted + unwanted, allow_patterns=asked["patterns"])) == wanted


# ------------------------------------------------------------------------------------------ what people have

TEXTS = [(f'Ann: hello {n}, you\nBob: late; | "fool" {n}', f"they; chat, {n}") for n in range(60)]


def write_table(path: Path, delimiter: str, header: str, quoting: int = csv.QUOTE_MINIMAL, start: str = "") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{start}{header}\n")
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(TEXTS)
    return path


@pytest.mark.parametrize(
    ("file", "delimiter", "header", "start"),
    [
        ("talks.csv", ",", "text,abstract", ""),
        ("talks.csv", ";", "text;abstract", ""),
        ("talks.csv", "\t", "text\tabstract", ""),
        ("talks.tsv", "\t", "text\tabstract", ""),
        ("talks.csv", "|", "text|abstract", ""),
        ("talks.csv", ",", " text , abstract ", ""),
        ("talks.csv", ";", "text; abstract", "\ufeff"),
        ("talks.csv", ";", '"text";"abstract"', "sep=;\n"),
        ("talks.csv", ",", "text,abstract", "\ufeffsep=,\n"),
    ],
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_as_spreadsheets_write_it(tmp_path, tokenizer, file, delimiter, header, start, quoting):
    """The columns by flags, no ids, no topics; every dialogue is in one split."""
    path = write_table(tmp_path / file, delimiter, header, quoting, start)
    columns = {"dialogue_column": "text", "summary_column": "abstract"}
    dataset, counts = preparation.prepare(config.Data(dataset=str(path), **columns), tokenizer, 0)
    found = [example for split in preparation.SPLITS for example in dataset[split].to_list()]
    assert sorted((example["dialogue"], example["summaries"][0]) for example in found) == sorted(TEXTS)
    assert {example["id"] for example in found} == {f"talks_{n + 1}" for n in range(60)}
    assert counts["train/kept"] > 30 and counts["validation/kept"] and counts["test/kept"]


def write_json_list(path: Path, content: list[dict]) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_parquet(path: Path, content: list[dict]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_json_lines, "json": write_json_list, "parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("ids", [None, "number", "name"])
def test_columns_named_by_flags_in_every_reader(tmp_path, tokenizer, suffix, ids):
    content = [
        {"text": text, "abstract": abstract} | ({} if ids is None else {"key": n if ids == "number" else f"k{n}"})
        for n, (text, abstract) in enumerate(TEXTS)
    ]
    path = tmp_path / f"talks.{suffix}"
    if suffix == "csv":
        write_csv(path, content, [*content[0]])
    else:
        WRITERS[suffix](path, content)
    columns = {"dialogue_column": "text", "summary_column": "abstract"} | ({"id_column": "key"} if ids else {})
    dataset, _ = preparation.prepare(config.Data(dataset=str(path), **columns), tokenizer, 0)
    names = {None: "talks_1", "number": "0", "name": "k0"}
    assert names[ids] in {identity for split in preparation.SPLITS for identity in dataset[split]["id"]}


def test_an_id_column_that_was_named_must_be_there(tmp_path):
    path = write_table(tmp_path / "talks.csv", ",", "dialogue,summary")
    with pytest.raises(UserError, match="no column 'key' .*--data.id-column"):
        next(preparation.locate(config.Data(dataset=str(path), id_column="key"), 0).rows("train"))


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
    found = {split: set(dataset[split]["dialogue"]) for split in preparation.SPLITS}
    assert sum(map(len, found.values())) == 80 * len(names) == len(set().union(*found.values()))
    whole = {split for split in preparation.SPLITS if len(found[split]) == 80}
    assert "train" in cut or whole == set(preparation.SPLITS)
    for split in ("validation", "test"):
        assert (split not in whole) == (split in cut or cut == {"train"}), split


# ----------------------------------------------------------------------------------------- what is malformed

HEADER = b"id,dialogue,summary,topic\n"
MALFORMED = {
    "empty": ("csv", b"", "train.csv: is empty"),
    "blank": ("csv", b"\n\n", "train.csv: is empty"),
    "no such column": (
        "csv",
        b"id,text,summary\n1,a,b\n",
        "train.csv:2: no column 'dialogue' (it has id, text, summary)",
    ),
    "column twice": ("csv", b"id,dialogue,summary,summary\n", "train.csv:1: a column occurs twice"),
    "too few fields": (
        "csv",
        HEADER + b'1,"a\nb\nc",d,e\n2,only\n',
        "train.csv:5: 2 fields where the header has 4",
    ),
    "too many fields": ("csv", HEADER + b"1,a,b,c,d\n", "train.csv:2: 5 fields"),
    "open quote": ("csv", HEADER + b'1,a,b,c\n2,"never closed,b,c\n3,a,b,c\n', "train.csv:3: not valid CSV"),
    "text after quote": ("csv", HEADER + b'1,"a"b,c,d\n', "train.csv:2: not valid CSV"),
    "carriage returns alone": ("csv", b"id,dialogue,summary\r1,a,b\r", "train.csv:1: not valid CSV"),
    "NUL": ("csv", HEADER + b"1,a\0,b,c\n", "train.csv:2: holds a NUL byte"),
    "Latin-1": (
        "csv",
        HEADER + b"1,a,b,c\n2,caf\xe9,b,c\n",
        "train.csv:3: not UTF-8 (byte 0xe9 in column 6)",
    ),
    "UTF-16": ("csv", "id,dialogue\n".encode("utf-16"), "train.csv:1: holds a NUL byte"),
    "empty id": ("csv", HEADER + b"1,a,b,c\n,x,b,c\n", "train.csv:3: the id is empty"),
    "id twice": (
        "csv",
        HEADER + b"1,a,b,c\n1,other,b,c\n",
        "train.csv:3: id '1' already names another dialogue",
    ),
    "not JSON": (
        "jsonl",
        b'{"id": "1", "dialogue": "a", "summary": "b"}\n{"id": \n',
        "train.jsonl:2: not valid JSON",
    ),
    "no object": ("jsonl", b"[1, 2]\n", "train.jsonl:1: a JSON list, not an object"),
    "two objects": ("jsonl", b"{} {}\n", "train.jsonl:1: not valid JSON (text after the object)"),
    "deep": ("jsonl", b'{"id":' * 100_000, "train.jsonl:1: not valid JSON"),
    "long number": ("jsonl", b'{"id": ' + b"9" * 5000 + b"}", "train.jsonl:1: not valid JSON"),
    "no dialogue field": (
        "jsonl",
        b'{"id": "1", "dialogue": "a", "summary": "b"}\n\n{"id": "2", "summary": "b"}\n',
        "train.jsonl:3: no field 'dialogue'",
    ),
    "dialogue is a list": (
        "jsonl",
        b'{"id": 1, "dialogue": ["a"], "summary": "b"}',
        "train.jsonl:1: dialogue is a list",
    ),
    "summary is a number": (
        "jsonl",
        b'{"id": 1, "dialogue": "a", "summary": 5}',
        "train.jsonl:1: summary is a int",
    ),
    "escaped NUL": (
        "jsonl",
        b'{"id": 1, "dialogue": "a\\u0000", "summary": "b"}',
        "train.jsonl:1: dialogue holds a NUL",
    ),
    "half a pair": (
        "jsonl",
        b'{"id": 1, "dialogue": "a\\ud800", "summary": "b"}',
        "train.jsonl:1: dialogue holds half",
    ),
    "no comma": (
        "json",
        b'[\n{"id": 1, "dialogue": "a", "summary": "b"}\n{}]',
        "train.json:3: not valid JSON",
    ),
    "list without end": (
        "json",
        b'[{"id": 1, "dialogue": "a", "summary": "b"},\n',
        "train.json:2: not valid JSON",
    ),
    "text after list": ("json", b"[]\n]", "train.json:1: not valid JSON (text after the list)"),
    "object in a list of none": ("json", b'[\n\n"a"]', "train.json:3: a JSON str, not an object"),
    "no Parquet": ("parquet", b"id,dialogue\n", "train.parquet: not a readable Parquet file"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_data_is_named_by_file_and_line(tmp_path, tokenizer, case):
    suffix, content, message = MALFORMED[case]
    settings = folder(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / f"train.{suffix}").write_bytes(content)
    with pytest.raises(UserError) as error:
        preparation.prepare(settings, tokenizer, 0)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert ";" in str(error.value) and "\n" not in str(error.value)


def test_text_of_the_data_reaches_the_terminal_without_control_characters(tmp_path, tokenizer):
    settings = folder(tmp_path, train=[row("\x1b[2J\x07x", "a"), row("\x1b[2J\x07x", "b")])
    with pytest.raises(UserError) as error:
        preparation.prepare(settings, tokenizer, 0)
    assert "train.csv:3: id" in str(error.value) and str(error.value).isprintable()


@settings(max_examples=60)
@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]",:\\ud0\n\r\0ab1 ', max_size=200).map(str.encode))
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_any_bytes_give_rows_or_a_line_that_names_the_file(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("fuzz") / f"x.{suffix}"
    path.write_bytes(content)
    source = preparation.locate(
        config.Data(dataset=str(path), id_column="a", dialogue_column="b", summary_column="1"), 0
    )
    try:
        found = [found for split in preparation.SPLITS for found in source.rows(split)]
    except UserError as error:
        assert str(error).startswith(str(path))
    else:
        assert all(found.id and "\0" not in found.dialogue for found in found)


@settings(max_examples=50)
@given(
    texts=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1),
            st.text("ab \n\",'"),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_csv_and_json_lines_give_back_what_was_written(tmp_path_factory, texts):
    where = tmp_path_factory.mktemp("round")
    content = [row(str(n), dialogue, summary) for n, (dialogue, summary) in enumerate(texts)]
    found = []
    for path in (write_csv(where / "x.csv", content), write_json_lines(where / "x.jsonl", content)):
        records = preparation._rows(preparation._reader(path)(path), config.Data(), "x")
        found.append([(r.id, r.dialogue, r.summaries) for r in records])
    line_breaks = [text.replace("\r\n", "\n").replace("\r", "\n").strip() for text, _ in texts]
    summaries = [(summary.strip(),) if summary.strip() else () for _, summary in texts]
    expected = [(str(n), line_breaks[n], summaries[n]) for n in range(len(texts))]
    assert found == [expected, expected]


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
        preparation.locate(config.Data(dataset=str(make(tmp_path)), **changes), 0)


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "talks.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match="format .xlsx; it must be .csv, .tsv, .jsonl, .json, .parquet"):
        preparation.locate(config.Data(dataset=str(tmp_path / "talks.xlsx")), 0)


def test_two_files_for_a_split_are_refused(tmp_path):
    settings = folder(tmp_path)
    write_csv(tmp_path / "dev.csv", rows("dev", 1))
    with pytest.raises(UserError, match=r"several files for the validation split \(dev.csv, validation.csv\)"):
        preparation.locate(settings, 0)


def test_a_file_that_may_not_be_read_is_named(tmp_path, tokenizer, monkeypatch):
    settings = folder(tmp_path)

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="test.csv: cannot be read .Permission denied"):
        preparation.prepare(settings, tokenizer, 0)


# --------------------------------------------------------------------------------------------------- filters


def test_what_is_dropped_is_counted_by_reason(tmp_path, tokenizer):
    train = [
        row("a", "Ann: hello"),
        row("b", "ANN:  hello"),
        row("c", " \n "),
        row("d", "Ann: you", " "),
        row("e", "Ann: " + "hello " * 20),
        row("f", "Ann: fool", "they " * 9),
        row("g", "of the test"),
        row("h", "of the validation"),
        row("i", "Bob:"),
        row("j", "Bob: hello"),
        row("k", "Bob: late"),
    ]
    settings = folder(
        tmp_path,
        train=train,
        validation=[row("v", "of the validation"), row("w", "Of the test "), row("x", "Ann: chat")],
        test=[row("t", "of the test", "long " * 30), row("u", "Ann: quarrel", "")] + rows("test", 1),
    )
    limits = {"min_query_tokens": 8, "max_query_tokens": 24, "max_summary_tokens": 8, "max_examples": 2}
    dataset, counts = preparation.prepare(replaced(settings, **limits), tokenizer, 0)
    assert dataset["train"]["id"][:] == ["a", "j"]
    assert dataset["validation"]["id"][:] == ["v", "x"]
    assert dataset["test"]["id"][:] == ["t", "test_0"]
    assert {key: n for key, n in counts.items() if n and not key.endswith(preparation.LOST)} == {
        "train/read": 11,
        "train/duplicate": 1,
        "train/no dialogue": 1,
        "train/no summary": 1,
        "train/too long": 1,
        "train/long summary": 1,
        "train/also in test": 1,
        "train/also in validation": 1,
        "train/too short": 1,
        "train/over max_examples": 1,
        "train/kept": 2,
        "validation/read": 3,
        "validation/also in test": 1,
        "validation/kept": 2,
        "test/read": 3,
        "test/no summary": 1,
        "test/kept": 2,
    }
    table = preparation.counts_table(counts)
    assert "- also in test                   1           1           0" in table
    for split in preparation.SPLITS:
        assert counts[f"{split}/read"] == counts[f"{split}/kept"] + sum(
            counts[f"{split}/{r}"] for r in preparation.DROPPED
        )


def test_what_the_tokenizer_does_not_know_is_counted(tmp_path, tokenizer):
    """Letter for letter, names of speakers left out; a run of unknown letters may well be one token."""
    known = row("a", "Ann: hello you", "late fool")
    settings = folder(tmp_path, test=[known, row("b", "Ann: 你好吗 you\nBob: ✓", "迟到 late")])
    _, counts = preparation.prepare(settings, tokenizer, 0)
    prompt = 5 + 1  # the instruction and the end
    assert {what: counts[f"test/{what}"] for what in preparation.LOST} == {
        "tokens": 2 * prompt + 3 + 5,
        "unknown tokens": 2,
        "characters": len("Ann: hello you") + len(" 你好吗 you\n ✓"),
        "unknown characters": 4,
        "summary characters": len("late fool") + len("迟到 late"),
        "unknown summary characters": 2,
    }
    shares = preparation.unknown(counts, "test")
    assert shares["tokens"] == 2 / 20 and shares["summary characters"] == 2 / 16
    assert preparation.counts_table(counts).splitlines()[-1].split()[-1] == "10.00%"


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.0, None), (0.01, None), (0.02, "warned"), (0.5, "warned"), (0.51, "refused")]
)
@pytest.mark.parametrize("what", ["characters", "summary characters"])
@pytest.mark.parametrize("split", preparation.SPLITS)
def test_what_is_unknown_is_warned_of_and_refused(split, what, share, outcome):
    counts = {f"{part}/{which}": 1000 for part in preparation.SPLITS for which in preparation.LOST[::2]}
    counts[f"{split}/unknown {what}"] = int(1000 * share)
    if outcome == "refused":
        with pytest.raises(UserError, match=rf"x\.csv: the tokenizer of t5 does not know .*51.0% of the {what}.*base"):
            preparation.check_vocabulary(counts, "x.csv", "t5")
    else:
        said = preparation.check_vocabulary(counts, "x.csv", "t5")
        assert (said is None) == (outcome is None) and (said is None or f"{share:.1%} of the {what}" in said)


def test_a_tokenizer_that_knows_every_byte_knows_all(tmp_path):
    """Of GPT-2's kind, whose end-of-text token is called its unknown one too."""
    tiny.causal(tmp_path / "gpt2")
    bytes_all = AutoTokenizer.from_pretrained(tmp_path / "gpt2", unk_token="</s>", eos_token="</s>")
    _, counts = preparation.prepare(folder(tmp_path, test=[row("a", "你好 🙂", "迟到")]), bytes_all, 0)
    assert preparation.unknown(counts, "test") == {"tokens": 0, "characters": 0, "summary characters": 0}


def test_no_example_left_is_an_error_with_the_counts(tmp_path, tokenizer):
    train = [row("a", "Ann: hello", ""), row("b", "hello " * 40), row("c", "late " * 40)]
    settings = replaced(folder(tmp_path, train=train), max_query_tokens=30)
    with pytest.raises(UserError, match=r"in the train split \(3 read, 1 no summary, 2 too long\)"):
        preparation.prepare(settings, tokenizer, 0)


class Listening:
    """A tokenizer that remembers the longest text that it was given."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer, self.longest = tokenizer, 0

    def __call__(self, text=(), text_target=(), **options):
        self.longest = max([self.longest, *map(len, text or text_target)])
        inputs = {"text_target": text_target} if text_target else {"text": text}
        return self.tokenizer(**inputs, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("truncate", [False, True])
def test_a_dialogue_of_ten_megabytes_costs_next_to_nothing(tmp_path, tokenizer, truncate):
    giant = "Ann: hello " * 1_000_000
    train = [row("a", giant), row("b", "Ann: hello", giant), *rows("train", 2)]
    settings = replaced(folder(tmp_path, train=train), max_query_tokens=100, truncate=truncate)
    listening, started = Listening(tokenizer), time.process_time()
    dataset, counts = preparation.prepare(settings, listening, 0)
    assert time.process_time() - started < 4
    assert listening.longest < 5_000
    assert counts["train/long summary"] == 1
    assert counts["train/too long"] == (0 if truncate else 1)
    assert dataset["train"]["id"][:] == (["a"] if truncate else []) + ["train_0", "train_1"]


def test_truncation_shortens_the_dialogue_and_leaves_the_instruction(tmp_path, tokenizer):
    long = "\n".join(f"Ann: hello {n} you" for n in range(40))
    settings = replaced(folder(tmp_path, train=[row("a", long), row("b", "Bob: hello")]), max_query_tokens=30)
    dataset, counts = preparation.prepare(replaced(settings, truncate=True), tokenizer, 0)
    example = dataset["train"][0]
    assert example["query"] == f"Summarize the following conversation.\n\n{example['dialogue']}\n\nSummary: "
    assert long.startswith(example["dialogue"]) and len(example["input_ids"]) == 30
    assert example["input_ids"] == tokenizer(example["query"])["input_ids"]
    assert (counts["train/kept"], counts["train/truncated"], counts["train/too long"]) == (2, 1, 0)
    assert "of them truncated" in preparation.counts_table(counts)
    untouched, _ = preparation.prepare(settings, tokenizer, 0)
    assert untouched["train"]["id"][:] == ["b"]


def test_truncation_never_leaves_half_a_word(tmp_path, tokenizer):
    words = ["x" * length for length in range(100, 200)]  # one token each, the unknown one
    settings = replaced(folder(tmp_path, train=[row("a", " ".join(words))]), max_query_tokens=90, truncate=True)
    dataset, _ = preparation.prepare(settings, tokenizer, 0)
    kept = dataset["train"]["dialogue"][0].split()
    assert 0 < len(kept) < len(words) and kept == words[: len(kept)]


def test_a_prompt_that_fills_the_limit_alone_leaves_nothing_to_truncate(tmp_path, tokenizer):
    settings = replaced(folder(tmp_path), max_query_tokens=6, truncate=True)
    with pytest.raises(UserError, match=r"no example left in the test split \(3 read, 3 too long\)"):
        preparation.prepare(settings, tokenizer, 0)


def test_braces_in_prompt_and_dialogue_are_plain_text(tmp_path, tokenizer):
    settings = folder(tmp_path, train=[row("a", "Ann: {0} {dialogue}")])
    dataset, _ = preparation.prepare(replaced(settings, prompt="{x} {dialogue} {y}"), tokenizer, 0)
    assert dataset["train"]["query"][:] == ["{x} Ann: {0} {dialogue} {y}"]


@pytest.mark.parametrize("max_examples", [None, 11])
def test_workers_change_neither_bytes_nor_counts(tmp_path, tokenizer, monkeypatch, max_examples):
    monkeypatch.setattr(preparation, "CHUNK", 4)
    train = [row(f"x{n}", "Ann: " + "hello " * (n % 9) + str(n), "they chat") for n in range(50)]
    settings = replaced(folder(tmp_path, train=train), max_query_tokens=14, max_examples=max_examples)
    results = []
    for workers in (1, 2):
        prepared, counts = preparation.prepare(replaced(settings, workers=workers), tokenizer, 0)
        target = tmp_path / f"workers-{workers}"
        target.mkdir()
        preparation.save_prepared(prepared, target, preparation.locate(settings, 0), tokenizer, "words")
        files = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        results.append((files, counts))
    assert results[0] == results[1]
    assert len(results[0][0]) == 3 * 3 + 3
    assert results[0][1]["train/too long"] > 0


@pytest.mark.parametrize("count", [2, 3])
def test_processes_tokenize_what_the_main_one_reads(tmp_path, tokenizer, monkeypatch, count):
    monkeypatch.setattr(preparation, "CHUNK", 4)
    train = [row(f"x{n}", "Ann: " + "hello " * (n % 9) + str(n), "they chat") for n in range(50)]
    settings = replaced(folder(tmp_path, train=train), max_query_tokens=14, max_examples=30)
    source, made = preparation.locate(settings, 0), []

    def work(processes):
        if not processes.is_main:
            return preparation.assist(settings, word_tokenizer(), processes)
        prepared, counts = preparation.prepare(settings, tokenizer, 0, source, processes=processes)
        return {split: part[:] for split, part in prepared.items()}, counts

    call = preparation.Prompter.__call__
    monkeypatch.setattr(
        preparation.Prompter, "__call__", lambda self, chunk: made.append(id(self)) or call(self, chunk)
    )
    prepared, counts = preparation.prepare(settings, tokenizer, 0, source)
    made.clear()
    main, *others = threads.run(count, work)
    assert main == ({split: part[:] for split, part in prepared.items()}, counts)
    assert others == [None] * (count - 1)
    assert len(set(made)) == count


def test_a_bad_row_ends_the_other_processes_without_a_word(tmp_path, tokenizer):
    settings = folder(tmp_path, train=[row("a", "Ann: hello", "they chat"), row("a", "Tom: hello", "they chat")])

    def work(processes):
        if processes.is_main:
            return preparation.prepare(settings, tokenizer, 0, processes=processes)
        return preparation.assist(settings, word_tokenizer(), processes)

    main, other = threads.run(2, work)
    assert isinstance(main, UserError) and "train.csv:3" in str(main)
    assert isinstance(other, Elsewhere)


def test_digests_are_a_set():
    digests, known = preparation._Digests(), set()
    for n in range(3000):
        digest = preparation._digest(str(n * n % 2003))
        assert digests.add(digest) == (digest not in known)
        known.add(digest)
        assert digest in digests
    assert preparation._digest("another") not in digests
    assert len(digests._slots) <= 48 * len(known)


def test_rows_are_read_only_a_little_ahead(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK", 8)
    read = written = ahead = 0

    def endless(split):
        nonlocal read
        for n in range(400):
            read += 1
            yield preparation.Row(f"x:{n}", f"{split}{n}", f"Ann: hello {split} {n}", ("they chat",), "")

    class Writer(preparation.ArrowWriter):
        def write(self, example, *arguments):
            nonlocal written, ahead
            if example["id"].startswith("train"):
                written += 1
                ahead = max(ahead, read - written)
            else:
                written = read
            super().write(example, *arguments)

    monkeypatch.setattr(preparation, "ArrowWriter", Writer)
    source = preparation.Source("endless", None, (), endless)
    _, counts = preparation.prepare(config.Data(dataset="endless"), tokenizer, 0, source)
    assert counts["train/kept"] == 400
    assert 0 < ahead <= 8


def test_nothing_is_left_behind(tmp_path, tokenizer, monkeypatch):
    home, scratch, source = tmp_path / "home", tmp_path / "scratch", tmp_path / "source"
    for path in (home, scratch, source):
        path.mkdir()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home)
    monkeypatch.chdir(home)
    dataset, _ = preparation.prepare(folder(source), tokenizer, 0, scratch=scratch)
    assert list(home.iterdir()) == list(scratch.iterdir()) == []
    assert sorted(path.name for path in source.iterdir()) == ["test.csv", "train.csv", "validation.csv"]
    assert dataset["train"]["id"][:] == ["train_0", "train_1", "train_2"]


# --------------------------------------------------------------------------------------------------- on disk


@pytest.fixture
def prepared(tmp_path, tokenizer) -> Path:
    (tmp_path / "source").mkdir()
    settings = folder(tmp_path / "source")
    dataset, _ = preparation.prepare(settings, tokenizer, 0)
    target = tmp_path / "run" / "prepared"
    with artifacts.publish(target, stage="data_preparation", settings=config.Preparation(data=settings)) as draft:
        preparation.save_prepared(dataset, draft.path, preparation.locate(settings, 0), tokenizer, "words")
    return target


def test_a_prepared_dataset_comes_back_with_its_origin(prepared, tokenizer):
    dataset = preparation.load_prepared(prepared, preparation.tokenizer_fingerprint(tokenizer))
    assert dataset["validation"]["id"][:] == ["validation_0", "validation_1", "validation_2"]
    assert preparation.load_prepared(prepared)["train"].features == preparation.FEATURES
    origin = json.loads((prepared / "source.json").read_text())
    assert [file["name"] for file in origin["files"]] == ["train.csv", "validation.csv", "test.csv"]
    assert origin["files"][0]["sha256"] == sha256(Path(origin["dataset"], "train.csv"))


def test_another_tokenizer_is_refused(prepared):
    other = preparation.tokenizer_fingerprint(word_tokenizer([*WORDS, "more"]))
    with pytest.raises(UserError, match="prepared with the tokenizer of words, which is not this model's"):
        preparation.load_prepared(prepared, other)


@pytest.mark.parametrize("name", ["tokenizer.json", "train/data-00000-of-00001.arrow", "manifest.json"])
def test_a_damaged_prepared_dataset_is_refused(prepared, name):
    path = prepared / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"data_preparation\.py --overwrite"):
        preparation.load_prepared(prepared)


def test_text_prepared_before_the_fingerprint_had_two_parts(prepared, tokenizer):
    fingerprint = preparation.tokenizer_fingerprint(tokenizer)
    assert preparation._same_tokenizer(fingerprint.partition(":")[0], fingerprint)
    assert not preparation._same_tokenizer(fingerprint.partition(":")[0] + ":0", fingerprint)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", normalizers.Lowercase()),
        ("normalizer", normalizers.Replace("x", "y")),
        ("normalizer", normalizers.NFKC()),
        ("pre_tokenizer", pre_tokenizers.Whitespace()),
        ("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True)])),
        ("decoder", decoders.Metaspace()),
    ],
)
def test_the_fingerprint_knows_how_text_becomes_tokens(tokenizer, part, value):
    other = word_tokenizer()
    setattr(other.backend_tokenizer, part, value)
    assert preparation.tokenizer_fingerprint(other) != preparation.tokenizer_fingerprint(tokenizer)
    same = word_tokenizer()
    same(["hello you", "fool"], padding=True, truncation=True, max_length=4)
    assert preparation.tokenizer_fingerprint(same) == preparation.tokenizer_fingerprint(tokenizer)


def test_the_fingerprint_tells_tokenizers_apart(tmp_path, tokenizer):
    fingerprint = preparation.tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert preparation.tokenizer_fingerprint(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == fingerprint
    silent = word_tokenizer()
    silent.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B", [])
    renamed = word_tokenizer()
    renamed.pad_token = "</s>"
    others = [word_tokenizer([*WORDS, "more"]), word_tokenizer(WORDS[::-1]), silent, renamed]
    assert fingerprint not in map(preparation.tokenizer_fingerprint, others)
