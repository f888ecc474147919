"""Dialogues and a tokenizer small enough to be read, and files of them as people have."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import config
from detox.data.splits import SPLITS

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


def write_json_list(path: Path, content: list[dict]) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_parquet(path: Path, content: list[dict]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_json_lines, "json": write_json_list, "parquet": write_parquet}


def folder(tmp_path: Path, **splits: list[dict[str, str]]) -> config.Data:
    """Write a folder in the hub's layout; a split that is not given gets three rows of its own."""
    for split in SPLITS:
        write_csv(tmp_path / f"{split}.csv", splits.get(split, rows(split, 3)))
    return config.Data(dataset=str(tmp_path))


def replaced(settings: config.Data, **changes: object) -> config.Data:
    return config.Data(**(vars(settings) | changes))
