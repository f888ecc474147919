"""Experience: masks, rewards, whitening; each test fails on stock TRL or on a mistake planted in it."""

from __future__ import annotations

import math

import pytest
import torch

from detox.model.engine import response_mask
from detox.ppo.experience import whitened
from detox.ppo.teacher_forcing import forced
from tests.ppo.trainers import given, queries, rewarded, stock_trainer, trainer_for


def test_first_token_and_eos_count_in_kl_and_reward(folder):
    trainer = trainer_for(folder)
    rollout = given(trainer, [torch.tensor([5, 6, 1])] * 6)
    with torch.no_grad():
        for parameter in trainer.engine.base.decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
        experience = trainer.experience(rollout, torch.full((6,), 2.0))
    assert experience.mask.sum() == 18
    assert bool((experience.kl.abs() > 1e-4).all()), "every token, the first and EOS too, has a KL"
    kl_part = -trainer.kl_ctl.value * experience.kl
    expected = kl_part.clone()
    expected[:, 2] += 2.0
    torch.testing.assert_close(experience.rewards, expected)


def test_padding_and_order_of_the_batch_change_nothing(folder):
    trainer = trainer_for(folder, score_clip=None, whiten_advantages=False)
    with torch.no_grad():
        for parameter in trainer.engine.base.decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
    generator = torch.Generator().manual_seed(3)
    responses = [torch.randint(4, 60, (n,), generator=generator) for n in (1, 7, 2, 12, 4, 3)]
    prompts, scores = queries(6), torch.arange(6.0)
    with torch.no_grad():
        whole = trainer.experience(given(trainer, responses, prompts), scores)
        for order in ([5, 3, 1, 0, 2, 4], [0], [2, 3], [4, 0]):
            part = trainer.experience(
                given(trainer, [responses[i] for i in order], [prompts[i] for i in order]), scores[order]
            )
            longest = part.mask.shape[1]
            for name in ("old_logprobs", "ref_logprobs", "kl", "rewards", "advantages", "returns"):
                expected = getattr(whole, name)[order, :longest] * part.mask
                torch.testing.assert_close(getattr(part, name), expected, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["k1", "k3", "full"])
def test_kl_penalties_agree_with_the_distributions(folder, kind):
    trainer = trainer_for(folder, kl_penalty=kind)
    rollout = trainer.rollout(queries(6), range(6), 8)
    with torch.no_grad():
        for parameter in trainer.engine.base.decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
        rollout.logprobs = rollout.hidden = None
        experience = trainer.experience(rollout, rewarded(rollout))
        for row in (0, 4):
            ids = rollout.response_ids[row]
            inputs = torch.cat([torch.tensor([0]), ids[:-1]])[None]
            peft = trainer.policy.pretrained_model
            distributions = [peft(input_ids=rollout.query_ids[row][None], decoder_input_ids=inputs).logits]
            with peft.disable_adapter():
                distributions.append(peft(input_ids=rollout.query_ids[row][None], decoder_input_ids=inputs).logits)
            new, ref = (logits[0].double().log_softmax(-1) for logits in distributions)
            ratio = (new - ref).gather(1, ids[:, None])[:, 0]
            expected = {"k1": ratio, "k3": torch.exp(-ratio) - 1 + ratio, "full": (new.exp() * (new - ref)).sum(-1)}
            torch.testing.assert_close(experience.kl[row, : len(ids)].double(), expected[kind], atol=1e-5, rtol=1e-4)


def test_scores_are_normalized_from_the_first_batch_on_where_stock_trl_crashes(folder):
    stock = stock_trainer(folder, use_score_scaling=True, use_score_norm=True)
    responses = [torch.tensor([0, 5 + i, 7, 1]) for i in range(6)]
    with pytest.raises(AttributeError):
        stock.step(queries(6), responses, [torch.tensor(float(i)) for i in range(6)])
    trainer = trainer_for(folder, score_normalize=True, score_scale=True)
    rollout = trainer.rollout(queries(6), range(6), 8)
    assert "skipped" not in trainer.update(rollout, rewarded(rollout) + 100)


def test_a_rollout_that_varies_less_than_usual_stays_quiet(folder):
    """The usual variance keeps three quarters of itself: 1, then 3/4 + 1/400 of it, then 3/4 of that + 1/400."""
    trainer, forgetful = trainer_for(folder, whiten_memory=0.75), trainer_for(folder, whiten_memory=0.0)
    mask = torch.ones(4, 2, dtype=torch.bool)
    loud = torch.tensor([[2.0, -2.0]] * 4)
    first, second, third = (whitened(trainer, loud * scale, mask) for scale in (1.0, 0.1, 0.1))
    assert float(second[0, 0] / first[0, 0]) == pytest.approx(0.1 / math.sqrt(0.7525), rel=1e-5)
    assert float(third[0, 0] / first[0, 0]) == pytest.approx(0.1 / math.sqrt(0.75 * 0.7525 + 0.0025), rel=1e-5)
    for scale in (1.0, 0.1):
        torch.testing.assert_close(whitened(forgetful, loud * scale, mask), first)


def test_beyond_the_end_of_a_response_the_log_probability_is_0(folder):
    trainer = trainer_for(folder)
    rollout = given(trainer, [torch.tensor(ids) for ids in ([5, 6, 1], [7, 1], [5, 6, 7, 8, 9, 1], [1])])
    logprobs, _ = forced(trainer.engine, rollout, rollout.encoded.select, microbatch_size=2)
    mask = response_mask(rollout.lengths)
    assert mask.sum() == 12 and logprobs.shape == mask.shape
    assert bool((logprobs[~mask] == 0).all()) and bool((logprobs[mask] < 0).all())
