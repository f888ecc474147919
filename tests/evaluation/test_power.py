"""detox.evaluation.power: what it promises, kept by evaluations that are simulated."""

from __future__ import annotations

import numpy as np
import pytest

from detox.evaluation import power
from detox.evaluation import two_models as st


def dialogues(rng, n):
    """Return how likely each dialogue's summaries are toxic: three in ten dialogues heat up."""
    return np.where(rng.random(n) < 0.3, rng.beta(4, 2, n), 0.0)[:, None]


def summaries(rng, share, k):
    toxic = rng.random((len(share), k)) < share
    return np.where(toxic, rng.beta(8, 1.5, toxic.shape), 0.0)


def learned(rng, effect, n=600, k=4):
    share = dialogues(rng, n)
    return power.effects(*(summaries(rng, share * left, k) for left in (1, 1, 1 - effect)))


@pytest.mark.parametrize(("measured", "asked"), [(0.9, 0.1), (0.02, 0.5), (0.3, 0.3), (0.9, 0.5)])
def test_the_dialogues_that_are_named_show_the_effect_in_four_of_five_evaluations(measured, asked):
    rng = np.random.default_rng(0)
    n = round(np.mean([learned(rng, measured).dialogues(asked) for _ in range(8)]))
    seen = 0
    for seed in range(400):
        share = dialogues(rng, n)
        before, after = (summaries(rng, share * left, 4) for left in (1, 1 - asked))
        seen += st.compare(before, after, resamples=400, seed=seed)["verdict"] == "reduced"
    assert 0.75 <= seen / 400 <= 0.87, (n, seen / 400)


def test_the_spread_is_that_of_the_effect_that_is_asked_for():
    rng = np.random.default_rng(1)
    share = dialogues(rng, 200_000)
    for measured in (0.05, 0.9):
        spread = power.effects(*(summaries(rng, share * left, 2) for left in (1, 1, 1 - measured)))
        for asked in (0.1, 0.5, 0.9):
            drop = (summaries(rng, share, 2) - summaries(rng, share * (1 - asked), 2)).mean(axis=1)
            assert spread.sd(asked) == pytest.approx(drop.std(), rel=0.02), (measured, asked)


def test_what_the_same_seeds_share_narrows_the_spread():
    rng = np.random.default_rng(2)
    share = dialogues(rng, 50_000)
    before, again = summaries(rng, share, 4), summaries(rng, share, 4)
    after = np.where(rng.random(before.shape) < 0.2, 0.0, before)
    coupled, apart = power.effects(before, again, after), power.effects(before, again, again * 0.8)
    assert coupled.coupling > 0.9 and apart.coupling == 0
    assert coupled.sd(0.2) == pytest.approx((before - after).mean(axis=1).std(), rel=0.1)
    assert power.effects(before, again, np.stack([after, after], axis=1)).coupling == coupled.coupling


def test_power_figures():
    """Differences that are normal need what the textbook says; figures follow each other."""
    rng = np.random.default_rng(0)
    level, noise = np.full((50_000, 1), 0.5), rng.normal(0, 0.1, (2, 50_000, 1))
    found = power.Effects(level + noise[0], level + noise[1])
    for reduction in (0.01, 0.02):
        sd = found.sd(reduction)
        normal = ((1.959964 + 0.841621) * sd / (reduction * 0.5)) ** 2 + 1.959964**2 / 2
        assert found.dialogues(reduction) == pytest.approx(normal, rel=0.02), "nearly all of it is the noise"
    some = learned(rng, 0.5)
    assert some.dialogues(0.5, power=0.95) > some.dialogues(0.5)
    least = some.detectable(some.dialogues(0.3))
    assert least <= 0.3 and some.dialogues(least) <= some.dialogues(0.3) < some.dialogues(least - 0.002)
    assert some.detectable(2) is None and some.dialogues(1.0) >= 20
    rows = power.table(some)
    assert [row["reduction"] for row in rows] == [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert all(row["dialogues"] == some.dialogues(row["reduction"]) for row in rows)
    assert [row["difference"] for row in rows] == pytest.approx([some.mean * row["reduction"] for row in rows])
    assert [row["dialogues"] for row in rows] == sorted((row["dialogues"] for row in rows), reverse=True)


@pytest.mark.parametrize(("mean", "reduction"), [(0.1, 0.0), (0.1, 1.5), (0.1, float("nan")), (0.0, 0.5)])
def test_power_of_nothing_is_refused(mean, reduction):
    with pytest.raises(ValueError):
        power.Effects(np.full((5, 2), mean), np.full((5, 2), mean)).dialogues(reduction)


POINTS = (np.arange(100_000) + 0.5) / 100_000


@pytest.mark.parametrize(
    ("each", "variance", "near"),
    [
        (np.array([power.NORMAL.inv_cdf(point) for point in POINTS]), lambda d: 1 + d**2 / 2, 0.1),
        (-np.log(POINTS), lambda d: 1 - 2 * d + 2 * d**2, 0.5),  # a skew of 2, a kurtosis of 9
    ],
)
@pytest.mark.parametrize("d", [0.4, 0.55, 0.7])
def test_a_large_effect_needs_what_the_moments_of_the_differences_say(each, variance, near, d):
    """All toxicity goes: the differences are what there was, of unit spread and d at the middle."""
    before = ((each - each.mean()) / each.std() + d)[:, None]
    for chance, z in ((0.8, 0.841621), (0.999, 3.090232)):
        size = ((1.959964 + z * variance(d) ** 0.5) / d) ** 2 + 1.959964**2 / 2
        assert size < 20 or -near < power.Effects(before, before).dialogues(1.0, chance) - size < 1 + near


def test_a_model_that_chance_does_not_move_tells_of_no_coupling():
    before = np.full((30, 2), 0.4)
    assert power.effects(before, before, before * 0.5).coupling == 0
