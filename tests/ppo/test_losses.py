"""The two losses against TRL's, and in microbatches."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import core as trl_core

from detox.ppo.losses import policy_loss, value_loss
from tests.ppo.token_batches import CLIP, GARBAGE, LENGTHS, PROPERTY, VALUE_CLIP, batch, trl_trainer

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")


def test_losses_and_their_gradients_equal_trl():
    data = batch(lengths=(5, 1, 7, 3))
    advantages, returns = data.ref_logprobs + 3, data.log_ratio * 2
    now = data.old_logprobs + data.log_ratio, data.old_values + data.value_change
    ours, theirs = ([x.clone().requires_grad_() for x in now] for _ in range(2))
    policy, policy_stats = policy_loss(ours[0], data.old_logprobs, advantages, data.mask, CLIP)
    value, value_stats = value_loss(ours[1], data.old_values, returns, data.mask, VALUE_CLIP)
    trainer = trl_trainer(vf_coef=0.5)
    expected_policy, expected_value, expected = trainer.loss(
        old_logprobs=data.old_logprobs,
        values=data.old_values,
        logits=torch.zeros(*data.mask.shape, 2),
        vpreds=theirs[1],
        logprobs=theirs[0],
        mask=data.mask.long(),
        advantages=advantages,
        returns=returns,
    )
    torch.testing.assert_close(policy, expected_policy, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(0.5 * value, expected_value, rtol=1e-5, atol=1e-9)
    (policy + 0.5 * value).backward()
    (expected_policy + expected_value).backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-5, atol=1e-9)
    assert 0 < policy_stats["clip_fraction"] < 1 and 0 < value_stats["clip_fraction"] < 1
    torch.testing.assert_close(policy_stats["clip_fraction"].float(), expected["policy/clipfrac"])
    torch.testing.assert_close(value_stats["clip_fraction"].float(), expected["val/clipfrac"])
    torch.testing.assert_close(value_stats["error"], expected["val/error"])
    torch.testing.assert_close(policy_stats["ratio_mean"], trl_core.masked_mean(expected["policy/ratio"], data.mask))


def test_a_free_value_loss_is_half_the_squared_error():
    data = batch(padding=math.inf)
    new, returns = data.old_values + data.value_change, data.log_ratio
    loss, stats = value_loss(new, data.old_values, returns, data.mask, None)
    error = statistics.fmean(((new - returns)[data.mask] ** 2).tolist())
    assert float(loss) == pytest.approx(error / 2) and float(stats["error"]) == pytest.approx(error)
    assert stats["clip_fraction"] == 0


def test_approx_kl_is_that_of_old_to_new():
    """Over tokens distributed as the old policy has them: an unbiased estimate, unlike half the square."""
    old, new = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    tokens = [0, 0, 1, 2]  # the old policy's distribution, as a sample
    one = torch.ones(1, 4).double()
    _, stats = policy_loss(new.log()[tokens][None], old.log()[tokens][None], one, one.bool(), CLIP)
    exact = float((old * (old / new).log()).sum())
    assert float(stats["approx_kl"]) == pytest.approx(exact)
    assert statistics.fmean([0.5 * math.log(float(old[t] / new[t])) ** 2 for t in tokens]) != pytest.approx(exact)


@PROPERTY
@given(LENGTHS, st.sampled_from(GARBAGE), st.data())
def test_microbatches_add_up_to_the_minibatch(lengths, garbage, draw):
    data = batch(lengths, 8, padding=garbage)
    advantages, returns = data.ref_logprobs + 3, data.value_change
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(lengths)), max_size=3)) | {len(lengths)})
    parts = [slice(a, b) for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]

    def backward(rows, normalizer):
        policy, policy_stats = policy_loss(
            logprobs[rows], data.old_logprobs[rows], advantages[rows], data.mask[rows], CLIP, normalizer
        )
        value, value_stats = value_loss(
            values[rows], data.old_values[rows], returns[rows], data.mask[rows], VALUE_CLIP, normalizer
        )
        (policy + 0.3 * value).backward()
        largest.append(policy_stats.pop("ratio_max_deviation"))
        return torch.stack([policy.detach(), value.detach(), *policy_stats.values(), *value_stats.values()])

    results = []
    for pieces, normalizer in (([slice(None)], None), (parts, sum(lengths)), (parts, data.mask.sum())):
        logprobs = (data.old_logprobs + data.log_ratio).requires_grad_()
        values = (data.old_values + data.value_change).requires_grad_()
        largest = []
        sums = sum(backward(rows, normalizer) for rows in pieces)
        results.append((sums, max(largest), logprobs.grad, values.grad))
    for other in results[1:]:
        torch.testing.assert_close(other[0], results[0][0], rtol=1e-6, atol=1e-9)  # clip fractions are float32
        torch.testing.assert_close(other[1:], results[0][1:], rtol=1e-9, atol=1e-12)
