"""The watched dialogue: that of the lowest score, told by starting model and policy, within 80 columns."""

from __future__ import annotations

import math

import pytest
import torch

import config
from detox.ppo import watch
from detox.ppo.metrics_log import summary
from detox.ppo.prompt_stream import Prompt
from tests.ppo.trainers import trainer_for


def test_the_lowest_score_of_all_is_kept():
    prompts = [Prompt(key, key, torch.tensor([key, 1])) for key in range(4)]
    first = watch.lowest(None, prompts[:2], torch.tensor([1.0, 0.5]))
    assert first == {"score": 0.5, "query_ids": [1, 1]}
    assert watch.lowest(first, prompts[2:], torch.tensor([0.5, 2.0])) is first
    assert watch.lowest(first, prompts[2:], torch.tensor([-1.0, 2.0])) == {"score": -1.0, "query_ids": [2, 1]}
    assert watch.lowest(first, prompts[2:], torch.tensor([-1.0, math.nan])) is first, "skipped"


@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_what_is_told_is_the_likeliest_of_starting_model_and_policy_and_draws_nothing(folder, scope):
    trainer = trainer_for(folder, lora_scope=scope)
    settings = config.PPOTraining(rollout=config.Rollout(max_new_tokens=30))
    watched = {"score": 0.0, "query_ids": [5, 6, 7, 1]}
    state = torch.get_rng_state()
    lines = watch.told(trainer, watched, settings).splitlines()
    assert torch.equal(torch.get_rng_state(), state)
    half = len(lines) // 2
    assert [line[10:] for line in lines[:half]] == [line[10:] for line in lines[half:]], "nothing has moved yet"
    assert lines[0].startswith("at first  ") and lines[half].startswith("now       ")
    assert all(len(line) <= 80 for line in lines)
    with torch.no_grad():
        for name, parameter in trainer.engine.peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    moved = watch.told(trainer, watched, settings).splitlines()
    assert moved[:half] == lines[:half] and moved[half:] != lines[half:]


def test_the_line_of_an_update_fits_80_columns():
    entry = {
        "update": 100,
        "objective/score_mean": -12.345,
        "objective/ref_kl_k1": 123.4,
        "ppo/policy/approx_kl": 0.01234,
        "ppo/learning_rate": 1e-3,
        "ppo/policy/clip_fraction": 0.5,
        "ppo/val/explained_variance": 0.12,
        "ppo/val/trust": 0.5,
        "time/total": 1234.5,
        "collapse": "all summaries are the same",
    }
    lines = summary(entry, 100).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(" ".join(lines).split()) == (
        "update 100/100 score -12.35 KL 123.40 moved 0.0123 rate 1.0e-03 clip 50% critic explains 12%, trusted 50% "
        "1234.5 s warning: update 100: all summaries are the same"
    )
