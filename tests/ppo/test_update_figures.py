"""What an update reports and reads, where it is easily wrong unseen: ragged responses, ratios, whose encoder it is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from trl import AutoModelForSeq2SeqLMWithValueHead

from detox.model import loading
from detox.ppo import update
from detox.ppo.experience import policy_logprobs
from detox.ppo.teacher_forcing import forced
from tests import tiny
from tests.ppo.trainers import given, queries, trainer_for, weights

RAGGED = [
    torch.tensor(ids) for ids in ([5, 6, 7, 8, 1], [9, 1], [10, 11, 12, 1], [1], [13, 14, 15, 16, 17, 1], [18, 1])
]
SCORES = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 3.0])


def moved(trainer):
    """Take the policy away from its reference."""
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.add_(0.02 * torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape).float()))
    trainer.updates_done = 1  # the first update checks that nothing has moved
    return trainer


def test_kl_of_ragged_responses_is_the_sum_over_what_counts(folder):
    trainer = moved(trainer_for(folder))
    rollout = given(trainer, RAGGED)
    seen = trainer.experience(rollout, SCORES)
    k1 = k3 = 0.0
    for ours, theirs, ids in zip(seen.old_logprobs, seen.ref_logprobs, RAGGED):
        for one, other in zip(ours[: len(ids)].tolist(), theirs[: len(ids)].tolist()):
            k1 += (one - other) / len(RAGGED)
            k3 += (math.exp(other - one) - 1 + one - other) / len(RAGGED)
    assert k3 > 1e-3 and abs(k1) > 1e-3
    metrics = trainer.update(rollout, SCORES)
    assert metrics["objective/ref_kl"] == pytest.approx(k3, rel=1e-4)
    assert metrics["objective/ref_kl_k1"] == pytest.approx(k1, rel=1e-4, abs=1e-6)
    assert metrics["objective/score_mean"] == pytest.approx(SCORES.mean().item())
    assert metrics["objective/score_std"] == pytest.approx(SCORES.std(correction=0).item()), "of the population"
    assert metrics["tokens/response_mean"] == pytest.approx(sum(map(len, RAGGED)) / len(RAGGED))


def test_the_first_ratio_is_told_as_a_ratio(folder):
    """Log-probabilities of sampling that are a tenth too low make the policy look 1.105 times as likely."""
    trainer = moved(trainer_for(folder))
    rollout = given(trainer, RAGGED)
    _, hidden = policy_logprobs(trainer, rollout)
    logprobs, _ = forced(trainer.engine, rollout, rollout.encoded.select, trainer.microbatch_size)
    mask = torch.arange(logprobs.shape[1]) < torch.tensor(rollout.lengths)[:, None]
    rollout.logprobs, rollout.hidden = torch.where(mask, logprobs.detach() - 0.1, 0.0), hidden.detach()
    trainer.rollout_logprobs_serve = True
    assert trainer.update(rollout, SCORES)["ppo/ratio_first"] == pytest.approx(math.exp(0.1), abs=1e-3)


def test_figures_of_a_minibatch_are_means_over_its_tokens_however_it_is_cut(folder):
    """Log-probabilities of sampling that differ by known amounts, in microbatches of two."""
    trainer = moved(trainer_for(folder, minibatch_size=6, microbatch_size=2))
    rollout = given(trainer, RAGGED)
    experience = trainer.experience(rollout, SCORES)
    apart = torch.tensor([0.1, -0.05, 0.02])[torch.arange(experience.old_logprobs.numel()) % 3]
    apart = apart.view_as(experience.old_logprobs)
    changed = replace(experience, old_logprobs=experience.old_logprobs + apart)
    found = update.accumulate(trainer, rollout, changed, list(range(6)), True)
    moves = [x for row, ids in zip(apart.tolist(), RAGGED) for x in row[: len(ids)]]
    values = [x for row, ids in zip(experience.old_values.tolist(), RAGGED) for x in row[: len(ids)]]
    tokens = sum(map(len, RAGGED))
    assert float(found["policy_kl"]) == pytest.approx(math.fsum(moves) / tokens, abs=1e-5)
    assert float(found["approx_kl"]) == pytest.approx(math.fsum(math.expm1(-x) + x for x in moves) / tokens, abs=1e-5)
    assert float(found["ratio_mean"]) == pytest.approx(math.fsum(math.exp(-x) for x in moves) / tokens, abs=1e-5)
    assert float(found["value_mean"]) == pytest.approx(math.fsum(values) / tokens, abs=1e-5)


def plain_logprobs(model, prompts, responses):
    """Return log-probabilities as transformers gives them, one example at a time."""
    found = []
    for prompt, response in zip(prompts, responses):
        with torch.no_grad():
            logits = model(input_ids=prompt[None], labels=response[None]).logits[0]
        found.append(logits.log_softmax(-1).gather(1, response[:, None]).squeeze(1))
    return found


@pytest.mark.parametrize("engine", ["hf", "packed"])
def test_the_policy_reads_prompts_with_its_own_encoder_and_learns_there(folder, engine):
    trainer = moved(trainer_for(folder, engine=engine, lora_scope="all"))
    rollout = trainer.rollout(queries(6), range(6), 6)
    expected = plain_logprobs(trainer.model.pretrained_model, rollout.query_ids, rollout.response_ids)
    for row, wanted in zip(rollout.logprobs, expected):
        torch.testing.assert_close(row[: len(wanted)], wanted, atol=1e-4, rtol=1e-4)
    adapters = [p for name, p in trainer.model.named_parameters() if ".encoder." in name and p.requires_grad]
    before = [parameter.detach().clone() for parameter in adapters]
    trainer.update(rollout, SCORES)
    assert adapters and not any(torch.equal(old, new) for old, new in zip(before, adapters))


@pytest.mark.parametrize("engine", ["hf", "packed"])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_the_reference_reads_prompts_with_its_own_encoder(folder, tmp_path, engine, other, scope):
    """Whether it is the policy without its adapters, which may be in the encoder too, or another model."""
    path = tiny.t5(tmp_path / "other", seed=5) if other else folder
    reference = (
        AutoModelForSeq2SeqLMWithValueHead.from_pretrained(loading.load_summarizer(str(path))) if other else None
    )
    trainer = moved(trainer_for(folder, engine=engine, ref_model=reference, lora_scope=scope))
    prompts = queries(6)
    expected = plain_logprobs(loading.load_summarizer(str(path)), prompts, RAGGED)
    seen = trainer.experience(given(trainer, RAGGED, prompts), SCORES)
    for row, wanted in zip(seen.ref_logprobs, expected):
        torch.testing.assert_close(row[: len(wanted)], wanted, atol=1e-4, rtol=1e-4)
    assert weights(trainer).isfinite().all()
