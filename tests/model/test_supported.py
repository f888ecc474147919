"""Encoder-decoders of other kinds: they run as `transformers` runs them, or are refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import config
import data_preparation
import training_lora
import training_ppo
from detox.model import loading, supported
from detox.stage import cli
from detox.stage.errors import UserError
from tests import tiny

RUN = ["Pegasus", "LED", "BlenderbotSmall", "LongT5", "SwitchTransformers", "T5Gemma"]


@pytest.fixture(autouse=True)
def quiet():
    loading.quiet()


@pytest.mark.parametrize("kind", RUN)
def test_these_run(tmp_path, kind):
    supported.check(loading.load_summarizer(str(tiny.other(tmp_path / "m", kind))))


@pytest.mark.parametrize("layers", [(1, 2), (2, 1), (1, 3)])
def test_a_decoder_of_other_depth_than_the_encoder(tmp_path, layers):
    folder = tiny.other(tmp_path / "m", "Pegasus", encoder_layers=layers[0], decoder_layers=layers[1])
    supported.check(loading.load_summarizer(str(folder)))


@pytest.mark.parametrize("where", ["nowhere", "generation_config.json"])
def test_a_t5_saved_without_its_start_token(tmp_path, where):
    folder = tiny.t5(tmp_path / "t5")
    for file in ("config.json", *(("generation_config.json",) if where == "nowhere" else ())):
        content = json.loads((folder / file).read_text())
        content.pop("decoder_start_token_id")
        (folder / file).write_text(json.dumps(content))
    model = loading.load_summarizer(str(folder))
    assert model.config.decoder_start_token_id == 0
    supported.check(model)


def test_a_model_whose_start_nobody_names(tmp_path):
    folder = tiny.other(tmp_path / "m", "MBart", decoder_start_token_id=None)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="names no decoder_start_token_id, .* add it"):
        loading.load_summarizer(str(folder))
    content = json.loads((folder / "config.json").read_text()) | {"decoder_start_token_id": 7}
    (folder / "config.json").write_text(json.dumps(content))
    supported.check(loading.load_summarizer(str(folder)))


@pytest.mark.parametrize("kind", ["bert2bert", "ProphetNet"])
def test_these_are_refused_by_every_stage_before_anything_is_computed(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    tiny.other(Path("m"), kind)
    tiny.classifier(Path("reward"))
    tiny.dialogsum(Path("dialogues"), train=4, validation=2, test=2)
    base = ["--run", "r", "--model.base", "m"]
    limits = ["--data.max-query-tokens", "120", "--data.max-summary-tokens", "100"]
    assert cli.run(config.Preparation, data_preparation.main, [*base, "--data.dataset", "dialogues", *limits]) == 0
    capsys.readouterr()
    new = ["--rollout.max-new-tokens", "8", "--reward.model", "reward"]
    for kind, main, more in (
        (config.LoraTraining, training_lora.main, []),
        (config.PPOTraining, training_ppo.main, new),
    ):
        assert cli.run(kind, main, [*base, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "can't be run step by step here" in error and "BART" in error, error


@pytest.mark.parametrize("kind", ["T5Gemma", "SwitchTransformers"])
def test_training_from_end_to_end(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    tiny.other(Path("m"), kind)
    tiny.classifier(Path("reward"))
    tiny.dialogsum(Path("dialogues"), train=4, validation=2, test=2)
    base = ["--run", "r", "--model.base", "m"]
    limits = ["--data.max-query-tokens", "200"]
    assert cli.run(config.Preparation, data_preparation.main, [*base, "--data.dataset", "dialogues", *limits]) == 0
    ppo = "--rollout.max-new-tokens 6 --reward.model reward --ppo.updates 1 --ppo.batch-size 4 --ppo.minibatch-size 4"
    device = ["--device", "cpu"]
    lora = ["--lora.max-steps", "1", *device]
    assert cli.run(config.LoraTraining, training_lora.main, [*base, *lora]) == 0
    flags = [*base, *ppo.split(), *device, "--dtype", "float32", "--ppo.value-warmup", "0"]
    assert cli.run(config.PPOTraining, training_ppo.main, flags) == 0
    line = json.loads(Path("checkpoints/r/ppo/metrics.jsonl").read_text())
    assert line["objective/ref_kl"] == pytest.approx(0, abs=1e-5) and line["ppo/ratio_first"] == pytest.approx(
        1, abs=1e-4
    )


def test_what_the_engine_would_get_wrong_is_seen(tmp_path, monkeypatch):
    """A head that does more than multiply, such as one that caps its logits."""
    model = loading.load_summarizer(str(tiny.t5(tmp_path / "t5")))
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: 3 * torch.tanh(forward(hidden) / 3))
    with pytest.raises(UserError, match="its logits differ by"):
        supported.check(model)
