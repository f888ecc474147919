"""The trainer as a whole: what it refuses, what it learns, and TRL's calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trl

from detox.model import loading, policy, tokenizers
from detox.ppo.checks import TrainingError
from detox.ppo.ppo_config import Seq2SeqPPOConfig
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.stage.parallel import ALONE
from tests import threads, tiny
from tests.ppo.trainers import PPO, given, queries, rewarded, stock_trainer, trainer_for, weights


def test_a_response_of_eos_alone_is_learned_from_where_stock_trl_fails(folder):
    eos, other = torch.tensor([1]), torch.tensor([9])
    stock = stock_trainer(folder)
    with pytest.raises(IndexError):
        stock.step(queries(6), [torch.tensor([0, 1])] * 6, [torch.tensor(1.0)] * 6)

    trainer = trainer_for(folder)
    responses = [eos, other, eos, other, eos, other]
    rollout = given(trainer, responses)
    before = trainer.engine.logprobs(rollout.encoded, responses).logprobs.detach()
    trainer.update(rollout, torch.tensor([3.0, 0.0] * 3))
    after = trainer.engine.logprobs(rollout.encoded, responses).logprobs.detach()
    assert bool((after[::2] > before[::2]).all()), "the rewarded first and only token became more likely"
    assert bool((after[1::2] < before[1::2]).all())


@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_at_the_first_update_kl_is_0_and_ratio_is_1(folder, scope):
    trainer = trainer_for(folder, lora_scope=scope)
    rollout = trainer.rollout(queries(6), range(6), 10)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert metrics["objective/ref_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["ppo/ratio_first"] == pytest.approx(1, abs=1e-5)
    assert trainer.rollout_logprobs_serve, "those of sampling are those of teacher forcing in float32"
    rollout = trainer.rollout(queries(6, seed=1), range(6, 12), 10)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert metrics["objective/ref_kl"] > 1e-4, "after an update the policy has moved"
    assert metrics["ppo/ratio_first"] == pytest.approx(1, abs=1e-4)


def test_a_reference_that_is_not_the_start_stops_training(folder, tmp_path):
    other = loading.load_summarizer(str(tiny.t5(tmp_path / "other", seed=5)))
    frozen = trl.AutoModelForSeq2SeqLMWithValueHead.from_pretrained(other)
    trainer = trainer_for(folder, ref_model=frozen)
    rollout = trainer.rollout(queries(6), range(6), 8)
    with pytest.raises(TrainingError, match="reference"):
        trainer.update(rollout, rewarded(rollout))


def test_the_first_update_that_is_not_skipped_is_the_one_that_is_checked(folder, tmp_path):
    other = loading.load_summarizer(str(tiny.t5(tmp_path / "other", seed=5)))
    frozen = trl.AutoModelForSeq2SeqLMWithValueHead.from_pretrained(other)
    trainer = trainer_for(folder, ref_model=frozen)
    rollout = trainer.rollout(queries(6), range(6), 8)
    assert "skipped" in trainer.update(rollout, torch.full((6,), torch.nan))
    with pytest.raises(TrainingError, match="reference"):
        trainer.update(rollout, rewarded(rollout))


@pytest.mark.parametrize("options", [{"value_refit": 4}, {"advantages": "batch"}])
def test_the_total_loss_is_what_was_minimized(folder, options):
    trainer = trainer_for(folder, **options)
    prompts = queries(6)
    stats = trainer.step(
        prompts, trainer.generate(prompts, max_new_tokens=8), [torch.tensor(float(i)) for i in range(6)]
    )
    assert stats["ppo/loss/total"] == stats["ppo/loss/policy"]


def test_a_given_reference_is_used_where_stock_trl_ignores_it(folder):
    same = trl.AutoModelForSeq2SeqLMWithValueHead.from_pretrained(loading.load_summarizer(str(folder)))
    trainer = trainer_for(folder, ref_model=same)
    assert trainer.reference[0] is not trainer.engine
    rollout = trainer.rollout(queries(6), range(6), 8)
    assert trainer.update(rollout, rewarded(rollout))["objective/ref_kl"] == pytest.approx(0, abs=1e-6)


def test_a_reference_that_would_be_ignored_is_refused(folder):
    """Bare, without TRL's wrapper, it was once passed over for the policy without its adapter."""
    bare = loading.load_summarizer(str(folder))
    with pytest.raises(ValueError, match="ref_model is a T5ForConditionalGeneration"):
        trainer_for(folder, ref_model=bare)


