"""The trainer, on models of a few thousand weights: each test fails on stock TRL or on a mistake planted in it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trl

import config
from detox.model import loading, policy, tokenizers
from detox.ppo.trainer import Rollout, Seq2SeqPPOConfig, Seq2SeqPPOTrainer, TrainingError
from detox.stage.parallel import ALONE
from tests import threads, tiny

PPO = config.PPO(
    updates=4,
    batch_size=6,
    minibatch_size=3,
    ppo_epochs=2,
    learning_rate=1e-2,
    lora_r=4,
    advantages="gae",
    value_trust=False,
    value_refit=0,
    schedule="constant",
    unfinished_penalty=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.t5(tmp_path_factory.mktemp("models") / "t5")


def trainer_for(folder, engine="hf", dropout=0.0, ref_model=None, **changes):
    settings = replace(PPO, **changes)
    start = loading.load_summarizer(str(folder))
    if dropout:
        for module in start.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
    made = policy.make_policy(start, settings)
    ppo = Seq2SeqPPOConfig.from_settings(settings, seed=0, engine=engine, cpu=True)
    return Seq2SeqPPOTrainer(ppo, made, ref_model, tokenizers.load_tokenizer(str(folder)))


def stock_trainer(folder, **options):
    start = loading.load_summarizer(str(folder))
    made = policy.make_policy(start, PPO)
    ppo = trl.PPOConfig(
        batch_size=6, mini_batch_size=3, ppo_epochs=1, learning_rate=1e-2, accelerator_kwargs={"cpu": True}, **options
    )
    return trl.PPOTrainer(ppo, made, None, tokenizers.load_tokenizer(str(folder)))


def queries(count, seed=0, longest=20):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 60, (3 + (7 * i + seed) % (longest - 3),), generator=generator) for i in range(count)]


def rewarded(rollout):
    """Even ids are good."""
    return torch.tensor([float((ids % 2 == 0).float().mean()) * 4 for ids in rollout.response_ids])


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def given(trainer, responses, prompts=None):
    """Return a rollout of responses that were not sampled here."""
    prompts = prompts or queries(len(responses))
    with torch.no_grad():
        encoded = trainer.engine.encode(prompts)
    finished = torch.tensor([int(ids[-1]) == 1 for ids in responses])
    return Rollout(prompts, responses, finished, encoded)


# --- masks ---


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


# --- reference and ratio ---


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


def test_a_given_reference_is_used_where_stock_trl_ignores_it(folder):
    same = trl.AutoModelForSeq2SeqLMWithValueHead.from_pretrained(loading.load_summarizer(str(folder)))
    trainer = trainer_for(folder, ref_model=same)
    assert trainer.reference[0] is not trainer.engine
    rollout = trainer.rollout(queries(6), range(6), 8)
    assert trainer.update(rollout, rewarded(rollout))["objective/ref_kl"] == pytest.approx(0, abs=1e-6)


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


# --- optimization ---


def test_microbatches_give_the_gradient_of_the_whole_minibatch(folder):
    results = []
    for microbatch in (None, 1):
        trainer = trainer_for(folder, minibatch_size=6, microbatch_size=microbatch)
        rollout = trainer.rollout(queries(6), range(6), 10)
        trainer.update(rollout, rewarded(rollout))
        results.append(weights(trainer))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_out_of_memory_halves_the_microbatch_and_changes_no_result(folder, capsys):
    plain, short = trainer_for(folder, minibatch_size=6), trainer_for(folder, minibatch_size=6)
    whole = short.engine.logprobs

    def only_two_fit(encoded, responses, **options):
        if torch.is_grad_enabled() and len(responses) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(encoded, responses, **options)

    short.engine.logprobs = only_two_fit
    for trainer in (plain, short):
        rollout = trainer.rollout(queries(6), range(6), 10)
        trainer.update(rollout, rewarded(rollout))
    assert short.microbatch_size == 2
    assert "microbatches of 2" in capsys.readouterr().err
    torch.testing.assert_close(weights(plain), weights(short), atol=1e-5, rtol=1e-4)


def test_an_error_that_is_not_lack_of_memory_is_not_swallowed(folder):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 6)

    def broken(*arguments, **options):
        raise RuntimeError("shapes do not match")

    trainer.engine.value = broken
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.update(rollout, rewarded(rollout))


def test_every_gradient_is_clipped_where_stock_trl_clips_the_first(folder):
    limit, rate, steps = 1e-3, 1.0, 4
    trainer = trainer_for(folder, max_grad_norm=limit)
    trainer.optimizer = torch.optim.SGD(trainer.parameters, lr=rate)
    trainer.base_rates = [rate]
    before = weights(trainer)
    rollout = trainer.rollout(queries(6), range(6), 8)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert metrics["ppo/grad_norm"] > 10 * limit, "there was something to clip"
    moved = float((weights(trainer) - before).norm())
    assert 0 < moved <= steps * rate * limit * 1.01


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_skip_the_update(folder, bad):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 8)
    before = weights(trainer)
    metrics = trainer.update(rollout, torch.tensor([1.0, bad, 0, 0, 0, 0]))
    assert "skipped" in metrics and trainer.skipped_in_a_row == 1
    assert torch.equal(before, weights(trainer))
    trainer.update(rollout, rewarded(rollout))
    assert trainer.skipped_in_a_row == 0


def test_a_gradient_that_is_not_finite_undoes_the_whole_update(folder):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 8)
    trainer.update(rollout, rewarded(rollout))
    before, optimizer = weights(trainer), copy.deepcopy(trainer.optimizer.state_dict())
    calls = []
    whole = trainer._backward

    def poisoned(*arguments, **options):
        stats = whole(*arguments, **options)
        calls.append(1)
        if len(calls) == 3:
            trainer.parameters[0].grad.fill_(math.nan)
        return stats

    trainer._backward = poisoned
    metrics = trainer.update(trainer.rollout(queries(6), range(6, 12), 8), rewarded(rollout))
    assert "skipped" in metrics
    assert torch.equal(before, weights(trainer))
    for index, entry in trainer.optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer["state"][index][name])), name


def test_the_value_head_reads_but_does_not_move_the_policy(folder):
    for detached in (True, False):
        trainer = trainer_for(folder, value_reads_detached=detached, vf_coef=10.0)
        with torch.no_grad():
            trainer.policy.v_head.summary.weight.add_(0.1)
        rollout = trainer.rollout(queries(6), range(6), 8)
        with torch.no_grad():
            experience = trainer.experience(rollout, rewarded(rollout))
        experience.advantages.zero_()
        trainer.optimizer.zero_grad()
        trainer._backward(rollout, experience, list(range(6)), int(experience.mask.sum()), entropy=False)
        lora = [p.grad for p in trainer.optimizer.param_groups[0]["params"] if p.grad is not None]
        moved = max((float(grad.abs().max()) for grad in lora), default=0.0)
        assert (moved == 0.0) == detached
        assert float(trainer.policy.v_head.summary.weight.grad.abs().max()) > 0


def test_value_warm_up_explains_returns_and_leaves_the_policy(folder):
    trainer = trainer_for(folder)
    lora = [p.detach().clone() for p in trainer.optimizer.param_groups[0]["params"]]
    assert float(trainer.policy.v_head.summary.weight.detach().abs().sum()) == 0, "the value head starts at zero"
    rollouts = [trainer.rollout(queries(6, seed), range(6 * seed, 6 * seed + 6), 8) for seed in range(4)]
    explained = trainer.warm_up_values(rollouts, [rewarded(rollout) for rollout in rollouts])
    assert 0 <= explained <= 1
    hidden, scores = rollouts[0].hidden, rewarded(rollouts[0])
    errors = [
        (trainer.engine.value(hidden) - target).square().mean()
        for target in (scores.repeat_interleave(torch.tensor(rollouts[0].lengths)), 100.0)
    ]
    assert errors[0] < 1 < errors[1]
    assert all(torch.equal(a, b) for a, b in zip(lora, trainer.optimizer.param_groups[0]["params"]))


def test_value_warm_up_shapes_scores_as_the_updates_will(folder):
    """Scores of mean 8: normalized, the values start near the returns, whose mean is 0."""
    trainer = trainer_for(folder, score_normalize=True, score_scale=True)
    rollouts = [trainer.rollout(queries(6, seed), range(6 * seed, 6 * seed + 6), 8) for seed in range(4)]
    trainer.warm_up_values(rollouts, [rewarded(rollout) + 8 for rollout in rollouts])
    rollout = trainer.rollout(queries(6, 9), range(60, 66), 8)
    with torch.no_grad():
        experience = trainer.experience(rollout, rewarded(rollout) + 8)
    assert trainer.score_moments.count == 30
    gap = experience.old_values[experience.mask].mean() - experience.returns[experience.mask].mean()
    assert abs(float(gap)) < 1


def test_a_critic_is_judged_by_what_it_has_not_seen(folder):
    trainer = trainer_for(folder, value_trust=True, value_refit=4)
    fitted, judged = [], []
    plain_fit, plain_judge = trainer.critic.learn, trainer.critic.judge
    trainer.critic.learn = lambda lessons: (fitted.append("learn"), plain_fit(lessons))[1]
    trainer.critic.judge = lambda *a: (fitted.append("judge"), judged.append(a), plain_judge(*a))[2]
    for update in range(6):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 8)
        metrics = trainer.update(rollout, rewarded(rollout))
        assert 0 <= metrics["ppo/val/trust"] <= 1
    assert fitted == ["judge", "learn"] * 6
    for lesson, (_, returns, mask) in zip(trainer.critic.lessons, judged[2:], strict=True):
        assert torch.equal(lesson.returns, returns[mask]), "it is judged by the returns that it learns of then"
    assert len(trainer.critic.lessons) == 4
    trainer.critic.record.append(torch.tensor([0.5, 1.0]) * 1e9)
    rollout = trainer.rollout(queries(6, 7), range(42, 48), 8)
    assert trainer.update(rollout, rewarded(rollout))["ppo/val/trust"] == pytest.approx(0.5), "what this update used"


def test_a_rollout_that_varies_less_than_usual_stays_quiet(folder):
    """The usual variance keeps three quarters of itself: 1, then 3/4 + 1/400 of it, then 3/4 of that + 1/400."""
    trainer, forgetful = trainer_for(folder, whiten_memory=0.75), trainer_for(folder, whiten_memory=0.0)
    mask = torch.ones(4, 2, dtype=torch.bool)
    loud = torch.tensor([[2.0, -2.0]] * 4)
    first, second, third = (trainer._whitened(loud * scale, mask) for scale in (1.0, 0.1, 0.1))
    assert float(second[0, 0] / first[0, 0]) == pytest.approx(0.1 / math.sqrt(0.7525), rel=1e-5)
    assert float(third[0, 0] / first[0, 0]) == pytest.approx(0.1 / math.sqrt(0.75 * 0.7525 + 0.0025), rel=1e-5)
    for scale in (1.0, 0.1):
        torch.testing.assert_close(forgetful._whitened(loud * scale, mask), first)


def test_without_a_critic_the_value_head_stays_as_it_is(folder):
    trainer = trainer_for(folder, advantages="batch")
    head = copy.deepcopy(trainer.policy.v_head.state_dict())
    rollout = trainer.rollout(queries(6), range(6), 8)
    before = weights(trainer)
    metrics = trainer.update(rollout, rewarded(rollout))
    assert math.isnan(metrics["ppo/val/explained_variance"]) and not torch.equal(before, weights(trainer))
    assert all(torch.equal(value, head[name]) for name, value in trainer.policy.v_head.state_dict().items())


# --- several samples of a dialogue ---


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


# --- the size of a step ---


def kl_moved(trainer, rollout, old):
    """Nats a token, exactly over the vocabulary, of the policy as it is from the one that sampled."""
    with torch.no_grad():
        new = trainer.engine.logprobs(rollout.encoded, rollout.response_ids).logprobs
        log_ratio = (new - old).double()
    mask = old != 0
    return float(((torch.expm1(log_ratio) - log_ratio) * mask).sum() / mask.sum())


@pytest.mark.parametrize("engine", ["hf", "packed"])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 1.0])
def test_a_step_finds_its_size_from_any_learning_rate(folder, engine, rate):
    """Never past twice the wanted KL, and near it from the second update on."""
    settings = dict(schedule="kl", step_kl=0.01, learning_rate=rate, updates=8, batch_size=24, minibatch_size=6)
    trainer = trainer_for(folder, engine, advantages="batch", ppo_epochs=4, **settings)
    found = []
    for update in range(8):
        rollout = trainer.rollout(queries(24, update), range(24 * update, 24 * update + 24), 8)
        old = rollout.logprobs.clone()
        metrics = trainer.update(rollout, rewarded(rollout))
        wanted = 0.01 * min(1, 2 * (1 - update / 8)) ** 2
        assert metrics["ppo/policy/step_kl_target"] == pytest.approx(wanted)
        found.append(kl_moved(trainer, rollout, old) / wanted)
    assert max(found) < 2, found
    assert min(found[1:]) > 0.3, found


def test_an_update_of_one_step_finds_its_size(folder):
    trainer = trainer_for(
        folder, advantages="batch", schedule="kl", step_kl=0.01, learning_rate=1.0, ppo_epochs=1, minibatch_size=6
    )
    for update in range(2):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 8)
        old = rollout.logprobs.clone()
        trainer.update(rollout, rewarded(rollout))
        assert kl_moved(trainer, rollout, old) < 0.02


def test_early_stop_ends_the_passes(folder):
    steps = []
    for limit in (None, 1e-9):
        trainer = trainer_for(folder, ppo_epochs=4, early_stop_kl=limit)
        counted = trainer.optimizer.step
        calls = []
        trainer.optimizer.step = lambda *a, counted=counted, calls=calls, **o: (calls.append(1), counted(*a, **o))
        rollout = trainer.rollout(queries(6), range(6), 8)
        trainer.update(rollout, rewarded(rollout))
        steps.append(len(calls))
    assert steps == [8, 2], "one pass of two minibatches instead of four passes"


def test_learning_rates_decay_linearly(folder):
    trainer = trainer_for(folder, schedule="linear", value_learning_rate=0.1)
    seen = []
    for update in range(4):
        rollout = trainer.rollout(queries(6, update), range(6 * update, 6 * update + 6), 6)
        trainer.update(rollout, rewarded(rollout))
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
    np.testing.assert_allclose(seen, [[1e-2 * left, 0.1 * left] for left in (1, 0.75, 0.5, 0.25)])
    assert all(group["eps"] == 1e-5 for group in trainer.optimizer.param_groups)


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


# --- TRL's calls ---


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


def test_out_of_memory_in_sampling_halves_the_prompts_and_changes_no_sample(folder, capsys):
    plain, short = trainer_for(folder), trainer_for(folder)
    whole, sizes = short.engine.generate, []

    def only_two_fit(encoded, *arguments, **options):
        sizes.append(len(encoded))
        if len(encoded) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(encoded, *arguments, **options)

    short.engine.generate = only_two_fit
    one, other = (trainer.rollout(queries(5), range(5), 10) for trainer in (plain, short))
    assert sizes == [5, 3, 2, 2, 1] and "sampling for 2 prompts" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(one.response_ids, other.response_ids, strict=True))
    assert torch.equal(one.finished, other.finished) and one.encoded.lengths == other.encoded.lengths
    for name in ("logprobs", "hidden"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-4)
    sizes.clear()
    short.rollout(queries(4), range(4), 10)
    assert sizes == [2, 2], "what fits is remembered"


@pytest.mark.parametrize("where", ["generate", "logprobs"])
def test_out_of_memory_with_one_example_is_told(folder, where):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 6)

    def never(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory")

    setattr(trainer.engine, where, never)
    with pytest.raises(TrainingError, match="out of memory with one example at a time"):
        trainer.rollout(queries(6), range(6), 6)
        trainer.update(rollout, rewarded(rollout))
