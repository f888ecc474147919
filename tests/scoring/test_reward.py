"""The reward: the logit of the label that is named, however summaries are batched."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig, pipeline

import config
from detox.scoring.classifier import is_ill, load_classifier, toxic_label
from detox.scoring.reward import RewardModel
from detox.stage.errors import UserError
from tests.scoring.texts import TEXTS


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
        reward = RewardModel(load_classifier(str(folder), None, label), "logit", batch_size, "cpu")
        scores = reward.score(TEXTS)
        assert scores.dtype == torch.float32 and scores.device.type == "cpu" and scores.shape == (len(TEXTS),)
        torch.testing.assert_close(scores, expected[:, index], atol=1e-5, rtol=0)


def test_label_order_does_not_matter(tmp_path, folder):
    """The same weights with the labels renamed the other way round give the other score."""
    other = tiny.classifier(tmp_path / "swapped", ("hate", "nothate"), positions=66)
    score = RewardModel(load_classifier(str(other), None, "nothate")).score(TEXTS)
    torch.testing.assert_close(score, one_by_one(folder)[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_signals(tmp_path, problem_type):
    folder = tiny.classifier(tmp_path / "c", ("nothate", "hate", "other"), problem_type=problem_type, positions=66)
    classifier = load_classifier(str(folder), None, "nothate")
    logits = one_by_one(folder)
    expected = logits.sigmoid()[:, 0] if problem_type else logits.softmax(-1)[:, 0]
    probability = RewardModel(classifier, "probability").score(TEXTS)
    torch.testing.assert_close(probability, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(RewardModel(classifier, "logprob").score(TEXTS), expected.log(), atol=1e-5, rtol=0)


def test_logprob_and_logit_live_where_probability_saturates(folder):
    classifier = load_classifier(str(folder), None, "nothate")
    with torch.no_grad():
        classifier.model.classifier.out_proj.weight.mul_(-1000)
    assert (RewardModel(classifier, "probability").score(TEXTS) == 0).any()
    assert RewardModel(classifier, "logprob").score(TEXTS).isfinite().all()


def test_no_gradient_no_dropout_no_texts(folder):
    classifier = load_classifier(str(folder), None, "nothate")
    reward = RewardModel(classifier)
    classifier.model.train()
    scores = reward.score(TEXTS)
    assert torch.equal(scores, reward.score(TEXTS)), "dropout is off even after train()"
    assert not scores.requires_grad and not scores.is_inference()
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())
    assert reward.score([]).shape == (0,)


def test_broken_logits_are_handed_on(folder):
    classifier = load_classifier(str(folder), None, "nothate")
    with torch.no_grad():
        classifier.model.classifier.out_proj.bias[0] = float("nan")
    assert RewardModel(classifier).score(["no"]).isnan().all()


@pytest.mark.parametrize("names", [["LABEL_0"], ["reward"], ["helpful"], ["non-toxic"]])
@pytest.mark.parametrize("problem_type", [None, "regression", "multi_label_classification"])
def test_a_reward_model_of_one_logit(tmp_path, names, problem_type):
    """Made for RLHF: its label may be left out or named, and its raw logit is the reward."""
    folder = tiny.classifier(tmp_path / "one", names, problem_type=problem_type)
    left_out = load_classifier(str(folder), None, config.Reward.label)
    named = load_classifier(str(folder), None, names[0])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        wanted = model(**tokenizer(["a fool", "good day"], padding=True, return_tensors="pt")).logits[:, 0]
    for classifier in (left_out, named):
        assert classifier.label == names[0]
        assert torch.allclose(RewardModel(classifier).score(["a fool", "good day"]), wanted, atol=1e-5)
        if problem_type != "multi_label_classification":
            with pytest.raises(UserError, match="is a regression" if problem_type else "has one label, and its config"):
                RewardModel(classifier, "probability")
        else:
            found = RewardModel(classifier, "probability").score(["a fool", "good day"])
            assert torch.allclose(found, wanted.sigmoid(), atol=1e-6)
            pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
            assert pipe("a fool")[0]["score"] == pytest.approx(float(found[0]), abs=1e-5)


@pytest.mark.parametrize("name", ["toxic", "hate", "NEGATIVE", "is_offensive"])
def test_one_label_that_speaks_of_ill_must_be_named(tmp_path, name):
    folder = tiny.classifier(tmp_path / "one", [name])
    with pytest.raises(UserError, match=f"choose from: {name}"):
        load_classifier(str(folder), None, config.Reward.label)
    assert load_classifier(str(folder), None, name).label_id == 0


@pytest.mark.parametrize(
    ("labels", "maximised", "toxic"),
    [
        (("nothate", "hate"), "nothate", "hate"),
        (("nothate", "hate"), "hate", "hate"),
        (("neutral", "toxic"), "toxic", "toxic"),
        (("non-toxic", "toxic"), "toxic", "toxic"),
        (("curt", "polite"), "polite", "curt"),
        (("LABEL_0", "LABEL_1"), "LABEL_0", "LABEL_1"),
        (("joy", "anger", "fear"), "joy", None),
        (("fine", "insult", "rude"), "fine", "insult"),
        (("threat", "insult", "fine"), "fine", None),
    ],
)
def test_the_toxic_label_is_the_one_that_speaks_of_ill_whatever_was_maximised(labels, maximised, toxic):
    settings = RobertaConfig(id2label=dict(enumerate(labels)), num_labels=len(labels))
    assert toxic_label(settings, maximised, "hate") == toxic


def test_names_that_speak_of_ill():
    ill = ("hate", "toxic", "offensive", "severe_toxicity", "Insult", "NEGATIVE", "bad")
    good = ("nothate", "not-hate", "non-toxic", "no hate", "neutral", "normal", "polite", "LABEL_0", "nonoffensive")
    assert [name for name in (*ill, *good) if is_ill(name)] == list(ill)
