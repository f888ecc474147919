"""What the value head learns, when, and what it leaves alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from detox.ppo import update as ppo_update
from tests.ppo.trainers import queries, rewarded, trainer_for, weights


def test_the_value_head_reads_but_does_not_move_the_policy(folder):
    for detached in (True, False):
        trainer = trainer_for(folder, value_reads_detached=detached, vf_coef=10.0)
        with torch.no_grad():
            trainer.policy.v_head.summary.weight.add_(0.1)
        rollout = trainer.rollout(queries(6), range(6), 8)
        with torch.no_grad():
            experience = trainer.experience(rollout, rewarded(rollout))
        experience.advantages.zero_()
        trainer.optimizer.zero_grad()
        ppo_update.microbatch(trainer, rollout, experience, list(range(6)), int(experience.mask.sum()), entropy=False)
        lora = [p.grad for p in trainer.optimizer.param_groups[0]["params"] if p.grad is not None]
        moved = max((float(grad.abs().max()) for grad in lora), default=0.0)
        assert (moved == 0.0) == detached
        assert float(trainer.policy.v_head.summary.weight.grad.abs().max()) > 0


def test_value_warm_up_explains_returns_and_leaves_the_policy(folder):
    trainer = trainer_for(folder)
    lora = [p.detach().clone() for p in trainer.optimizer.param_groups[0]["params"]]
    assert float(trainer.policy.v_head.summary.weight.detach().abs().sum()) == 0, "the value head starts at zero"
    rollouts = [trainer.rollout(queries(6, seed), range(6 * seed, 6 * seed + 6), 8) for seed in range(4)]
    explained = trainer.warm_up_values(rollouts, [rewarded(rollout) for rollout in rollouts])
    assert 0 <= explained <= 1
    hidden, scores = rollouts[0].hidden, rewarded(rollouts[0])
    errors = [
        (trainer.engine.value(hidden) - target).square().mean()
        for target in (scores.repeat_interleave(torch.tensor(rollouts[0].lengths)), 100.0)
    ]
    assert errors[0] < 1 < errors[1]
    assert all(torch.equal(a, b) for a, b in zip(lora, trainer.optimizer.param_groups[0]["params"]))


def test_value_warm_up_shapes_scores_as_the_updates_will(folder):
    """Scores of mean 8: normalized, the values start near the returns, whose mean is 0."""
    trainer = trainer_for(folder, score_normalize=True, score_scale=True)
    rollouts = [trainer.rollout(queries(6, seed), range(6 * seed, 6 * seed + 6), 8) for seed in range(4)]
    trainer.warm_up_values(rollouts, [rewarded(rollout) + 8 for rollout in rollouts])
    rollout = trainer.rollout(queries(6, 9), range(60, 66), 8)
    with torch.no_grad():
        experience = trainer.experience(rollout, rewarded(rollout) + 8)
    assert trainer.score_moments.count == 30
    gap = experience.old_values[experience.mask].mean() - experience.returns[experience.mask].mean()
    assert abs(float(gap)) < 1


def test_a_critic_is_judged_by_what_it_has_not_seen(folder):
    trainer = trainer_for(folder, value_trust=True, value_refit=4)
    fitted, judged = [], []
    plain_fit, plain_judge = trainer.critic.learn, trainer.critic.judge
    trainer.critic.learn = lambda lessons: (fitted.append("learn"), plain_fit(lessons))[1]
    trainer.critic.judge = lambda *a: (fitted.append("judge"), judged.append(a), plain_judge(*a))[2]
    for update in range(6):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 8)
        metrics = trainer.update(rollout, rewarded(rollout))
        assert 0 <= metrics["ppo/val/trust"] <= 1
    assert fitted == ["judge", "learn"] * 6
    for lesson, (_, returns, mask) in zip(trainer.critic.lessons, judged[2:], strict=True):
        assert torch.equal(lesson.returns, returns[mask]), "it is judged by the returns that it learns of then"
    assert len(trainer.critic.lessons) == 4
    trainer.critic.record.append(torch.tensor([0.5, 1.0]) * 1e9)
    rollout = trainer.rollout(queries(6, 7), range(42, 48), 8)
    assert trainer.update(rollout, rewarded(rollout))["ppo/val/trust"] == pytest.approx(0.5), "what this update used"


def test_without_a_critic_the_value_head_stays_as_it_is(folder):
    trainer = trainer_for(folder, advantages="batch")
    head = copy.deepcopy(trainer.policy.v_head.state_dict())
    rollout = trainer.rollout(queries(6), range(6), 8)
    before = weights(trainer)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert math.isnan(metrics["ppo/val/explained_variance"]) and not torch.equal(before, weights(trainer))
    assert all(torch.equal(value, head[name]) for name, value in trainer.policy.v_head.state_dict().items())
