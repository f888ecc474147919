"""The independent judge: agrees, disagrees, or cannot tell."""

from __future__ import annotations

import numpy as np
import pytest

from detox.evaluation import alarms
from detox.evaluation.judge import disagreement
from tests.evaluation.test_alarms import SOUND
from tests.evaluation.test_two_models import simulate


def disagree(reward_effect, judge_effect, n=200, seed=0):
    rng = np.random.default_rng(seed)
    reward, judge = simulate(rng, n, effect=reward_effect), simulate(rng, n, effect=judge_effect)
    return disagreement(*reward, *judge, resamples=1000)


def test_a_judge_that_disagrees_raises_the_alarm():
    found = disagree(0.9, 0.0)
    assert found["level"] == "alarm" and found["gap_ci95"][1] < 0
    alarm = alarms.alarms({**SOUND, "disagreement": found})[0]
    assert (alarm.name, alarm.level, alarm.sentence) == ("disagreement", "alarm", found["sentence"])
    assert disagree(0.9, -0.4)["level"] == "alarm"


def test_the_gap_is_between_the_judges_reduction_and_half_of_ours():
    rng = np.random.default_rng(4)
    reward, judge = simulate(rng, 300, effect=0.8), simulate(rng, 300, effect=0.6)
    found = disagreement(*reward, *judge, resamples=100)

    def gap(rows):
        ours, its = (1 - after[rows].mean() / before[rows].mean() for before, after in (reward, judge))
        return its - 0.5 * ours

    everything = np.arange(300)
    assert found["gap"] == pytest.approx(gap(everything))
    again = np.quantile([gap(rng.integers(0, 300, 300)) for _ in range(2000)], [0.025, 0.975])
    assert found["gap_ci95"] == pytest.approx(again, abs=0.2 * (again[1] - again[0]))
    runs = [np.stack([after, after], axis=1) for _, after in (reward, judge)]
    same = disagreement(reward[0], runs[0], judge[0], runs[1], resamples=100)
    assert same["gap_ci95"] == pytest.approx(found["gap_ci95"])
    full = disagreement(*reward, *judge, share=0.9, resamples=100)
    assert full["gap"] == pytest.approx(found["judge_reduction"] - 0.9 * found["reward_reduction"])
    assert full["gap_ci95"][0] < full["gap"] < full["gap_ci95"][1]


def test_a_reward_that_leaves_nothing_does_not_hide_what_the_judge_sees():
    rng = np.random.default_rng(0)
    reward, judge = simulate(rng, 40), simulate(rng, 40)
    found = disagreement(reward[0], reward[0] * 0.001, *judge, resamples=500)
    assert found["gap_ci95"] is not None and found["level"] in ("warning", "alarm")


def test_a_judge_that_agrees_raises_none():
    assert disagree(0.9, 0.8)["level"] == "none"
    assert disagree(0.0, 0.0)["level"] == "none"
    assert alarms.alarms({**SOUND, "disagreement": disagree(0.9, 0.8)}) == []


def test_there_is_no_gap_where_one_of_them_has_no_reduction():
    """Where nothing was toxic before, and something is after, no share of it has gone."""
    fell = simulate(np.random.default_rng(0), 30, effect=0.8)
    rose = np.zeros((30, 4)), np.full((30, 4), 0.2)
    for reward, judge, name in ((fell, rose, "judge"), (rose, fell, "reward")):
        found = disagreement(*reward, *judge, resamples=200)
        assert (found["gap"], found["gap_ci95"], found[f"{name}_reduction"]) == (None, None, None)


def test_a_judge_that_cannot_tell_or_agrees_in_part_raises_a_warning():
    rng = np.random.default_rng(0)
    reward = simulate(rng, 30, effect=1.0, toxic=0.9)
    judge = np.zeros((30, 4)), np.zeros((30, 4))
    judge[0][0, 0] = 0.5
    unsure = disagreement(*reward, *judge, resamples=500)
    assert unsure["level"] == "warning" and "too few" in unsure["sentence"]
    partly = disagree(1.0, 0.25, n=800)
    assert partly["level"] == "warning" and "clearly less" in partly["sentence"]
