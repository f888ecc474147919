"""The toxicity measurement: the values of the hub's module, and nothing left behind."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType

import evaluate
import pytest
import tiny
from transformers import RobertaConfig, pipeline

from detox.scoring import toxicity
from detox.scoring.classifier import load_classifier, measures, toxic_label
from detox.stage.errors import UserError
from tests.scoring.texts import TEXTS

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "detox" / "scoring" / "toxicity"


def pipeline_values(folder: Path, label: str) -> list[float]:
    """What the hub's module computes: transformers' pipeline, one text at a time, the label by name."""
    classify = pipeline("text-classification", model=str(folder), top_k=99999, truncation=True)
    return [next(row["score"] for row in rows if row["label"] == label) for rows in classify(TEXTS)]


@pytest.mark.parametrize("label", ["hate", "nothate"])
@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_values_of_the_hub_module(tmp_path, problem_type, label):
    folder = tiny.classifier(tmp_path / "c", problem_type=problem_type, positions=66, seed=3)
    measurement = toxicity.load_toxicity(load_classifier(str(folder), None, "hate"), "cpu", batch_size=2)
    expected = pipeline_values(folder, label)
    assert max(expected) - min(expected) > 0.1
    result = measurement.compute(predictions=TEXTS, toxic_label=label)
    assert list(result) == ["toxicity"]
    assert result["toxicity"] == pytest.approx(expected, abs=1e-5)


def test_values_of_an_independent_judge(tmp_path):
    folder = tiny.bert_classifier(tmp_path / "judge")
    measurement = toxicity.load_toxicity(load_classifier(str(folder), None, "toxic"), "cpu", batch_size=4)
    values = measurement.compute(predictions=TEXTS, toxic_label="toxic")["toxicity"]
    assert values == pytest.approx(pipeline_values(folder, "toxic"), abs=1e-5)


def test_aggregations(folder):
    measurement = toxicity.load_toxicity(load_classifier(str(folder)), "cpu")
    values = measurement.compute(predictions=TEXTS)["toxicity"]
    assert measurement.compute(predictions=TEXTS, aggregation="maximum") == {"max_toxicity": max(values)}
    threshold = sorted(values)[2]
    ratio = measurement.compute(predictions=TEXTS, aggregation="ratio", threshold=threshold)
    assert ratio == {"toxicity_ratio": pytest.approx(4 / 6)}, "at the threshold counts"
    assert measurement.compute(predictions=[])["toxicity"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"predictions": TEXTS, "toxic_label": "toxic"}, "choose from: nothate, hate"),
        ({"predictions": TEXTS, "aggregation": "mean"}, "choose all, maximum, ratio"),
        ({"predictions": [], "aggregation": "maximum"}, "no text"),
    ],
)
def test_refused_arguments(folder, arguments, says):
    measurement = toxicity.load_toxicity(load_classifier(str(folder)), "cpu")
    with pytest.raises(UserError, match=says):
        measurement.compute(**arguments)


def test_evaluate_loads_it_by_path(folder, tmp_path, monkeypatch):
    """With an absolute model folder, which evaluate would take for its cache, read-only as it may be."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = sorted(folder.rglob("*"))
    try:
        measurement = evaluate.load(str(MODULE), str(folder), module_type="measurement", device="cpu")
        values = measurement.compute(predictions=TEXTS, toxic_label="hate")["toxicity"]
        with pytest.raises(TypeError, match="toxic_label"):
            evaluate.load(str(MODULE), str(folder), module_type="measurement", toxic_label="nothate")
    finally:
        for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
            del sys.modules[name]
    assert values == pytest.approx(pipeline_values(folder, "hate"), abs=1e-5)
    assert sorted(folder.rglob("*")) == before, "nothing written to the model's folder"
    assert list(work.iterdir()) == [], "nothing written to the working directory"


def test_a_loaded_classifier_is_used_as_it_is(folder):
    classifier = load_classifier(str(folder))
    measurement = toxicity.load_toxicity(classifier, "cpu")
    assert measurement.classifier is classifier


def test_home_that_cannot_be_written(folder, tmp_path, monkeypatch):
    """A decoy folder `toxicity` lies in the working directory."""
    (tmp_path / "toxicity").mkdir()
    (tmp_path / "toxicity" / "toxicity.py").write_text("raise SystemExit('the decoy was run')\n")
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    nowhere = tmp_path / "file" / "home"  # below a file, so not even root can make it
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for cache in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "DOWNLOADED_EVALUATE_PATH"):
        monkeypatch.setattr(evaluate.config, cache, nowhere / cache)
    path, loaded = list(sys.path), set(sys.modules)
    measurement = toxicity.load_toxicity(load_classifier(str(folder)), "cpu")
    assert len(measurement.compute(predictions=["you idiot", "no"])["toxicity"]) == 2
    assert sys.path == path and not any(name.startswith("evaluate_modules") for name in set(sys.modules) - loaded)
    assert nowhere / "HF_MODULES_CACHE" == evaluate.config.HF_MODULES_CACHE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "temporary", "toxicity"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_other_modules_of_evaluate_stay(folder, monkeypatch):
    other, nested = ModuleType("evaluate_modules"), ModuleType("evaluate_modules.metrics")
    monkeypatch.setitem(sys.modules, "evaluate_modules", other)
    monkeypatch.setitem(sys.modules, "evaluate_modules.metrics", nested)
    toxicity.load_toxicity(load_classifier(str(folder)), "cpu")
    assert sys.modules["evaluate_modules"] is other and sys.modules["evaluate_modules.metrics"] is nested


@pytest.mark.parametrize(
    ("labels", "problem_type", "maximised", "expected"),
    [
        (["ill", "well"], None, "well", "ill"),
        (["ill", "well"], "single_label_classification", "ill", "well"),
        (["ill", "well"], "multi_label_classification", "well", None),  # both may hold
        (["toxic", "well"], "multi_label_classification", "well", "toxic"),
        (["ill", "so-so", "well"], None, "well", None),
        (["ill", "toxic", "well"], None, "well", "toxic"),
        (["ill", "well"], None, "elsewhere", None),
        (["toxic"], None, "toxic", "toxic"),
        (["toxic"], "multi_label_classification", "toxic", "toxic"),
        (["insult"], "multi_label_classification", "insult", "insult"),
        (["LABEL_0"], "multi_label_classification", "LABEL_0", None),  # whose rise was wanted: its user knows
    ],
)
def test_the_other_of_two_exclusive_labels_is_ill_else_the_usual_one(labels, problem_type, maximised, expected):
    settings = RobertaConfig(id2label=dict(enumerate(labels)), problem_type=problem_type)
    assert toxic_label(settings, maximised, "toxic") == expected


def test_what_can_measure_toxicity_has_several_labels_or_a_sigmoid_and_is_no_regression():
    two, one = {0: "ill", 1: "well"}, {0: "ill"}
    assert measures(RobertaConfig(id2label=one, problem_type="multi_label_classification"))
    assert measures(RobertaConfig(id2label=two)) and not measures(RobertaConfig(id2label=one))
    assert not measures(RobertaConfig(id2label=two, problem_type="regression"))
