"""What people have, in every format; and what is malformed, named by file and line."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from detox.data import preparation, readers
from detox.data.rows import checked
from detox.data.sources import locate
from detox.data.splits import SPLITS
from detox.stage.errors import UserError
from tests.data.dialogues import WRITERS, folder, row, rows, write_csv, write_json_lines


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
    for split in SPLITS:
        content = [{names[column]: text for column, text in r.items()} for r in rows(split, 2)]
        write_csv(tmp_path / f"{split}.csv", content, list(names.values()))
    settings = config.Data(dataset=str(tmp_path), **{f"{column}_column": name for column, name in names.items()})
    dataset, _ = preparation.prepare(settings, tokenizer, 0)
    assert dataset["train"]["summaries"][:] == [["they chat 0"], ["they chat 1"]]
    assert dataset["train"]["topic"][:] == ["talk", "talk"]


def test_the_topic_may_be_absent(tmp_path, tokenizer):
    for split in SPLITS:
        content = [{"id": r["id"], "dialogue": r["dialogue"], "summary": r["summary"]} for r in rows(split, 2)]
        write_json_lines(tmp_path / f"{split}.jsonl", content)
    dataset, _ = preparation.prepare(config.Data(dataset=str(tmp_path)), tokenizer, 0)
    assert dataset["train"]["topic"][:] == ["", ""]


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
    found = [example for split in SPLITS for example in dataset[split].to_list()]
    assert sorted((example["dialogue"], example["summaries"][0]) for example in found) == sorted(TEXTS)
    assert {example["id"] for example in found} == {f"talks_{n + 1}" for n in range(60)}
    assert counts["train/kept"] > 30 and counts["validation/kept"] and counts["test/kept"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text\tabstract, short\na,b\tc\n", {"text": "a,b", "abstract, short": "c"}),
        ("a, b, and c\td; e; f\n1\t2\n", {"a, b, and c": "1", "d; e; f": "2"}),
        ("text,abstract\n1,2\n", {"text": "1", "abstract": "2"}),
    ],
)
def test_a_tab_parts_the_columns_of_a_tsv(tmp_path, content, expected):
    (tmp_path / "talks.TSV").write_text(content)
    ((_, record),) = readers.read(tmp_path / "talks.TSV")
    assert record == expected


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
    assert names[ids] in {identity for split in SPLITS for identity in dataset[split]["id"]}


def test_a_whole_number_is_an_id_to_its_last_digit(tmp_path):
    ids = [2**53 + 1, 10**400, 1.5]
    (tmp_path / "train.jsonl").write_text("".join(f'{{"id": {i}, "dialogue": "a", "summary": "b"}}\n' for i in ids))
    found = checked(readers.read(tmp_path / "train.jsonl"), config.Data(), "train")
    assert [one.id for one in found] == [str(i) for i in ids]


def test_what_python_cannot_hold_of_a_parquet_file(tmp_path):
    table = pyarrow.table(
        {"dialogue": ["a"], "summary": ["b"], "when": pyarrow.array([2**62], pyarrow.timestamp("us"))}
    )
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    (found,) = checked(readers.read(tmp_path / "train.parquet"), config.Data(), "train")
    assert (found.dialogue, list(found.summaries)) == ("a", ["b"]), "of a column that nobody names nothing is asked"
    wrong = b"caf\xe9"
    offsets = pyarrow.py_buffer(bytes(4) + len(wrong).to_bytes(4, "little"))
    latin = pyarrow.StringArray.from_buffers(1, offsets, pyarrow.py_buffer(wrong))
    pyarrow.parquet.write_table(pyarrow.table({"dialogue": latin, "summary": ["b"]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="not a readable Parquet file .*utf-8"):
        list(readers.read(tmp_path / "train.parquet"))


def test_an_id_column_that_was_named_must_be_there(tmp_path):
    path = write_table(tmp_path / "talks.csv", ",", "dialogue,summary")
    with pytest.raises(UserError, match="no column 'key' .*--data.id-column"):
        next(locate(config.Data(dataset=str(path), id_column="key"), 0).rows("train"))


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
        "train.jsonl:1: dialogue is of type list",
    ),
    "summary is a number": (
        "jsonl",
        b'{"id": 1, "dialogue": "a", "summary": 5}',
        "train.jsonl:1: summary is of type int",
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
    source = locate(config.Data(dataset=str(path), id_column="a", dialogue_column="b", summary_column="1"), 0)
    try:
        found = [found for split in SPLITS for found in source.rows(split)]
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
        records = checked(readers.read(path), config.Data(), "x")
        found.append([(r.id, r.dialogue, r.summaries) for r in records])
    line_breaks = [text.replace("\r\n", "\n").replace("\r", "\n").strip() for text, _ in texts]
    summaries = [(summary.strip(),) if summary.strip() else () for _, summary in texts]
    expected = [(str(n), line_breaks[n], summaries[n]) for n in range(len(texts))]
    assert found == [expected, expected]


def test_a_file_that_may_not_be_read_is_named(tmp_path, tokenizer, monkeypatch):
    settings = folder(tmp_path)

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="test.csv: cannot be read .Permission denied"):
        preparation.prepare(settings, tokenizer, 0)
