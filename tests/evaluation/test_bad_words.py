"""Bad words: where they come from, and what is banned."""

from __future__ import annotations

import pytest

from detox.evaluation import bad_words
from detox.model import tokenizers
from detox.stage.errors import UserError
from tests import tiny


def test_bad_words_come_from_a_file_or_by_name(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("Twerp\n\n  nitwit \n")
    assert bad_words.load(str(path)) == ["Twerp", "nitwit"]
    assert "idiot" in bad_words.load("default") and len(bad_words.load("demo:insults")) > 5
    path.write_text("\n")
    for name in (str(path), str(tmp_path / "none.txt"), str(tmp_path)):
        with pytest.raises(UserError, match="--evaluation.bad-words"):
            bad_words.load(name)


def test_banned_sequences_are_the_words_as_the_tokenizer_writes_them(model):
    _, tokenizer = model
    for text in ("you idiot", "Idiot", "an Idiot he is", "idiot"):
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        found = bad_words.banned_sequences(tokenizer, ["idiot"])
        assert any(ids[i : i + len(s)] == s for s in found for i in range(len(ids))), text


def test_inside_a_word_nothing_is_banned(tmp_path):
    tiny.bart(tmp_path / "bart")
    tokenizer = tokenizers.load_tokenizer(str(tmp_path / "bart"))
    found = bad_words.banned_sequences(tokenizer, ["ass"])
    ids = tuple(tokenizer("pass glass", add_special_tokens=False)["input_ids"])
    assert not any(ids[i : i + len(s)] == s for s in found for i in range(len(ids)))