def test_dropout_that_is_switched_on_stops_training(folder):
    trainer = trainer_for(folder, dropout=0.3)
    rollout = trainer.rollout(queries(6), range(6), 8)
    plain = trainer.engine.decode

    def with_dropout(encoded, responses, *, reference=False):
        trainer.engine.base.train(torch.is_grad_enabled())
        return plain(encoded, responses, reference=reference)

    trainer.engine.decode = with_dropout
    with pytest.raises(TrainingError, match="ratio"):
        trainer.update(rollout, rewarded(rollout))


def test_nothing_runs_with_dropout_where_stock_trl_samples_with_it(folder):
    stock = stock_trainer(folder)
    responses = [torch.tensor([0, 5 + i, 7, 1]) for i in range(6)]
    stock.step(queries(6), responses, [torch.tensor(float(i)) for i in range(6)])
    assert stock.model.training, "stock TRL leaves the model in train mode, so that generate drops out"

    trainer = trainer_for(folder, dropout=0.5)
    for _ in range(2):
        rollout = trainer.rollout(queries(6), range(6), 8)
        trainer.update(rollout, rewarded(rollout))
        assert not any(module.training for module in trainer.policy.modules())
    again = [trainer.rollout(queries(6), range(6), 8) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(again[0].response_ids, again[1].response_ids))
    assert not any(isinstance(module, torch.nn.Dropout) for module in trainer.policy.v_head.modules())


@pytest.mark.parametrize("engine", ["hf", "packed"])
@pytest.mark.parametrize("scope", ["decoder", "all"])
def test_samples_of_a_dialogue_share_its_encoding(folder, monkeypatch, engine, scope):
    """One encoding for its samples, and what is learned is what separate encodings give."""
    results = []
    for shared in (True, False):
        trainer = trainer_for(folder, engine, advantages="rloo", samples_per_dialogue=3, lora_scope=scope, ppo_epochs=1)
        encode, sizes = trainer.engine.encode, []
        monkeypatch.setattr(
            trainer.engine,
            "encode",
            lambda q, encode=encode, sizes=sizes, **o: (sizes.append(len(q)), encode(q, **o))[1],
        )
        prompts = [query for query in queries(2) for _ in range(3)]
        rollout = trainer.rollout(prompts if shared else [query.clone() for query in prompts], range(6), 8)
        assert sizes == [2 if shared else 6]
        assert len({tuple(ids.tolist()) for ids in rollout.response_ids}) == 6, "each sample has numbers of its own"
        trainer.update(rollout, rewarded(rollout))
        results.append((rollout.response_ids, weights(trainer)))
    assert all(torch.equal(one, other) for one, other in zip(results[0][0], results[1][0], strict=True))
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["batch", "gae", "rloo", "grpo", "dr-grpo"])
def test_two_processes_learn_what_one_learns_by_every_estimator(folder, estimator):
    """Samples of a dialogue may lie with different processes."""
    settings = replace(
        PPO, advantages=estimator, value_trust=True, value_refit=2, samples_per_dialogue=2, schedule="kl", step_kl=0.02
    )
    prompts = [[query for query in queries(3, update) for _ in range(2)] for update in range(3)]

    def trainer(count):
        made = policy.make_policy(loading.load_summarizer(str(folder)), settings)
        ppo = Seq2SeqPPOConfig.from_settings(settings, seed=0, engine="packed", cpu=True, processes=count)
        return Seq2SeqPPOTrainer(ppo, made, None, tokenizers.load_tokenizer(str(folder)))

    def learn(processes, trainer):
        trainer.processes, trainer.minibatch_size = processes, settings.minibatch_size
        mine = processes.share(6)
        for update in range(3):
            rollout = trainer.rollout(prompts[update][mine], list(range(6 * update, 6 * update + 6))[mine], 8)
            metrics = trainer.update(rollout, rewarded(rollout))
        return weights(trainer), metrics

    settings = replace(settings, minibatch_size=6)
    alone, its_metrics = learn(ALONE, trainer(1))
    trainers = [trainer(2), trainer(2)]
    results = threads.run(2, lambda processes: learn(processes, trainers[processes.rank]))
    for found, metrics in results:
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)
        for name in ("ppo/policy/step_kl", "ppo/learning_rate", "objective/score_mean", "ppo/val/trust"):
            assert metrics[name] == pytest.approx(its_metrics[name], rel=1e-3, abs=1e-6), name


