"""detox.evaluation.intervals: influences, quantiles against the tables, the exact sign flips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from detox.evaluation import intervals
from detox.evaluation.intervals import Estimate
from detox.evaluation.sign_flips import sign_flip_test

DRAW = np.random.default_rng(0)
VALUES = DRAW.gamma(2.0, 1.0, (12, 3))
SIZES = DRAW.integers(1, 9, 12).astype(float)


def nudged(figure, row):
    """Return how the figure moves, times n, if that dialogue's share grows a little at the expense of all."""
    step, n = 1e-6, len(VALUES)
    shares = np.full(n, (1 - step) / n)
    shares[row] += step
    return (figure(shares) - figure(np.full(n, 1 / n))) / step


def spread(shares):
    middle = shares @ VALUES.mean(axis=1)
    return np.sqrt(shares @ ((VALUES - middle) ** 2).mean(axis=1))


@pytest.mark.parametrize(
    ("estimate", "figure"),
    [
        (intervals.mean(VALUES[:, 0]), lambda shares: shares @ VALUES[:, 0]),
        (intervals.ratio(VALUES[:, 0], SIZES), lambda shares: (shares @ VALUES[:, 0]) / (shares @ SIZES)),
        (intervals.std(VALUES), spread),
        (
            intervals.average([intervals.mean(VALUES[:, 0]), intervals.mean(VALUES[:, 1])]),
            lambda shares: shares @ VALUES[:, :2].mean(axis=1),
        ),
        (
            intervals.mean(VALUES[:, 0]) - intervals.mean(VALUES[:, 1]) * 3.0,
            lambda shares: shares @ (VALUES[:, 0] - 3 * VALUES[:, 1]),
        ),
    ],
)
def test_an_influence_is_what_the_figure_moves_by(estimate, figure):
    assert estimate.value == pytest.approx(figure(np.full(12, 1 / 12)))
    assert estimate.influence == pytest.approx([nudged(figure, row) for row in range(12)], abs=1e-4)
    assert estimate.influence.sum() == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_mean_is_the_usual_one():
    assert intervals.mean(VALUES[:, 0]).error == pytest.approx(VALUES[:, 0].std(ddof=1) / np.sqrt(12))
    assert intervals.mean(np.array([3.0])).error == np.inf


def test_nothing_over_nothing_is_0():
    found = intervals.ratio(np.zeros(4), np.zeros(4))
    assert found.value == 0 and not found.influence.any()
    constant = intervals.std(np.full((5, 2), 0.1))
    assert constant.value == 0 and not constant.influence.any()


@pytest.mark.parametrize(
    ("degrees", "alpha", "known"),
    [
        (3, 0.05, 3.1824),
        (5, 0.05, 2.5706),
        (10, 0.05, 2.2281),
        (29, 0.05, 2.0452),
        (29, 0.0125, 2.6658),
        (9, 0.01, 3.2498),
    ],
)
def test_quantiles_of_student_are_those_of_the_tables(degrees, alpha, known):
    assert intervals.quantile(degrees, alpha) == pytest.approx(known, rel=0.01 if degrees < 4 else 0.002)


@pytest.mark.parametrize(("degrees", "rel"), [(12, 1e-5), (20, 1e-6), (29, 2e-7)])
def test_students_density_leaves_alpha_beyond_the_quantile(degrees, rel):
    """Integrated over u, x = sqrt(degrees) tan(u), where it is a power of the cosine."""
    end = np.arctan(intervals.quantile(degrees) / np.sqrt(degrees))
    middles = (np.arange(100_000) + 0.5) / 100_000
    below, whole = (width * (np.cos(middles * width) ** (degrees - 1)).mean() for width in (end, np.pi / 2))
    assert 1 - below / whole == pytest.approx(0.05, rel=rel)


def test_a_t_interval_is_the_textbook_one():
    even = np.concatenate([VALUES[:6, 0], 4 - VALUES[:6, 0]])  # without a skew
    low, high = intervals.interval(intervals.mean(even))
    half = 2.2010 * even.std(ddof=1) / np.sqrt(12)
    assert [low, high] == pytest.approx([2 - half, 2 + half], rel=1e-3)
    assert intervals.interval(intervals.mean(VALUES[:2, 0])) is None
    assert intervals.interval(intervals.mean(np.full(5, 0.3))) == [0.3, 0.3]
    low, high = intervals.interval(intervals.mean(np.array([1.0, 2.0, 3.0])))
    assert high - 2 == pytest.approx(2 - low) == pytest.approx(4.3027 / np.sqrt(3), rel=0.01), "three are enough"


def test_a_skew_widens_the_side_that_it_hides():
    few = intervals.mean(np.where(np.arange(40) < 3, 1.0, 0.0))
    t = intervals.quantile(39)
    half = t * few.error
    low, high = intervals.interval(few)
    assert low == pytest.approx(few.value - half) and high > few.value + 1.1 * half
    mirrored = intervals.interval(few * -1.0)
    assert mirrored == pytest.approx([-high, -low])


