"""The noise floor: what chance shows, simulated."""

from __future__ import annotations

import numpy as np
import pytest

from detox.evaluation.noise import moved, noise_floor
from tests.evaluation.test_two_models import simulate


@pytest.mark.parametrize(("n", "k"), [(30, 1), (30, 4), (150, 4)])
def test_the_noise_floor_holds_what_chance_shows(n, k):
    """Of dialogues that it was measured on, under ever new seeds; 8 in 30 are likely toxic."""
    rng = np.random.default_rng(0)
    share = np.where(np.arange(n) % 4 == 0, 0.66, 0.02)[:, None]

    def samples():
        toxic = rng.random((n, k)) < share
        return np.where(toxic, 0.85, 0.02) + 0.1 * rng.random((n, k))

    seen = {"mean": [], "std": []}
    for _ in range(1500):
        floor, one, other = noise_floor(samples(), samples()), samples(), samples()
        for name, figure in (("mean", np.mean), ("std", np.std)):
            bounds = floor[f"{name}_reduction_ci95"]
            if bounds is not None:
                seen[name].append(bounds[0] <= 1 - figure(other) / figure(one) <= bounds[1])
    for name, hits in seen.items():
        assert len(hits) > 1000 and 0.925 <= np.mean(hits) <= 0.98, (name, len(hits), np.mean(hits))


def test_the_noise_floor_of_equal_samples_is_0_and_that_of_hardly_any_toxicity_is_unknown():
    first, _ = simulate(np.random.default_rng(0), 20)
    floor = noise_floor(first, first)
    assert floor["mean_reduction_ci95"] == floor["std_reduction_ci95"] == [0.0, 0.0]
    assert noise_floor(first[:1], first[1:2])["mean_reduction_ci95"] is None
    quiet = noise_floor(first / 100, first[::-1] / 100)
    assert quiet["mean_reduction_ci95"] is None and "add up to" in quiet["note"]


def test_the_noise_floor_is_as_wide_as_the_swaps_say():
    first, second = simulate(np.random.default_rng(3), 200)
    low, high = noise_floor(first, second)["mean_reduction_ci95"]
    signs = np.random.default_rng(0).choice([-1, 1], (4000, 200))
    half = signs @ (first.mean(axis=1) - second.mean(axis=1)) / 400
    middle = (first.mean() + second.mean()) / 2
    swapped = np.quantile(2 * half / (middle + half), [0.025, 0.975])
    assert [low, high] == pytest.approx(swapped, rel=0.1)


def test_dialogues_count_as_moved_beyond_what_chance_does_to_nearly_all():
    before = np.full((40, 2), 0.5)
    second = before + (np.arange(1, 41) / 200 * (-1) ** np.arange(40))[:, None]  # by .005 to .2; 5% of 40 are 2
    after = before.copy()
    after[:3] -= 0.5  # far less toxic
    after[3] += np.array([0.5, 0.3])  # more
    after[4] -= np.array([0.8, -0.5])  # less by .15 in the mean: as chance does
    found = moved(before, second, after)
    assert found.pop("limit") == pytest.approx(0.19)
    assert found == {"less_toxic": 3, "more_toxic": 1, "chance": 2}
    runs = np.stack([after, before], axis=1)
    assert moved(before, second, runs)["less_toxic"] == 3, "the mean of both runs, 0.25, still goes beyond"
    assert moved(before, before, after) == {"limit": 0.0, "less_toxic": 4, "more_toxic": 1, "chance": 0}


def test_a_training_that_changed_nothing_moves_as_many_as_chance():
    rng = np.random.default_rng(3)
    three = (np.where(rng.random((400, 4)) < 0.3, 0.9, 0.02) + 0.05 * rng.random((400, 4)) for _ in range(3))
    found = moved(*three)
    assert found["chance"] == 20 and abs(found["less_toxic"] + found["more_toxic"] - 20) < 18
