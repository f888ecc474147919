"""One example a dialogue, with its references."""

from __future__ import annotations

import config
from detox.data import preparation
from detox.data.prepared import FEATURES
from tests.data.dialogues import folder, row, rows, write_json_lines


def test_the_hubs_layout_gives_one_test_example_with_three_references(tmp_path, tokenizer):
    test = [row(f"test_0_{n}", "Ann: hello\nBob: you fool", f"they quarrel {n}", f"topic {n}") for n in (1, 2, 3)]
    dataset, counts = preparation.prepare(folder(tmp_path, test=test), tokenizer, 0)
    assert list(dataset) == ["train", "validation", "test"]
    assert all(split.features == FEATURES for split in dataset.values())
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
