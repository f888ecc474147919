"""Classifiers of other kinds than RoBERTa: how much of a text they read, and which are refused before they are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from detox.scoring import classifier as scoring_classifier
from detox.scoring.classifier import classify, load_classifier
from detox.stage import notes
from detox.stage.errors import UserError
from tests import tiny

LABELS = {"id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1}}
LONG = "Tom and Ann have their dinner at seven. " * 20


def written(folder: Path, kind: str) -> Path:
    """Write a classifier whose tokenizer says nothing of a longest text."""
    tiny.classifier(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    size = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(0)
    if kind == "bart":
        shape = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None}
        width = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 40}
        model = BartForSequenceClassification(BartConfig(vocab_size=size, **shape, **ids, **width, **LABELS))
    elif kind == "deberta":  # as version 3: no table of positions
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        relative = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
        sizes = {"max_position_embeddings": 40, "type_vocab_size": 0, "pad_token_id": 1, "position_biased_input": False}
        settings = DebertaV2Config(vocab_size=size, **shape, **relative, **sizes, **LABELS)
        model = DebertaV2ForSequenceClassification(settings)
    else:
        ids = {"bos_token_id": 0, "eos_token_id": 2}
        model = GPT2ForSequenceClassification(
            GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=40, **ids, **LABELS)
        )
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bart", "deberta"])
def test_a_text_longer_than_the_limit_is_cut_and_that_is_told(tmp_path, kind, capsys):
    notes.forget()
    classifier = load_classifier(str(written(tmp_path / kind, kind)))
    assert classifier.max_length == 40
    assert "note:" not in capsys.readouterr().err
    logits = classify(classifier, [LONG, "Yes.", LONG + "more"], 3)
    assert logits.isfinite().all() and torch.allclose(logits[0], logits[2])
    assert "reads 40 tokens of a text; some are longer" in capsys.readouterr().err


def test_one_that_cannot_read_texts_together_is_refused(tmp_path):
    folder = written(tmp_path / "gpt2", "gpt2")
    with pytest.raises(UserError, match="gpt2: fails on two short texts .*padding token.*; name another classifier"):
        load_classifier(str(folder))


def test_one_that_reads_its_last_token_is_padded_on_the_left(tmp_path):
    size = tiny._roberta_tokenizer(tmp_path, 128)
    shape = dict(d_model=16, n_layer=1, n_head=2, d_inner=16, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    settings = XLNetConfig(vocab_size=size, id2label={0: "nothate", 1: "hate"}, **shape)
    torch.manual_seed(0)
    model = XLNetForSequenceClassification(settings)
    torch.nn.init.normal_(model.logits_proj.weight)
    model.save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    texts = ["Yes.", "Tom and Ann have their dinner at seven and buy a pizza."]
    alone = torch.cat([classify(classifier, [text], 1) for text in texts])
    torch.testing.assert_close(classify(classifier, texts, 2), alone, rtol=1e-4, atol=1e-5)


def test_one_whose_scores_depend_on_the_company_is_refused(tmp_path, monkeypatch):
    folder = tiny.classifier(tmp_path / "c")
    monkeypatch.setattr(scoring_classifier, "_is_same_alone", lambda classifier, side: False)
    with pytest.raises(UserError, match="otherwise beside a longer one"):
        load_classifier(str(folder))


def test_a_limit_without_room_for_a_text_is_refused(tmp_path):
    folder = tiny.classifier(tmp_path / "short", max_length=2)
    with pytest.raises(UserError, match="short: takes 2 tokens, and 2 of these are special ones"):
        load_classifier(str(folder))


def test_weights_of_another_shape_than_the_settings_say(tmp_path):
    folder = tiny.classifier(tmp_path / "c")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"id2label": {"0": "hate"}, "label2id": {"hate": 0}}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"out_proj.bias has shape \[2\] in its weights and \[1\] by its config.json"):
        load_classifier(str(folder))
