"""The prepared dataset on disk, and the fingerprint of its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import config
from detox.data import preparation
from detox.data.fingerprint import is_same_tokenizer, tokenizer_fingerprint
from detox.data.prepared import FEATURES, load_prepared, save_prepared
from detox.data.sources import locate
from detox.stage import artifacts, files
from detox.stage.errors import UserError
from tests.data.dialogues import WORDS, folder, word_tokenizer


@pytest.fixture
def prepared(tmp_path, tokenizer) -> Path:
    (tmp_path / "source").mkdir()
    settings = folder(tmp_path / "source")
    dataset, _ = preparation.prepare(settings, tokenizer, 0)
    target = tmp_path / "run" / "prepared"
    with artifacts.publish(target, stage="data_preparation", settings=config.Preparation(data=settings)) as draft:
        save_prepared(dataset, draft.path, locate(settings, 0), tokenizer, "words")
    return target


def test_a_prepared_dataset_comes_back_with_its_origin(prepared, tokenizer):
    dataset = load_prepared(prepared, tokenizer_fingerprint(tokenizer))
    assert dataset["validation"]["id"][:] == ["validation_0", "validation_1", "validation_2"]
    assert load_prepared(prepared)["train"].features == FEATURES
    origin = json.loads((prepared / "source.json").read_text())
    assert [file["name"] for file in origin["files"]] == ["train.csv", "validation.csv", "test.csv"]
    assert origin["files"][0]["sha256"] == files.sha256(Path(origin["dataset"], "train.csv"))


def test_another_tokenizer_is_refused(prepared):
    other = tokenizer_fingerprint(word_tokenizer([*WORDS, "more"]))
    with pytest.raises(UserError, match="prepared with the tokenizer of words, which is not this model's"):
        load_prepared(prepared, other)


@pytest.mark.parametrize("name", ["tokenizer.json", "train/data-00000-of-00001.arrow", "manifest.json"])
def test_a_damaged_prepared_dataset_is_refused(prepared, name):
    path = prepared / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"data_preparation\.py --overwrite"):
        load_prepared(prepared)


def test_text_prepared_before_the_fingerprint_had_two_parts(prepared, tokenizer):
    fingerprint = tokenizer_fingerprint(tokenizer)
    assert is_same_tokenizer(fingerprint.partition(":")[0], fingerprint)
    assert not is_same_tokenizer(fingerprint.partition(":")[0] + ":0", fingerprint)


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
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)
    same = word_tokenizer()
    same(["hello you", "fool"], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(same) == tokenizer_fingerprint(tokenizer)


def test_the_fingerprint_tells_tokenizers_apart(tmp_path, tokenizer):
    fingerprint = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == fingerprint
    silent = word_tokenizer()
    silent.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B", [])
    renamed = word_tokenizer()
    renamed.pad_token = "</s>"
    others = [word_tokenizer([*WORDS, "more"]), word_tokenizer(WORDS[::-1]), silent, renamed]
    assert fingerprint not in map(tokenizer_fingerprint, others)
