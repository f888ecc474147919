"""Prompts and their limits, and what a tokenizer does not know."""

from __future__ import annotations

import time

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from detox.data import preparation
from detox.data.counts import LOST, counts_table, unknown
from detox.stage.errors import UserError
from tests import tiny
from tests.data.dialogues import folder, replaced, row, rows


def test_what_the_tokenizer_does_not_know_is_counted(tmp_path, tokenizer):
    """Letter for letter, names of speakers left out; a run of unknown letters may well be one token."""
    known = row("a", "Ann: hello you", "late fool")
    settings = folder(tmp_path, test=[known, row("b", "Ann: 你好吗 you\nBob: ✓", "迟到 late")])
    _, counts = preparation.prepare(settings, tokenizer, 0)
    prompt = 5 + 1  # the instruction and the end
    assert {what: counts[f"test/{what}"] for what in LOST} == {
        "tokens": 2 * prompt + 3 + 5,
        "unknown tokens": 2,
        "characters": len("Ann: hello you") + len(" 你好吗 you\n ✓"),
        "unknown characters": 4,
        "summary characters": len("late fool") + len("迟到 late"),
        "unknown summary characters": 2,
    }
    shares = unknown(counts, "test")
    assert shares["tokens"] == 2 / 20 and shares["summary characters"] == 2 / 16
    assert counts_table(counts).splitlines()[-1].split()[-1] == "10.00%"


def test_a_tokenizer_that_knows_every_byte_knows_all(tmp_path):
    """Of GPT-2's kind, whose end-of-text token is called its unknown one too."""
    tiny.causal(tmp_path / "gpt2")
    bytes_all = AutoTokenizer.from_pretrained(tmp_path / "gpt2", unk_token="</s>", eos_token="</s>")
    _, counts = preparation.prepare(folder(tmp_path, test=[row("a", "你好 🙂", "迟到")]), bytes_all, 0)
    assert unknown(counts, "test") == {"tokens": 0, "characters": 0, "summary characters": 0}


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
    assert "of them truncated" in counts_table(counts)
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