def test_step_reports_what_trl_reports(folder):
    stock, trainer = stock_trainer(folder), trainer_for(folder)
    prompts = queries(6)
    responses = trainer.generate(prompts, max_new_tokens=8, do_sample=True, seed=1)
    assert all(int(response[0]) == 0 for response in responses), "as TRL's, they begin with the decoder start token"
    scores = [torch.tensor(float(i)) for i in range(6)]
    expected = stock.step(prompts, [torch.cat([r, torch.tensor([5, 1])]) for r in responses], scores)
    found = trainer.step(prompts, responses, scores)
    assert expected.keys() - found.keys() == {
        "time/ppo/compute_rewards",
        "time/ppo/compute_advantages",
        "time/ppo/calc_stats",
    }
    assert found["ppo/mean_scores"] == pytest.approx(expected["ppo/mean_scores"])
    assert found["ppo/std_scores"] == pytest.approx(expected["ppo/std_scores"])
    assert found["tokens/queries_len_mean"] == expected["tokens/queries_len_mean"]


def test_step_refuses_what_it_cannot_learn_from(folder):
    trainer = trainer_for(folder)
    scores = [torch.tensor(1.0)] * 6
    with pytest.raises(ValueError, match="decoder start"):
        trainer.step(queries(6), [torch.tensor([5, 1])] * 6, scores)
    with pytest.raises(ValueError, match="Batch size"):
        trainer.step(queries(5), [torch.tensor([0, 5, 1])] * 5, scores[:5])


def test_generate_gives_policy_and_reference(folder):
    trainer = trainer_for(folder)
    prompts = queries(3)
    policy_ids, reference_ids = trainer.generate(prompts, max_new_tokens=6, generate_ref_response=True)
    assert all(torch.equal(a, b) for a, b in zip(policy_ids, reference_ids)), "LoRA's B is zero"
    with torch.no_grad():
        for parameter in trainer.engine.base.decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    moved, still = trainer.generate(prompts, max_new_tokens=6, generate_ref_response=True)
    assert all(torch.equal(a, b) for a, b in zip(still, reference_ids))
    assert any(not torch.equal(a, b) for a, b in zip(moved, reference_ids))
    assert trainer.generate(prompts[0], max_new_tokens=6).shape[0] == 1


def test_generate_samples_by_its_seed_or_by_torchs_generator(folder):
    trainer, prompts = trainer_for(folder), queries(6)

    def drawn(**options):
        return torch.cat(trainer.generate(prompts, max_new_tokens=8, do_sample=True, **options)).tolist()

    assert drawn(seed=5) == drawn(seed=5, batch_size=2) != drawn(seed=6)
    torch.manual_seed(3)
    first, second = drawn(), drawn()
    torch.manual_seed(3)
    assert drawn() == first != second


def test_learning_raises_the_score(folder):
    trainer = trainer_for(folder, batch_size=96, minibatch_size=48, ppo_epochs=4, learning_rate=3e-2, kl_coef=0.02)
    means = []
    for update in range(8):
        rollout = trainer.rollout(queries(96, update), range(96 * update, 96 * update + 96), 4)
        scores = torch.tensor([4 * float((ids < 64).float().mean()) for ids in rollout.response_ids])
        means.append(trainer.update(rollout, scores)["objective/score_mean"])
    assert np.mean(means[-2:]) > np.mean(means[:2]) + 0.2, means
