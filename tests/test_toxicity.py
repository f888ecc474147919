"""The toxicity measurement: the values of the hub's module, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import tiny
from transformers import pipeline

from detox import models, toxicity
from detox.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "detox" / "toxicity"
TEXTS = ["you idiot", "the people are good", "", "a rude clown and a fool " * 40, "Person1 said: émigré 漢字 🙂", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.classifier(tmp_path_factory.mktemp("models") / "hate", positions=66)


def pipeline_values(folder: Path, label: str) -> list[float]:
    """What the hub's module computes: transformers' pipeline, one text at a time, the label by name."""
    classify = pipeline("text-classification", model=str(folder), top_k=99999, truncation=True)
    return [next(row["score"] for row in rows if row["label"] == label) for rows in classify(TEXTS)]


@pytest.mark.parametrize("label", ["hate", "nothate"])
@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_values_of_the_hub_module(tmp_path, problem_type, label):
    folder = tiny.classifier(tmp_path / "c", problem_type=problem_type, positions=66, seed=3)
    measurement = toxicity.load_toxicity(models.load_classifier(str(folder), None, "hate"), "cpu", batch_size=2)
    expected = pipeline_values(folder, label)
    assert max(expected) - min(expected) > 0.2
    result = measurement.compute(predictions=TEXTS, toxic_label=label)
    assert list(result) == ["toxicity"]
    assert result["toxicity"] == pytest.approx(expected, abs=1e-5)


def test_aggregations(folder):
    measurement = toxicity.load_toxicity(models.load_classifier(str(folder)), "cpu")
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
    measurement = toxicity.load_toxicity(models.load_classifier(str(folder)), "cpu")
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
    classifier = models.load_classifier(str(folder))
    shutil.copytree(folder, folder.parent / "kept", dirs_exist_ok=True)
    measurement = toxicity.load_toxicity(classifier, "cpu")
    assert measurement.classifier is classifier


def test_no_home_and_two_at_once(folder, tmp_path):
    """Two processes, a home in which nothing can be written, a decoy folder `toxicity` where they run."""
    (tmp_path / "toxicity").mkdir()
    (tmp_path / "toxicity" / "toxicity.py").write_text("raise SystemExit('the decoy was run')\n")
    (tmp_path / "file").touch()
    code = (
        "from detox import models, toxicity\n"
        f"measurement = toxicity.load_toxicity(models.load_classifier({str(folder)!r}), 'cpu')\n"
        "print(measurement.compute(predictions=['you idiot', 'no'])['toxicity'])"
    )
    nowhere = str(tmp_path / "file" / "home")  # below a file, so not even root can make it
    environment = os.environ | {"HF_HOME": nowhere, "HOME": nowhere, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    run = [sys.executable, "-W", "error::ResourceWarning", "-c", code]
    both = [
        subprocess.Popen(run, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "toxicity"], "temporary folders are gone"