def test_no_interval_goes_beyond_what_a_figure_can_be():
    few = intervals.mean(np.array([1.0, 0.0, 0.0, 1.0]))
    low, high = intervals.interval(few)
    assert low < -0.2 and high > 1
    assert intervals.interval(few, most=1.0) == [low, 1.0] and intervals.interval(few * -1.0, most=0.1) == [-0.1, 0.1]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("carriers", [3, 8])
def test_both_sides_together_miss_as_often_as_is_said(alpha, carriers):
    """Hall's transform makes the statistic about normal: what lies beyond either end adds up to alpha."""
    few = intervals.mean(np.where(np.arange(80) < carriers, 1.0, 0.0))
    skew = (few.influence**3).mean() / few.influence.std() ** 3 / np.sqrt(80)
    low, high = intervals.interval(few, alpha)
    missed = 0.0
    for end, side in ((low, 1), (high, -1)):
        x = (few.value - end) / few.error
        normal = x + skew * x**2 / 3 + skew**2 * x**3 / 27 + skew / 6
        # Student's for 79 degrees, by its share of normal quantiles
        scale = intervals.NORMAL.inv_cdf(1 - alpha / 2) / intervals.quantile(79, alpha)
        missed += intervals.NORMAL.cdf(-side * normal * scale)
    assert missed == pytest.approx(alpha, rel=1e-6)


def test_degrees_of_freedom_are_those_of_the_dialogues_that_vary():
    equal = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert intervals.known_degrees(equal) == 39
    few = np.where(np.arange(40) < 4, 1.0, 0.0)
    assert intervals.known_degrees(few) == pytest.approx(2 * 16 / 4)
    assert intervals.known_degrees(np.eye(40)[0]) == 2
    assert intervals.known_degrees(np.zeros(5)) == 4


def test_the_interval_of_a_reduction_holds_the_ratios_that_are_not_refuted():
    before, after = intervals.mean(VALUES[:, 0]), intervals.mean(VALUES[:, 1] * 0.5)
    low, high = intervals.reduction_interval(before, after)
    for reduction, refuted in ((low - 1e-4, True), (low + 1e-4, False), (high - 1e-4, False), (high + 1e-4, True)):
        gap = after - before * (1 - reduction)
        assert (abs(gap.value) > 2.2010 * gap.error) == refuted, reduction
    few = intervals.reduction_interval(before, after, few=True)
    assert few[0] < low and (few[1] > high or high == 1.0)
    assert intervals.reduction_interval(before, after, alpha=0.01)[0] < low


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_a_reduction_is_the_same_in_every_unit(unit):
    before, after = intervals.mean(VALUES[:, 0]), intervals.mean(VALUES[:, 1] * 0.5)
    expected = intervals.reduction_interval(before, after)
    assert intervals.reduction_interval(before * unit, after * unit) == pytest.approx(expected)


def test_a_reduction_has_no_interval_where_nothing_tells_of_it():
    some, none = intervals.mean(VALUES[:, 0]), intervals.mean(np.zeros(12))
    assert intervals.reduction_interval(some, none) is None, "nothing is left"
    assert intervals.reduction_interval(none, some) is None, "there was nothing"
    assert intervals.reduction_interval(some, some * 0.5) is None, "all agree"
    rare = intervals.mean(np.eye(12)[0])
    assert intervals.reduction_interval(rare, some) is None, "before may as well be 0"
    two = intervals.mean(np.array([0.5, 0.6]))
    assert intervals.reduction_interval(two, two * 0.5 - Estimate(0.0, np.array([0.01, -0.01]))) is None


def test_nothing_falls_by_more_than_all_of_it():
    before = intervals.mean(np.array([0.9, 0.8, 0.9, 0.7, 0.8, 0.9]))
    after = intervals.mean(np.array([0.0, 0.0, 0.0, 0.3, 0.0, 0.0]))
    low, high = intervals.reduction_interval(before, after)
    assert low < 1 - after.value / before.value < high == 1.0


def test_reductions():
    assert [intervals.reduction(*pair) for pair in ((0.4, 0.1), (0.0, 0.0), (0.0, 0.1))] == [
        pytest.approx(0.75),
        0.0,
        None,
    ]


def test_sign_flips_are_exact_for_few_dialogues():
    differences = np.random.default_rng(0).normal(0.3, 1, 9)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=9)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-15)
    assert sign_flip_test(np.concatenate([differences, np.zeros(30)])) == pytest.approx(expected, abs=1e-15)


def test_random_sign_flips_are_never_0_and_agree_with_the_exact_value():
    assert sign_flip_test(np.ones(50), resamples=999) == 1 / 1000
    differences = np.random.default_rng(1).normal(0.4, 1, 14)
    exact = sign_flip_test(differences)
    by_chance = sign_flip_test(np.concatenate([differences, np.full(6, 1e-12)]), resamples=20_000)
    assert by_chance == pytest.approx(exact, abs=0.01)
