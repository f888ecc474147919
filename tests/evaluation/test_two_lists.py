"""Two lists of summaries compared in one call: the figures of the evaluation, from texts alone."""

from __future__ import annotations

import numpy as np
import pytest

from detox.evaluation import two_models
from detox.evaluation.two_lists import compare_summaries
from detox.scoring import rouge
from detox.scoring.classifier import load_classifier, probabilities
from detox.stage.errors import UserError
from tests import tiny

BEFORE = [["a b c", "d e f"], ["a a a", "b c d"], ["f f e", "a c e"]]
AFTER = [["a b", "d e"], ["c c", "b c d"], ["f e e", "c e a"]]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load_classifier(str(tiny.classifier(tmp_path_factory.mktemp("models") / "classifier")))


def test_figures_are_those_of_the_comparison(classifier):
    found = compare_summaries(BEFORE, AFTER, classifier, batch_size=2, resamples=200)
    marks = [
        np.array([probabilities(classifier, row, 8)[:, classifier.label_id].numpy() for row in side])
        for side in (BEFORE, AFTER)
    ]
    wanted = two_models.compare(*marks, resamples=200)
    assert found.keys() == wanted.keys() and found["verdict"] == wanted["verdict"]
    for side in ("before", "after"):
        assert found["mean"][side] == pytest.approx(wanted["mean"][side], abs=1e-6)


def test_rouge_where_there_are_target_summaries(classifier):
    targets = [["a b c"], ["b c d", "a a"], ["f e"]]
    found = compare_summaries(BEFORE, AFTER, classifier, targets=targets, resamples=200)["rougeL"]
    for side, rows in (("before", BEFORE), ("after", AFTER)):
        each = [rouge.rouge([text], [group])["rougeL"][0] for row, group in zip(rows, targets) for text in row]
        assert found[side] == pytest.approx(np.mean(each))
    assert found["change"] == pytest.approx(found["after"] - found["before"])


def test_one_summary_a_dialogue_may_be_a_plain_list(classifier):
    plain = compare_summaries(["a b", "c d"], ["a", "d"], classifier, resamples=200)
    assert plain["n"] == 2 and plain["samples_per_dialogue"] == 1


@pytest.mark.parametrize("before, after", [([], []), (["a"], ["a", "b"]), ([["a", "b"]], [["a"]]), ([[]], [[]])])
def test_lists_that_do_not_pair_are_refused(classifier, before, after):
    with pytest.raises(ValueError, match="same dialogues, as many for each"):
        compare_summaries(before, after, classifier)


def test_a_regression_is_refused(tmp_path):
    classifier = load_classifier(str(tiny.classifier(tmp_path / "c")))
    classifier.model.config.problem_type = "regression"
    with pytest.raises(UserError, match="is a regression"):
        compare_summaries(["a"], ["b"], classifier)


@pytest.mark.parametrize("side", [{"a", "b"}, {"a": 1, "b": 2}, ["a", None], [["a"], [1]], iter(["a", "b"]), "ab"])
def test_what_has_no_order_or_holds_no_texts_is_refused(classifier, side):
    with pytest.raises(ValueError, match="give a list, with a summary, or a list of samples"):
        compare_summaries(side, ["a", "b"], classifier)


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"batch_size": 0}, {"threshold": 2}, {"threshold": float("nan")}])
def test_numbers_out_of_their_range_are_refused(classifier, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        compare_summaries(["a"], ["b"], classifier, **wrong)
