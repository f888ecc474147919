"""The way from a source to the splits: what is dropped, in how many processes, what is left behind."""

from __future__ import annotations

import pytest

import config
from detox.data import preparation, prepared
from detox.data.counts import DROPPED, LOST, check_vocabulary, counts_table
from detox.data.prepared import save_prepared
from detox.data.prompts import Prompter
from detox.data.rows import Row
from detox.data.sources import Source, locate
from detox.data.splits import SPLITS
from detox.stage.errors import UserError
from detox.stage.parallel import Elsewhere
from tests import threads
from tests.data.dialogues import folder, replaced, row, rows, word_tokenizer


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
    assert {key: n for key, n in counts.items() if n and not key.endswith(LOST)} == {
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
    table = counts_table(counts)
    assert "- also in test                   1           1           0" in table
    for split in SPLITS:
        assert counts[f"{split}/read"] == counts[f"{split}/kept"] + sum(counts[f"{split}/{r}"] for r in DROPPED)


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.0, None), (0.01, None), (0.02, "warned"), (0.5, "warned"), (0.51, "refused")]
)
@pytest.mark.parametrize("what", ["characters", "summary characters"])
@pytest.mark.parametrize("split", SPLITS)
def test_what_is_unknown_is_warned_of_and_refused(split, what, share, outcome):
    counts = {f"{part}/{which}": 1000 for part in SPLITS for which in LOST[::2]}
    counts[f"{split}/unknown {what}"] = int(1000 * share)
    if outcome == "refused":
        with pytest.raises(UserError, match=rf"x\.csv: the tokenizer of t5 does not know .*51.0% of the {what}.*base"):
            check_vocabulary(counts, "x.csv", "t5")
    else:
        said = check_vocabulary(counts, "x.csv", "t5")
        assert (said is None) == (outcome is None) and (said is None or f"{share:.1%} of the {what}" in said)


def test_no_example_left_is_an_error_with_the_counts(tmp_path, tokenizer):
    train = [row("a", "Ann: hello", ""), row("b", "hello " * 40), row("c", "late " * 40)]
    settings = replaced(folder(tmp_path, train=train), max_query_tokens=30)
    with pytest.raises(UserError, match=r"in the train split \(3 read, 1 no summary, 2 too long\)"):
        preparation.prepare(settings, tokenizer, 0)


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
        save_prepared(prepared, target, locate(settings, 0), tokenizer, "words")
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
    source, made = locate(settings, 0), []

    def work(processes):
        if not processes.is_main:
            return preparation.assist(settings, word_tokenizer(), processes)
        prepared, counts = preparation.prepare(settings, tokenizer, 0, source, processes=processes)
        return {split: part[:] for split, part in prepared.items()}, counts

    call = Prompter.__call__
    monkeypatch.setattr(Prompter, "__call__", lambda self, chunk: made.append(id(self)) or call(self, chunk))
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


def test_rows_are_read_only_a_little_ahead(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK", 8)
    read = written = ahead = 0

    def endless(split):
        nonlocal read
        for n in range(400):
            read += 1
            yield Row(f"x:{n}", f"{split}{n}", f"Ann: hello {split} {n}", ("they chat",), "")

    class Writer(prepared.ArrowWriter):
        def write(self, example, *arguments):
            nonlocal written, ahead
            if example["id"].startswith("train"):
                written += 1
                ahead = max(ahead, read - written)
            else:
                written = read
            super().write(example, *arguments)

    monkeypatch.setattr(prepared, "ArrowWriter", Writer)
    source = Source("endless", None, (), endless)
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
