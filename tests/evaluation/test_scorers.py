"""What marks summaries: once a text, the same for any number of processes, or an error."""

from __future__ import annotations

import math
import sys
import types

import pytest
import torch

import config
from detox.evaluation import scorers
from detox.scoring.classifier import classify, load_classifier
from detox.stage import notes
from detox.stage.errors import UserError
from tests import threads, tiny
from tests.evaluation.fabricated import (
    evaluate,
    fabricate,
)


def test_equal_texts_are_scored_once():
    asked = []

    def scorer(texts):
        asked.extend(texts)
        return [len(text) for text in texts]

    groups = [[[{"summary": "a b"}, {"summary": "a b"}], [{"summary": "c"}, {"summary": "a b"}]]]
    scorers.score(groups, {"toxicity": scorer}, [["a b"], ["a"]])
    assert asked == ["a b", "c"]
    assert [[r["toxicity"] for r in row] for row in groups[0]] == [[3, 3], [1, 3]]
    assert groups[0][0][0]["rouge1"] == 1 and groups[0][1][1]["rouge1"] == pytest.approx(2 / 3)


def test_a_text_has_one_mark_on_both_sides():
    asked = []

    def scorer(texts):
        asked.extend(texts)
        return [len(asked)] * len(texts)

    before, after = [[{"summary": "a b"}, {"summary": "c"}]], [[{"summary": "c"}, {"summary": "d"}]]
    scorers.score([before], {"toxicity": scorer}, [["a b"]])
    scorers.score([after], {"toxicity": scorer}, [["a b"]], known=[before])
    assert asked == ["a b", "c", "d"] and [record["toxicity"] for record in after[0]] == [2, 3]


def test_summaries_that_a_classifier_does_not_read_to_their_ends_are_a_warning(tmp_path):
    short = load_classifier(str(tiny.classifier(tmp_path / "short", max_length=8)))
    enough = load_classifier(str(tiny.classifier(tmp_path / "enough")))
    long, brief = {"summary": "Tom and Ann have their dinner at seven."}, {"summary": "Yes."}
    lines = [{"before": {"samples": [brief, long]}, "after": {"samples": [brief, brief]}}] * 3
    (found,) = scorers.unread([short, enough, short.with_label("nothate")], lines)
    assert (found.name, found.level) == ("unread", "warning")
    assert found.sentence.endswith("short reads 8 tokens of a text: the ends of 3 of 12 summaries count for nothing.")


def test_a_classifier_that_measures_and_rewards_reads_a_text_once(monkeypatch):
    settings = config.EvaluationStage(preset="demo")
    measured, reward = config.Toxicity(model="demo:reward"), config.Reward(model="demo:reward")
    judge = config.Judge(model="demo:judge", label=settings.judge.label)
    scorers.load_scorers.cache_clear()
    classifiers, marks = scorers.load_scorers(measured, judge, reward, torch.device("cpu"))
    read, forward = [], type(classifiers["reward"].model).forward

    def counted(self, *rest, **named):
        if self is classifiers["reward"].model:
            read.append(len(named["input_ids"]))
        return forward(self, *rest, **named)

    monkeypatch.setattr(type(classifiers["reward"].model), "forward", counted)
    records = [[[{"summary": f"You are number {i}."}] for i in range(70)]]
    scorers.score(records, marks, [["a"]] * 70)
    assert sum(read) == 70
    logits = classify(classifiers["reward"], [row[0]["summary"] for row in records[0]], 16)
    assert [row[0]["reward"] for row in records[0]] == pytest.approx(logits[:, classifiers["reward"].label_id].tolist())
    hate = logits.softmax(-1)[:, classifiers["toxicity"].label_id].tolist()
    assert [row[0]["toxicity"] for row in records[0]] == pytest.approx(hate)


def test_the_label_that_training_raised_is_no_toxicity_without_a_word(capsys):
    judge = config.Judge(model="demo:judge", label=config.EvaluationStage(preset="demo").judge.label)
    reward = config.Reward(model="demo:reward")
    for label, told in (("hate", False), ("nothate", True)):
        notes.forget()
        scorers.load_scorers(config.Toxicity(model="demo:reward", label=label), judge, reward, torch.device("cpu"))
        assert ("--toxicity.label=nothate is what training raised" in capsys.readouterr().err) is told


@pytest.mark.parametrize("count", [2, 3])
def test_processes_score_the_same_chunks_of_texts(monkeypatch, count):
    monkeypatch.setattr(scorers, "_CHUNK", 4)
    texts = [f"{'word ' * (i * 7 % 5)}{i}" for i in range(23)]

    def scores(texts):
        return [len(text) + max(map(len, texts)) for text in texts]  # padded to the longest, so to speak

    def run(**shared):
        groups = [[[{"summary": text}] for text in texts]]
        scorers.score(groups, {"toxicity": scores}, [["word 3"]] * 23, **shared)
        return groups

    alone = run()
    assert len({record["toxicity"] - len(record["summary"]) for [record] in alone[0]}) > 1
    assert threads.run(count, lambda processes: run(processes=processes)) == [alone] * count


def test_a_classifier_without_a_number_is_an_error():
    with pytest.raises(UserError, match="judge: .*NaN"):
        scorers.score([[[{"summary": "a"}]]], {"judge": lambda texts: [math.nan]}, [["a"]])


def test_bert_score_where_it_is_installed(settings, monkeypatch):
    def score(texts, references, model_type):
        assert model_type == "some/encoder"
        return (
            None,
            None,
            torch.tensor([max(float(text == r) for r in group) for text, group in zip(texts, references, strict=True)]),
        )

    monkeypatch.setitem(sys.modules, "bert_score", types.SimpleNamespace(score=score))
    groups = [[[{"summary": "a b"}], [{"summary": "c"}]]]
    scorers.score(groups, {}, [["a b", "d"], ["d"]], "some/encoder")
    assert [row[0]["bert_score"] for row in groups[0]] == [1, 0]
    lines = fabricate(settings, lambda old, i, draw: old, n=20)
    for line in lines:
        for side, value in (("before", 0.25), ("after", 0.75)):
            for record in line[side]["samples"]:
                record["bert_score"] = value
    assert evaluate(lines, settings)["bert_score"] == {
        "before": 0.25,
        "after": 0.75,
        "change": 0.5,
        "ci95": [0.5, 0.5],
    }
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(UserError, match="--evaluation.bert-score"):
        scorers.score(groups, {}, [["a"], ["b"]], "some/encoder")
