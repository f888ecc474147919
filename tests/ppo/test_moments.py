"""Mean, variance and whitening of what counts, against TRL and plain Python, in parts and over a run."""

import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from trl import core as trl_core
from trl.trainer import utils as trl_utils

from detox.ppo.moments import (
    RunningMoments,
    explained_variance,
    masked_mean,
    masked_var,
    masked_whiten,
    merge_moments,
    moments,
    variance,
)
from tests.ppo.token_batches import (
    batch,
)

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_statistics_and_whitening_equal_trl(dtype):
    data = batch(dtype=dtype)
    x, mask = data.old_values, data.mask
    torch.testing.assert_close(masked_mean(x, mask), trl_core.masked_mean(x, mask), rtol=1e-5, atol=1e-7)
    for unbiased in (True, False):
        expected = trl_core.masked_var(x, mask, unbiased)
        torch.testing.assert_close(masked_var(x, mask, unbiased), expected, rtol=1e-5, atol=1e-7)
    for shift_mean in (True, False):
        ours = masked_whiten(x, mask, shift_mean)
        expected = trl_core.masked_whiten(x, mask, shift_mean)
        torch.testing.assert_close(ours[mask], expected[mask], rtol=1e-5, atol=1e-6)
        assert ours.dtype == dtype and (ours[~mask] == 0).all()


def test_one_counted_token_whitens_to_zero_where_trl_gives_nan():
    x, mask = torch.tensor([[3.0, 7.0]]), torch.tensor([[True, False]])
    assert trl_core.masked_whiten(x, mask).isnan().any()
    assert masked_whiten(x, mask).tolist() == [[0.0, 0.0]]
    assert masked_whiten(x, mask, shift_mean=False).tolist() == [[3.0, 0.0]]
    assert masked_var(x, mask) == 0


def test_explained_variance_forgives_an_offset_and_constant_returns():
    data = batch(padding=math.nan)
    returns, mask = data.old_values, data.mask
    assert float(explained_variance(returns + 5, returns, mask)) == pytest.approx(1.0)
    assert float(explained_variance(torch.zeros_like(returns), returns, mask)) == pytest.approx(0.0)
    assert float(explained_variance(-returns, returns, mask)) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones_like(returns), mask) == 0


def test_merged_moments_are_those_of_the_whole():
    data = batch((5, 1, 7, 3), padding=math.nan)
    x, mask = data.old_values, data.mask
    parts = [slice(0, 1), slice(1, 2), slice(2, 4)]
    nothing = moments(x[:1], torch.zeros_like(mask[:1]))
    merged = merge_moments(nothing, *(moments(x[p], mask[p]) for p in parts), nothing)
    whole = moments(x, mask)
    torch.testing.assert_close(torch.stack(merged), torch.stack(whole))


def test_merging_keeps_precision_far_from_zero():
    values = torch.arange(8, dtype=torch.float64) + 1e8
    every = torch.ones(4, dtype=torch.bool)
    merged = merge_moments(moments(values[:4], every), moments(values[4:], every))
    assert float(variance(merged)) == pytest.approx(6.0, rel=1e-9)
    assert float(variance(merged, unbiased=False)) == pytest.approx(5.25, rel=1e-9)


def test_running_moments_are_those_of_all_scores_so_far():
    generator = torch.Generator().manual_seed(0)
    batches = [100 + torch.randn(n, generator=generator) for n in (1, 1, 4, 7)]
    ours, theirs = RunningMoments(), trl_utils.RunningMoments(SimpleNamespace(use_distributed=False))
    merged, seen = RunningMoments(), []
    for scores in batches:
        ours.update(scores)
        halves = [moments(part, torch.ones(len(part)).bool()) for part in scores.double().split(2)]
        merged.merge(*merge_moments(*halves))
        seen += scores.tolist()
        assert (ours.count, ours.mean) == (len(seen), pytest.approx(statistics.fmean(seen)))
        assert ours.std == pytest.approx(statistics.stdev(seen) if len(seen) > 1 else 1.0)
        assert (merged.mean, merged.std) == (pytest.approx(ours.mean), pytest.approx(ours.std))
    for scores in (torch.cat(batches[:3]), batches[3]):
        theirs.update(scores)
    assert (ours.mean, ours.std) == (
        pytest.approx(theirs.mean, rel=1e-5),
        pytest.approx(theirs.std, rel=1e-4),
    )


def test_a_spread_that_is_small_is_scaled_to_1_unless_a_least_one_is_asked_for():
    x, mask = torch.tensor([[0.1, 0.3, 9.0]]), torch.tensor([[True, True, False]])
    assert masked_var(x, mask).item() == pytest.approx(0.02)
    assert masked_whiten(x, mask)[0, :2].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-4)
    held = masked_whiten(x, mask, least_variance=0.25)
    assert held[0].tolist() == pytest.approx([-0.2, 0.2, 0.0], rel=1e-4), "0.1 from the mean, over a spread of 0.5"
