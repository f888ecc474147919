"""The learning rate by the measured KL, on policies whose KL is known."""

import math

import numpy as np
import pytest

from detox.ppo.step_size import TOO_FAR, StepSize

TARGET, STEPS = 0.02, 8


def update(step_size, curvature, target=TARGET, rounding=0.0, noise=None):
    """Run an update on a policy whose KL is `curvature * s^2` (at most 3 nats); return it at its end."""
    moved, measured = 0.0, 0

    def kl():
        exact = min(3.0, curvature * moved**2)
        return rounding + exact * (noise() if noise else 1.0)

    step_size.begin(target, STEPS)
    for _ in range(STEPS):
        while True:
            measured += 1
            share = step_size.measured(kl())
            moved *= share
            if share == 1:
                break
        moved += step_size.rate
        step_size.took_step()
    moved *= step_size.end()
    return min(3.0, curvature * moved**2), measured


@pytest.mark.parametrize("curvature", [1e2, 1e4, 1e7])
@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-2, 10.0])
def test_the_target_is_met_from_any_rate(rate, curvature):
    step_size = StepSize(rate)
    found = [update(step_size, curvature)[0] for _ in range(4)]
    assert max(found) <= TOO_FAR * TARGET
    assert found[1:] == pytest.approx([TARGET] * 3, rel=0.35)
    assert step_size.rate == pytest.approx(math.sqrt(TARGET / curvature) / STEPS, rel=0.2)


def test_a_rate_that_fits_costs_no_step_back():
    step_size = StepSize(math.sqrt(TARGET / 1e4) / STEPS)
    assert all(update(step_size, 1e4) == (pytest.approx(TARGET), STEPS) for _ in range(3))


def test_the_rate_follows_a_policy_that_grows_certain_and_a_target_that_falls():
    step_size = StepSize(1e-3)
    for i in range(12):
        target = TARGET * (1 - i / 12)
        found, _ = update(step_size, 1e4 * 0.85**i, target)
        assert i == 0 or target / 2 < found < 2 * target


def test_rounding_is_no_movement():
    exact, rounded = StepSize(1e-3), StepSize(1e-3)
    for _ in range(3):
        assert update(exact, 1e4)[0] == pytest.approx(update(rounded, 1e4, rounding=5e-3)[0], rel=1e-6)


def test_noise_is_averaged():
    """Measurements that differ by factors of ten leave the rate within a factor of three."""
    draw = np.random.default_rng(0)
    step_size, rates = StepSize(1e-4), []
    for _ in range(40):
        update(step_size, 1e4, noise=lambda: draw.lognormal(-0.6, 1.1))
        rates.append(step_size.rate)
    right = math.sqrt(TARGET / 1e4) / STEPS
    assert right / 3 < min(rates[3:]) and max(rates[3:]) < 3 * right


def test_a_policy_that_is_no_number_goes_back():
    step_size = StepSize(1e-3)
    step_size.begin(TARGET, STEPS)
    assert step_size.measured(0.0) == 1
    step_size.took_step()
    assert step_size.measured(math.nan) == pytest.approx(0.1)
    assert step_size.rate == pytest.approx(1e-4) and step_size.steps_back == 1
    assert step_size.kl == 0, "nothing is known"


def test_what_is_saved_goes_on_alike():
    one = StepSize(1e-4)
    update(one, 1e4)
    other = StepSize(5.0)
    other.load_state_dict(one.state_dict())
    assert update(one, 2e4) == update(other, 2e4)


def test_what_was_measured_far_away_counts_as_its_distance_squared_says():
    """After a step of 1, half of the update, the KL is 0.16: the policy keeps an eighth, to a quarter of the target."""
    step_size = StepSize(1.0)
    step_size.begin(0.01, 2)
    step_size.measured(0.0)
    step_size.took_step()
    assert step_size.measured(0.16) == pytest.approx(1 / 8)
    assert step_size.kl == pytest.approx(0.16 / 64) and step_size.steps_back == 1
    # Measured again at 1/8, ten times as curved. The first weighs 1/64 of the second there, as 1 to 1/8 squared.
    curvature = (0.16 + 64 * 1.6) / 65
    assert step_size.measured(1.6 / 64) == pytest.approx(math.sqrt(0.0025 / (curvature / 64)))
    assert step_size.rate == pytest.approx(math.sqrt(0.01 / curvature) / 2)


def test_where_nothing_was_measured_before_the_first_step_nothing_is_rounding():
    step_size = StepSize(1.0)
    step_size.begin(0.01, 2)
    step_size.took_step()
    assert step_size.measured(0.16) == pytest.approx(1 / 8)


def test_a_rate_that_is_far_too_low_grows_fourfold_a_step():
    step_size = StepSize(1e-6)
    step_size.begin(TARGET, STEPS)
    step_size.measured(0.0)
    for taken in range(1, 4):
        step_size.took_step()
        assert step_size.measured(1e4 * (1e-6 * (4**taken - 1) / 3) ** 2) == 1
        assert step_size.rate == pytest.approx(1e-6 * 4**taken)
