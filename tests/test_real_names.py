"""The default preset, with its own model and dataset names, against a stand-in for the hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import loopback_hub, tiny

ROOT = Path(__file__).parent.parent
SIZES = {
    "data_preparation.py": "",
    "training_ppo.py": "--ppo.updates 2 --ppo.batch-size 4 --ppo.minibatch-size 2 --rollout.max-new-tokens 8",
    "evaluate_ppo.py": "--evaluation.samples 2 --evaluation.max-new-tokens 8",
}


def run(script, place, environment, flags=""):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | environment
    command = [sys.executable, str(ROOT / script), *flags.split()]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder in which the three scripts ran, with no flag but sizes, and the hub they ran against."""
    place, root = tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("hub")
    with loopback_hub.start(tiny.hub(root)) as hub:
        for script, sizes in SIZES.items():
            done = run(script, place, hub.environment(root / "home"), sizes)
            assert done.returncode == 0, done.stderr
            assert done.stderr == "", "bars are for terminals"
    return place, hub


def test_three_scripts_and_no_flag_but_sizes(finished):
    place, hub = finished
    for repository in (tiny.FLAN_T5, tiny.REWARD, tiny.JUDGE):
        assert "model.safetensors" in hub.fetched(repository)
    assert hub.fetched(tiny.DIALOGSUM) >= {"train.csv", "validation.csv", "test.csv"}
    folder = place / "checkpoints" / "flan-t5"
    assert len((folder / "ppo" / "metrics.jsonl").read_text().splitlines()) == 2
    results = json.loads((folder / "evaluation" / "step-0002" / "results.json").read_text())
    assert results["n"] == 12 and results["samples_per_dialogue"] == 2
    assert {"toxicity", "independent_judge", "rouge", "drift", "noise_floor", "verdict"} <= results.keys()
    manifest = json.loads((folder / "ppo" / "step-0002" / "manifest.json").read_text())
    assert manifest["config"]["model"]["base"] == tiny.FLAN_T5


@pytest.mark.parametrize(("script", "made"), list(zip(SIZES, ("prepared", "ppo", "evaluation"))))
def test_without_a_hub_one_line_names_the_way_out(finished, tmp_path, script, made):
    shutil.copytree(finished[0], tmp_path / "place")
    shutil.rmtree(tmp_path / "place" / "checkpoints" / "flan-t5" / made)
    before = sorted((tmp_path / "place").rglob("*"))
    with loopback_hub.hanging_up() as hub:
        done = run(script, tmp_path / "place", hub.environment(tmp_path / "home"), SIZES[script])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    assert "--preset demo" in done.stderr and "local" in done.stderr
    assert "knkarthick/dialogsum" in done.stderr or "google/flan-t5-base" in done.stderr
    assert len(hub.requests) == 1, "no retries, which take the libraries a minute"
    assert sorted((tmp_path / "place").rglob("*")) == before
