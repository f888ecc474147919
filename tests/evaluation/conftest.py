"""What several tests of the evaluation are given."""

from __future__ import annotations

import dataclasses

import pytest

import config
from detox.model import loading, tokenizers
from tests import tiny


@pytest.fixture(scope="module")
def settings():
    stage = config.preset(config.EvaluationStage, "demo")
    return dataclasses.replace(
        stage, evaluation=dataclasses.replace(stage.evaluation, resamples=400, samples=2, best_of=4)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.t5(tmp_path_factory.mktemp("models") / "t5")
    return loading.load_summarizer(str(folder)), tokenizers.load_tokenizer(str(folder))
