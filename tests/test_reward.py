"""The reward: the logit of the label that is named, however summaries are batched."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from detox import models
from detox.reward import RewardModel

TEXTS = [
    "you idiot",
    "the people are good",
    "",
    "a rude clown and a fool " * 40,
    "Person1 said: émigré 漢字 🙂",
    "no",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.classifier(tmp_path_factory.mktemp("models") / "hate", positions=66)


def one_by_one(folder: Path) -> torch.Tensor:
    """Logits of all labels by transformers alone, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt", truncation=True)).logits[0] for text in TEXTS]
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_logit_of_the_named_label_in_any_batch(folder, batch_size):
    expected = one_by_one(folder)
    for index, label in enumerate(("nothate", "hate")):
        reward = RewardModel(models.load_classifier(str(folder), None, label), "logit", batch_size, "cpu")
        scores = reward.score(TEXTS)
        assert scores.dtype == torch.float32 and scores.device.type == "cpu" and scores.shape == (len(TEXTS),)
        torch.testing.assert_close(scores, expected[:, index], atol=1e-5, rtol=0)


def test_label_order_does_not_matter(tmp_path, folder):
    """The same weights with the labels renamed the other way round give the other score."""
    other = tiny.classifier(tmp_path / "swapped", ("hate", "nothate"), positions=66)
    score = RewardModel(models.load_classifier(str(other), None, "nothate")).score(TEXTS)
    torch.testing.assert_close(score, one_by_one(folder)[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_signals(tmp_path, problem_type):
    folder = tiny.classifier(tmp_path / "c", ("nothate", "hate", "other"), problem_type=problem_type, positions=66)
    classifier = models.load_classifier(str(folder), None, "nothate")
    logits = one_by_one(folder)
    expected = logits.sigmoid()[:, 0] if problem_type else logits.softmax(-1)[:, 0]
    probability = RewardModel(classifier, "probability").score(TEXTS)
    torch.testing.assert_close(probability, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(RewardModel(classifier, "logprob").score(TEXTS), expected.log(), atol=1e-5, rtol=0)


def test_logprob_and_logit_live_where_probability_saturates(folder):
    classifier = models.load_classifier(str(folder), None, "nothate")
    with torch.no_grad():
        classifier.model.classifier.out_proj.weight.mul_(-1000)
    assert (RewardModel(classifier, "probability").score(TEXTS) == 0).any()
    assert RewardModel(classifier, "logprob").score(TEXTS).isfinite().all()


def test_no_gradient_no_dropout_no_texts(folder):
    classifier = models.load_classifier(str(folder), None, "nothate")
    reward = RewardModel(classifier)
    classifier.model.train()
    scores = reward.score(TEXTS)
    assert torch.equal(scores, reward.score(TEXTS)), "dropout is off even after train()"
    assert not scores.requires_grad and not scores.is_inference()
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())
    assert reward.score([]).shape == (0,)


def test_broken_logits_are_handed_on(folder):
    classifier = models.load_classifier(str(folder), None, "nothate")
    with torch.no_grad():
        classifier.model.classifier.out_proj.bias[0] = float("nan")
    assert RewardModel(classifier).score(["no"]).isnan().all()
