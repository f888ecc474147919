"""Estimators of advantages against loops in float64, and the critic that is trusted as far as it explains."""

import statistics

import pytest
import torch
from torch import nn

from detox.ppo import arithmetic
from detox.ppo.value_head import TRUST_WINDOW, Critic, Lesson

LENGTHS = (3, 7, 1, 5, 7, 2)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    rewards = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    return rewards.masked_fill(~mask, float("nan")), mask


def returns_of(row, length, gamma):
    return [sum(gamma ** (j - t) * float(row[j]) for j in range(t, length)) for t in range(length)]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_batch_baseline(batch, gamma):
    rewards, mask = batch
    advantages, returns = arithmetic.batch_baseline(rewards, mask, gamma)
    expected = [returns_of(row, length, gamma) for row, length in zip(rewards, LENGTHS)]
    for b, own in enumerate(expected):
        others = statistics.mean(other[0] for i, other in enumerate(expected) if i != b)
        for t, value in enumerate(own):
            assert float(returns[b, t]) == pytest.approx(value, abs=1e-12)
            assert float(advantages[b, t]) == pytest.approx(value - others, abs=1e-12)
    assert float(advantages[~mask].abs().sum()) == float(returns[~mask].abs().sum()) == 0


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dr-grpo"])
def test_group_baselines(batch, kind):
    penalties, mask = batch
    scores = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    advantages, returns = arithmetic.group_baseline(scores, penalties, mask, 3, kind)
    costs = [returns_of(row, length, 1.0) for row, length in zip(penalties, LENGTHS)]
    for b, own in enumerate(costs):
        group = [float(score) for score in scores[b // 3 * 3 : b // 3 * 3 + 3]]
        others = [score for i, score in enumerate(group) if i != b % 3]
        compared = {
            "rloo": group[b % 3] - statistics.mean(others),
            "dr-grpo": group[b % 3] - statistics.mean(group),
            "grpo": (group[b % 3] - statistics.mean(group)) / (statistics.stdev(group) + 1e-4),
        }[kind]
        usual = statistics.mean(cost[0] for i, cost in enumerate(costs) if i != b)
        for t, cost in enumerate(own):
            assert float(advantages[b, t]) == pytest.approx(compared + cost - usual, abs=1e-12)
            assert float(returns[b, t]) == pytest.approx(cost + float(scores[b]), abs=1e-12)
    assert float(advantages[~mask].abs().sum()) == float(returns[~mask].abs().sum()) == 0


def test_a_dialogue_whose_samples_all_go_astray_is_told():
    """Every sample of the second dialogue is far from the reference: each of its tokens has a negative advantage."""
    penalties = torch.tensor([[-0.01] * 3] * 2 + [[-5.0] * 3] * 2)
    for kind in ("rloo", "grpo", "dr-grpo"):
        advantages, _ = arithmetic.group_baseline(torch.ones(4), penalties, torch.ones(4, 3, dtype=torch.bool), 2, kind)
        assert bool((advantages[2:, 0] < -5).all()) and bool((advantages[:2] > 0).all())


def test_groups_that_are_none_are_refused(batch):
    penalties, mask = batch
    for samples, kind in ((4, "rloo"), (1, "grpo"), (3, "mean")):
        with pytest.raises(ValueError, match=f"samples={samples}|'mean'"):
            arithmetic.group_baseline(torch.zeros(6), penalties, mask, samples, kind)


def test_a_group_of_equal_scores_teaches_nothing():
    mask = torch.ones(4, 2, dtype=torch.bool)
    for kind in ("rloo", "grpo", "dr-grpo"):
        assert float(arithmetic.group_baseline(torch.ones(4), torch.zeros(4, 2), mask, 2, kind)[0].abs().max()) == 0


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_without_trust_the_critic_is_the_batch_and_with_it_the_values_count(batch, gamma):
    rewards, mask = batch
    values = torch.randn(6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, returns = arithmetic.batch_baseline(rewards, mask, gamma)
    none, its_returns = arithmetic.trusted_gae(rewards, values, mask, gamma, 0.8, 0.0)
    torch.testing.assert_close(none, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(its_returns, returns, atol=0, rtol=0)
    for trust in (0.4, 1.0):
        found, _ = arithmetic.trusted_gae(rewards, values, mask, gamma, 0.8, trust)
        firsts = [float(row[0]) for row in returns]
        mean = float(values[mask].mean())
        lam = 1 - trust * 0.2
        for b, length in enumerate(LENGTHS):
            others = (sum(firsts) - firsts[b]) / 5
            base = [others + trust * (float(values[b, t]) - mean) for t in range(length)] + [0.0]
            deltas = [float(rewards[b, t]) + gamma * base[t + 1] - base[t] for t in range(length)]
            for t in range(length):
                expected = sum((gamma * lam) ** (j - t) * deltas[j] for j in range(t, length))
                assert float(found[b, t]) == pytest.approx(expected, abs=1e-12)


def rollout(generator, signal, count=16):
    """Return values and returns [count, 4] of which the values explain a share `signal`."""
    mask = torch.ones(count, 4, dtype=torch.bool)
    truth = torch.randn(count, 1, generator=generator).expand(count, 4)
    noise = torch.randn(count, 1, generator=generator).expand(count, 4)
    return 5 + signal * truth, signal**0.5 * (signal**0.5 * truth) + (1 - signal**2) ** 0.5 * noise, mask


def test_trust_is_the_explained_share():
    generator = torch.Generator().manual_seed(0)
    critic = Critic(nn.Linear(4, 1), 8)
    assert critic.trust == 0, "nothing is known"
    for _ in range(TRUST_WINDOW):
        critic.judge(*rollout(generator, 0.8))
    assert 0.45 < critic.trust < 0.8, "0.64 of the variance, whatever the values' mean"
    for _ in range(TRUST_WINDOW):
        values, returns, mask = rollout(generator, 0.8)
        critic.judge(-values, returns, mask)
    assert critic.trust == 0, "a bad critic fades out as the window moves on"


def test_a_constant_earns_no_trust():
    critic = Critic(nn.Linear(4, 1), 8)
    _, returns, mask = rollout(torch.Generator().manual_seed(0), 0.5)
    critic.judge(torch.full_like(returns, 7.0), returns, mask)
    assert critic.trust == 0


def lesson(seed, responses=12, slope=2.0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (responses,), generator=generator)
    features = torch.randn(int(lengths.sum()), 4, generator=generator)
    return Lesson(features, slope * features[:, 0] + 1, lengths)


def test_the_head_is_fitted_to_the_last_rollouts_alone():
    critic = Critic(nn.Linear(4, 1), 2)
    for seed, slope in enumerate((-5.0, 2.0, 2.0)):
        explained = critic.learn([lesson(seed, slope=slope)])
    assert len(critic.lessons) == 2
    critic.learn([lesson(3)])
    fresh = lesson(9)
    assert explained < 0.99 and float((critic.head(fresh.features)[:, 0] - fresh.returns).abs().max()) < 0.05


def test_what_a_critic_saves_is_what_it_needs():
    one, other = Critic(nn.Linear(4, 1), 2), Critic(nn.Linear(4, 1), 2)
    generator = torch.Generator().manual_seed(0)
    for seed in range(12):
        one.judge(*rollout(generator, 0.5))
        one.learn([lesson(seed)])
    other.load_tensors(one.tensors())
    assert one.trust == other.trust > 0
    for critic in (one, other):
        critic.learn([lesson(99)])
    assert torch.equal(one.head.weight, other.head.weight) and torch.equal(one.head.bias, other.head.bias)
