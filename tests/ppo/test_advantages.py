"""Estimators of advantages against TRL and loops in float64."""

import statistics

import pytest
import torch

from detox.ppo.advantages import batch_baseline, gae, group_baseline, trusted_gae
from detox.ppo.moments import masked_whiten
from tests.ppo import token_batches

LENGTHS = (3, 7, 1, 5, 7, 2)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    rewards = torch.randn(6, 7, generator=generator, dtype=torch.float64)
    return rewards.masked_fill(~mask, float("nan")), mask


def returns_of(row, length, gamma):
    return [sum(gamma ** (j - t) * float(row[j]) for j in range(t, length)) for t in range(length)]


@pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")
@pytest.mark.parametrize("width", [7, 9])
def test_advantages_equal_trl(width):
    data = token_batches.batch(width=width)
    rewards = data.log_ratio
    values, expected, expected_returns = token_batches.trl_trainer().compute_advantages(
        data.old_values, rewards, data.mask.long()
    )
    advantages, returns = gae(rewards, data.old_values, data.mask, token_batches.GAMMA, token_batches.LAM)
    torch.testing.assert_close(returns[data.mask], expected_returns[data.mask], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(advantages, (expected_returns - values) * data.mask, rtol=1e-5, atol=1e-9)
    whitened = masked_whiten(advantages, data.mask)
    torch.testing.assert_close(whitened[data.mask], expected[data.mask], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_batch_baseline(batch, gamma):
    rewards, mask = batch
    advantages, returns = batch_baseline(rewards, mask, gamma)
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
    advantages, returns = group_baseline(scores, penalties, mask, 3, kind)
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
        advantages, _ = group_baseline(torch.ones(4), penalties, torch.ones(4, 3, dtype=torch.bool), 2, kind)
        assert bool((advantages[2:, 0] < -5).all()) and bool((advantages[:2] > 0).all())


def test_groups_that_are_none_are_refused(batch):
    penalties, mask = batch
    for samples, kind in ((4, "rloo"), (1, "grpo"), (3, "mean")):
        with pytest.raises(ValueError, match=f"samples={samples}|'mean'"):
            group_baseline(torch.zeros(6), penalties, mask, samples, kind)


def test_a_group_of_equal_scores_teaches_nothing():
    mask = torch.ones(4, 2, dtype=torch.bool)
    for kind in ("rloo", "grpo", "dr-grpo"):
        assert float(group_baseline(torch.ones(4), torch.zeros(4, 2), mask, 2, kind)[0].abs().max()) == 0


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_without_trust_the_critic_is_the_batch_and_with_it_the_values_count(batch, gamma):
    rewards, mask = batch
    values = torch.randn(6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, returns = batch_baseline(rewards, mask, gamma)
    none, its_returns = trusted_gae(rewards, values, mask, gamma, 0.8, 0.0)
    torch.testing.assert_close(none, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(its_returns, returns, atol=0, rtol=0)
    for trust in (0.4, 1.0):
        found, _ = trusted_gae(rewards, values, mask, gamma, 0.8, trust)
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
