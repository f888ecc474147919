"""From scores to a reward a token, against TRL and in the stated order."""

import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from trl.trainer import utils as trl_utils

from detox.ppo.moments import (
    RunningMoments,
)
from detox.ppo.rewards import kl_penalty, shape_scores, token_rewards
from tests.ppo.token_batches import KL_COEF, batch, trl_trainer

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")


def test_rewards_equal_trl():
    data = batch()
    trainer = trl_trainer(kl_penalty="kl")
    expected, _, expected_kl = trainer.compute_rewards(
        data.scores, data.old_logprobs, data.ref_logprobs, data.mask.long()
    )
    kl = kl_penalty(data.old_logprobs, data.ref_logprobs, "k1")
    torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-9)
    rewards = token_rewards(data.scores, kl, data.mask, KL_COEF)
    torch.testing.assert_close(rewards[data.mask], expected[data.mask], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_estimators_are_unbiased(kind):
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    estimates = kl_penalty(policy.log(), reference.log(), kind)
    assert float((policy * estimates).sum()) == pytest.approx(float((policy * (policy / reference).log()).sum()))
    assert (estimates >= 0).all() == (kind == "k3")


def test_an_unknown_kl_estimator_is_an_error():
    with pytest.raises(ValueError, match="'full'"):
        kl_penalty(torch.zeros(1, 1), torch.zeros(1, 1), "full")


def test_a_row_that_counts_nothing_is_an_error():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"\[1\]"):
        token_rewards(torch.ones(2), torch.zeros(2, 2), mask, KL_COEF)


def shape(scores, finished=None, moments=None, normalize=False, scale=False, clip=None, penalty=0.0):
    finished = torch.ones_like(scores, dtype=torch.bool) if finished is None else finished
    return shape_scores(
        scores,
        finished,
        moments=moments,
        normalize=normalize,
        scale=scale,
        clip=clip,
        unfinished_penalty=penalty,
    )


def history(*scores):
    moments = RunningMoments()
    moments.update(torch.tensor(scores))
    return moments


def test_scores_are_shaped_in_the_stated_order():
    scores = torch.tensor([1.0, 9.0, -9.0])
    moments = history(1.0, 3.0, 5.0, 7.0)  # mean 4, standard deviation 2.58
    std = statistics.stdev([1, 3, 5, 7])
    assert shape(scores).tolist() == [1.0, 9.0, -9.0]
    assert shape(scores, moments=moments, normalize=True).tolist() == pytest.approx([-3, 5, -13])
    assert shape(scores, moments=moments, scale=True).tolist() == pytest.approx([1 / std, 9 / std, -9 / std])
    finished = torch.tensor([True, True, False])
    shaped = shape(scores, finished, moments, normalize=True, scale=True, clip=1.5, penalty=2.0)
    assert shaped.tolist() == pytest.approx([-3 / std, 1.5, -1.5 - 2.0])
    assert scores.tolist() == [1.0, 9.0, -9.0] and moments.count == 4


def test_normalization_without_moments_is_an_error():
    for moments in (None, RunningMoments()):
        for flag in ("normalize", "scale"):
            with pytest.raises(ValueError, match="update the moments"):
                shape(torch.ones(2), moments=moments, **{flag: True})


def test_score_normalization_needs_no_history_where_trl_raises():
    scores = [torch.tensor(s) for s in (1.0, 2.0, 4.0, 5.0)]
    ids = [torch.tensor([3, 1])] * 4
    for score_norm in (True, False):
        trainer = trl_trainer(use_score_scaling=True, use_score_norm=score_norm)
        trainer.accelerator = SimpleNamespace(use_distributed=False)
        trainer.current_device = torch.device("cpu")
        trainer.running = trl_utils.RunningMoments(trainer.accelerator)
        with pytest.raises(AttributeError, match="'float' object has no attribute 'to'"):
            trainer.step(ids, ids, scores)

    moments = RunningMoments()
    moments.update(torch.stack(scores))
    shaped = shape(torch.stack(scores), moments=moments, normalize=True, scale=True)
    deviation = statistics.stdev([1, 2, 4, 5])
    assert shaped.tolist() == pytest.approx([-2 / deviation, -1 / deviation, 1 / deviation, 2 / deviation])


def test_half_precision_scores_are_raised():
    shaped = shape(torch.tensor([1.0, 3.0]).bfloat16(), moments=history(1.0, 3.0), normalize=True, scale=True)
    assert shaped.dtype == torch.float32
    assert shaped.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_equal_scores_are_not_blown_up():
    moments = history(0.1, 0.1, 0.1)
    assert moments.std == 1.0
    assert shape(torch.full((3,), 0.1), moments=moments, normalize=True, scale=True).tolist() == pytest.approx([0] * 3)
