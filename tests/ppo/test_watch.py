"""The watched summary: the lowest score, told beside the policy's by the same random numbers, within 80 columns."""

from __future__ import annotations

import math

import torch

import config
from detox.ppo import watch
from detox.ppo.metrics_log import summary
from detox.ppo.prompt_stream import Prompt
from tests.ppo.trainers import trainer_for


def test_the_lowest_score_of_all_is_kept():
    prompts = [Prompt(key, key, torch.tensor([key, 1])) for key in range(4)]
    first = watch.lowest(None, prompts[:2], ["a", "b"], torch.tensor([1.0, 0.5]))
    assert first == {"score": 0.5, "summary": "b", "key": 1, "query_ids": [1, 1]}
    assert watch.lowest(first, prompts[2:], ["c", "d"], torch.tensor([0.5, 2.0])) is first
    assert watch.lowest(first, prompts[2:], ["c", "d"], torch.tensor([-1.0, 2.0]))["summary"] == "c"
    assert watch.lowest(first, prompts[2:], ["c", "d"], torch.tensor([-1.0, math.nan])) is first, "skipped"


def test_the_policy_that_has_not_moved_says_the_same_again_and_draws_nothing(folder):
    trainer = trainer_for(folder)
    settings = config.PPOTraining(rollout=config.Rollout(max_new_tokens=30))
    query = torch.tensor([5, 6, 7, 1])
    rollout = trainer.rollout([query] * 2, [8, 9], 30)
    summaries = trainer.tokenizer.batch_decode(rollout.response_ids, skip_special_tokens=True)
    watched = watch.lowest(None, [Prompt(8, 0, query), Prompt(9, 0, query)], summaries, torch.tensor([1.0, 0.0]))
    state = torch.get_rng_state()
    lines = watch.told(trainer, watched, settings).splitlines()
    assert torch.equal(torch.get_rng_state(), state)
    half = len(lines) // 2
    assert [line[10:] for line in lines[:half]] == [line[10:] for line in lines[half:]]
    assert lines[0].startswith("at first  ") and lines[half].startswith("now       ")
    assert all(len(line) <= 80 for line in lines)


def test_the_line_of_an_update_fits_80_columns():
    entry = {
        "update": 100,
        "objective/score_mean": -12.345,
        "objective/ref_kl": 123.4,
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
        "1234.5 s warning: all summaries are the same"
    )
