"""Optimizer steps: clipped, undone where they are no numbers, of the size that is wanted."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from detox.ppo import update as ppo_update
from tests.ppo.trainers import queries, rewarded, trainer_for, weights


def test_every_gradient_is_clipped_where_stock_trl_clips_the_first(folder):
    limit, rate, steps = 1e-3, 1.0, 4
    trainer = trainer_for(folder, max_grad_norm=limit)
    trainer.optimizer = torch.optim.SGD(trainer.parameters, lr=rate)
    trainer.base_rates = [rate]
    before = weights(trainer)
    rollout = trainer.rollout(queries(6), range(6), 8)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert metrics["ppo/grad_norm"] > 10 * limit, "there was something to clip"
    moved = float((weights(trainer) - before).norm())
    assert 0 < moved <= steps * rate * limit * 1.01


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_skip_the_update(folder, bad):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 8)
    before = weights(trainer)
    metrics = trainer.update(rollout, torch.tensor([1.0, bad, 0, 0, 0, 0]))
    assert "skipped" in metrics and trainer.skipped_in_a_row == 1
    assert torch.equal(before, weights(trainer))
    trainer.update(rollout, rewarded(rollout))
    assert trainer.skipped_in_a_row == 0


def test_a_gradient_that_is_not_finite_undoes_the_whole_update(folder, monkeypatch):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 8)
    trainer.update(rollout, rewarded(rollout))
    before, optimizer = weights(trainer), copy.deepcopy(trainer.optimizer.state_dict())
    calls = []
    whole = ppo_update.microbatch

    def poisoned(*arguments, **options):
        stats = whole(*arguments, **options)
        calls.append(1)
        if len(calls) == 3:
            trainer.parameters[0].grad.fill_(math.nan)
        return stats

    monkeypatch.setattr(ppo_update, "microbatch", poisoned)
    metrics = trainer.update(trainer.rollout(queries(6), range(6, 12), 8), rewarded(rollout))
    assert "skipped" in metrics
    assert torch.equal(before, weights(trainer))
    for index, entry in trainer.optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer["state"][index][name])), name


def test_early_stop_ends_the_passes(folder):
    steps = []
    for limit in (None, 1e-9):
        trainer = trainer_for(folder, ppo_epochs=4, early_stop_kl=limit)
        counted = trainer.optimizer.step
        calls = []
        trainer.optimizer.step = lambda *a, counted=counted, calls=calls, **o: (calls.append(1), counted(*a, **o))
        rollout = trainer.rollout(queries(6), range(6), 8)
        trainer.update(rollout, rewarded(rollout))
        steps.append(len(calls))
    assert steps == [8, 2], "one pass of two minibatches instead of four passes"


def test_learning_rates_decay_linearly(folder):
    trainer = trainer_for(folder, schedule="linear", value_learning_rate=0.1)
    seen = []
    for update in range(4):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 6)
        trainer.update(rollout, rewarded(rollout))
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
    np.testing.assert_allclose(seen, [[1e-2 * left, 0.1 * left] for left in (1, 0.75, 0.5, 0.25)])
    assert all(group["eps"] == 1e-5 for group in trainer.optimizer.param_groups)


def kl_moved(trainer, rollout, old):
    """Nats a token, exactly over the vocabulary, of the policy as it is from the one that sampled."""
    with torch.no_grad():
        new = trainer.engine.logprobs(rollout.encoded, rollout.response_ids).logprobs
        log_ratio = (new - old).double()
    mask = old != 0
    return float(((torch.expm1(log_ratio) - log_ratio) * mask).sum() / mask.sum())


@pytest.mark.parametrize("engine", ["hf", "packed"])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 1.0])
def test_a_step_finds_its_size_from_any_learning_rate(folder, engine, rate):
    """Never past twice the wanted KL, and near it from the second update on."""
    settings = dict(schedule="kl", step_kl=0.01, learning_rate=rate, updates=8, batch_size=24, minibatch_size=6)
    trainer = trainer_for(folder, engine, advantages="batch", ppo_epochs=4, **settings)
    found = []
    for update in range(8):
        rollout = trainer.rollout(queries(24, update), range(24 * update, 24 * update + 24), 8)
        old = rollout.logprobs.clone()
        metrics = trainer.update(rollout, rewarded(rollout))
        wanted = 0.01 * min(1, 2 * (1 - update / 8)) ** 2
        assert metrics["ppo/policy/step_kl_target"] == pytest.approx(wanted)
        found.append(kl_moved(trainer, rollout, old) / wanted)
    assert max(found) < 2, found
    assert min(found[1:]) > 0.3, found


def test_an_update_of_one_step_finds_its_size(folder):
    trainer = trainer_for(
        folder, advantages="batch", schedule="kl", step_kl=0.01, learning_rate=1.0, ppo_epochs=1, minibatch_size=6
    )
    for update in range(2):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 8)
        old = rollout.logprobs.clone()
        trainer.update(rollout, rewarded(rollout))
        assert kl_moved(trainer, rollout, old) < 0.02


def test_microbatches_add_up_and_the_first_ratio_is_the_worst_of_them(folder, monkeypatch):
    trainer = trainer_for(folder, microbatch_size=1)
    rollout = trainer.rollout(queries(6), range(6), 5)
    experience = trainer.experience(rollout, rewarded(rollout))
    seen = []

    def part(state, rollout, experience, indices, counted, entropy):
        seen.append(indices)
        return {
            "loss": torch.tensor(float(indices[0])),
            "ratio_max_deviation": torch.tensor([0.5, 3.0, 2.0][indices[0]]),
        }

    monkeypatch.setattr(ppo_update, "microbatch", part)
    totals = ppo_update.accumulate(trainer, rollout, experience, [0, 1, 2], False)
    assert sorted(seen) == [[0], [1], [2]]
    assert {name: float(value) for name, value in totals.items()} == {"loss": 3.0, "ratio_max_deviation": 3.0}
