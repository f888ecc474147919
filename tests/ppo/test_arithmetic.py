"""PPO's arithmetic against TRL 0.11.4's own code, against loops in plain Python, and under any padding."""

import json
import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import core as trl_core
from trl.trainer import ppo_trainer
from trl.trainer import utils as trl_utils

from detox.ppo import arithmetic

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")

GAMMA, LAM, KL_COEF, CLIP, VALUE_CLIP = 0.97, 0.9, 0.3, 0.2, 0.15
GARBAGE = (math.nan, math.inf, -math.inf, 1e30)


def batch(lengths=(5, 1, 7, 3), width=9, padding=0.5, dtype=torch.float64, seed=0):
    """Random numbers at the counted tokens, `padding` elsewhere, right-padded to `width`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    mask = torch.arange(width) < lengths[:, None]

    def tokens(scale):
        counted = scale * torch.randn(len(lengths), 16, generator=generator, dtype=torch.float64)[:, :width]
        return counted.masked_fill(~mask, padding).to(dtype)

    return SimpleNamespace(
        mask=mask,
        scores=2 * torch.randn(len(lengths), generator=generator, dtype=torch.float64).to(dtype),
        old_logprobs=tokens(1.0) - 3,
        ref_logprobs=tokens(1.0) - 3,
        log_ratio=tokens(0.3),
        old_values=tokens(1.0),
        value_change=tokens(0.3),
    )


def experience(data):
    """The chain of a PPO update from scores to losses, with the gradients of the losses."""
    kl = arithmetic.kl_penalty(data.old_logprobs, data.ref_logprobs, "k3")
    rewards = arithmetic.token_rewards(data.scores, kl, data.mask, KL_COEF)
    advantages, returns = arithmetic.gae(rewards, data.old_values, data.mask, GAMMA, LAM)
    whitened = arithmetic.masked_whiten(advantages, data.mask)
    new_logprobs = (data.old_logprobs + data.log_ratio).requires_grad_()
    new_values = (data.old_values + data.value_change).requires_grad_()
    policy, policy_stats = arithmetic.policy_loss(new_logprobs, data.old_logprobs, whitened, data.mask, CLIP)
    value, value_stats = arithmetic.value_loss(new_values, data.old_values, returns, data.mask, VALUE_CLIP)
    (policy + value).backward()
    return dict(
        rewards=rewards,
        advantages=advantages,
        returns=returns,
        whitened=whitened,
        scaled=arithmetic.masked_whiten(advantages, data.mask, shift_mean=False),
        policy=policy.detach(),
        value=value.detach(),
        policy_gradient=new_logprobs.grad,
        value_gradient=new_values.grad,
        mean=arithmetic.masked_mean(advantages, data.mask),
        variance=arithmetic.masked_var(advantages, data.mask),
        explained=arithmetic.explained_variance(data.old_values, returns, data.mask),
        **{f"policy/{name}": x for name, x in policy_stats.items()},
        **{f"value/{name}": x for name, x in value_stats.items()},
    )


def trl_trainer(**config):
    """TRL's trainer without its constructor: what is compared reads the config and the KL coefficient."""
    trainer = object.__new__(ppo_trainer.PPOTrainer)
    trainer.config = ppo_trainer.PPOConfig(
        batch_size=4,
        mini_batch_size=4,
        gamma=GAMMA,
        lam=LAM,
        cliprange=CLIP,
        cliprange_value=VALUE_CLIP,
        **config,
    )
    trainer.kl_ctl = trl_utils.FixedKLController(KL_COEF)
    return trainer


# --- parity with TRL, where TRL is right ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_statistics_and_whitening_equal_trl(dtype):
    data = batch(dtype=dtype)
    x, mask = data.old_values, data.mask
    torch.testing.assert_close(arithmetic.masked_mean(x, mask), trl_core.masked_mean(x, mask), rtol=1e-5, atol=1e-7)
    for unbiased in (True, False):
        expected = trl_core.masked_var(x, mask, unbiased)
        torch.testing.assert_close(arithmetic.masked_var(x, mask, unbiased), expected, rtol=1e-5, atol=1e-7)
    for shift_mean in (True, False):
        ours = arithmetic.masked_whiten(x, mask, shift_mean)
        expected = trl_core.masked_whiten(x, mask, shift_mean)
        torch.testing.assert_close(ours[mask], expected[mask], rtol=1e-5, atol=1e-6)
        assert ours.dtype == dtype and (ours[~mask] == 0).all()


def test_rewards_equal_trl():
    data = batch()
    trainer = trl_trainer(kl_penalty="kl")
    expected, _, expected_kl = trainer.compute_rewards(
        data.scores, data.old_logprobs, data.ref_logprobs, data.mask.long()
    )
    kl = arithmetic.kl_penalty(data.old_logprobs, data.ref_logprobs, "k1")
    torch.testing.assert_close(kl, expected_kl, rtol=1e-5, atol=1e-9)
    rewards = arithmetic.token_rewards(data.scores, kl, data.mask, KL_COEF)
    torch.testing.assert_close(rewards[data.mask], expected[data.mask], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("width", [7, 9])
def test_advantages_equal_trl(width):
    data = batch(width=width)
    rewards = data.log_ratio
    values, expected, expected_returns = trl_trainer().compute_advantages(data.old_values, rewards, data.mask.long())
    advantages, returns = arithmetic.gae(rewards, data.old_values, data.mask, GAMMA, LAM)
    torch.testing.assert_close(returns[data.mask], expected_returns[data.mask], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(advantages, (expected_returns - values) * data.mask, rtol=1e-5, atol=1e-9)
    whitened = arithmetic.masked_whiten(advantages, data.mask)
    torch.testing.assert_close(whitened[data.mask], expected[data.mask], rtol=1e-5, atol=1e-7)


def test_losses_and_their_gradients_equal_trl():
    data = batch(lengths=(5, 1, 7, 3))
    advantages, returns = data.ref_logprobs + 3, data.log_ratio * 2
    now = data.old_logprobs + data.log_ratio, data.old_values + data.value_change
    ours, theirs = ([x.clone().requires_grad_() for x in now] for _ in range(2))
    policy, policy_stats = arithmetic.policy_loss(ours[0], data.old_logprobs, advantages, data.mask, CLIP)
    value, value_stats = arithmetic.value_loss(ours[1], data.old_values, returns, data.mask, VALUE_CLIP)
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


def test_kl_controllers_equal_trl():
    rng = np.random.default_rng(0)
    pairs = [
        (arithmetic.AdaptiveKLController(0.2, 6.0, 100), trl_utils.AdaptiveKLController(0.2, 6.0, 100)),
        (arithmetic.FixedKLController(0.2), trl_utils.FixedKLController(0.2)),
    ]
    seen = set()
    for kl in [*rng.uniform(-5, 30, 20), *rng.uniform(5, 7, 20), math.inf]:
        for ours, theirs in pairs:
            ours.update(kl, 16)
            theirs.update(kl, 16)
            assert ours.value == pytest.approx(theirs.value, rel=1e-12)
        seen.add(pairs[0][0].value)
    assert len(seen) == 41 and pairs[1][0].value == 0.2


# --- loops in plain Python as the reference ---


def python_rewards(scores, kl, lengths):
    rows = []
    for score, row, length in zip(scores, kl, lengths, strict=True):
        rewards = [-KL_COEF * row[t] for t in range(length)]
        rewards[length - 1] += score
        rows.append(rewards)
    return rows


def python_advantages(rewards, values):
    """Every advantage as its own discounted sum of one-step errors."""
    following = [*values[1:], 0.0]
    deltas = [r + GAMMA * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [sum((GAMMA * LAM) ** (s - t) * deltas[s] for s in range(t, len(deltas))) for t in range(len(deltas))]


def test_the_whole_chain_equals_a_python_loop():
    lengths = (5, 1, 7, 3, 9)
    data = batch(lengths, padding=math.nan)
    rows = {
        name: [row[:n] for row, n in zip(getattr(data, name).tolist(), lengths, strict=True)]
        for name in ("old_logprobs", "ref_logprobs", "log_ratio", "old_values", "value_change")
    }
    pairs = zip(rows["old_logprobs"], rows["ref_logprobs"], strict=True)
    kl = [[math.exp(r - p) - 1 + (p - r) for p, r in zip(*pair, strict=True)] for pair in pairs]
    rewards = python_rewards(data.scores.tolist(), kl, lengths)
    advantages = [python_advantages(*pair) for pair in zip(rewards, rows["old_values"], strict=True)]
    returns = [
        [a + v for a, v in zip(*pair, strict=True)] for pair in zip(advantages, rows["old_values"], strict=False)
    ]
    flat = [a for row in advantages for a in row]
    mean, variance = statistics.fmean(flat), statistics.variance(flat)
    whitened = [[(a - mean) / math.sqrt(variance + 1e-8) for a in row] for row in advantages]

    ratios = [math.exp(d) for row in rows["log_ratio"] for d in row]
    targets = [w for row in whitened for w in row]
    policy = [max(-a * r, -a * min(max(r, 1 - CLIP), 1 + CLIP)) for a, r in zip(targets, ratios, strict=True)]
    moves = [m for row in rows["value_change"] for m in row]
    old = [v for row in rows["old_values"] for v in row]
    goals = [g for row in returns for g in row]
    value = [
        0.5 * max((v + m - g) ** 2, (v + min(max(m, -VALUE_CLIP), VALUE_CLIP) - g) ** 2)
        for v, m, g in zip(old, moves, goals, strict=True)
    ]
    residual = statistics.variance([g - v for g, v in zip(goals, old, strict=True)])

    ours = experience(data)
    tables = {"rewards": rewards, "advantages": advantages, "returns": returns, "whitened": whitened}
    for name, expected in tables.items():
        for row, wanted, length in zip(ours[name], expected, lengths, strict=True):
            assert row[:length].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
            assert (row[length:] == 0).all()
    for name, expected in {
        "policy": statistics.fmean(policy),
        "value": statistics.fmean(value),
        "mean": mean,
        "variance": variance,
        "explained": 1 - residual / statistics.variance(goals),
        "policy/approx_kl": statistics.fmean([r - 1 - math.log(r) for r in ratios]),
        "policy/ratio_mean": statistics.fmean(ratios),
        "policy/ratio_max_deviation": max(abs(r - 1) for r in ratios),
    }.items():
        assert float(ours[name]) == pytest.approx(expected, rel=1e-9), name


def test_a_free_value_loss_is_half_the_squared_error():
    data = batch(padding=math.inf)
    new, returns = data.old_values + data.value_change, data.log_ratio
    loss, stats = arithmetic.value_loss(new, data.old_values, returns, data.mask, None)
    error = statistics.fmean(((new - returns)[data.mask] ** 2).tolist())
    assert float(loss) == pytest.approx(error / 2) and float(stats["error"]) == pytest.approx(error)
    assert stats["clip_fraction"] == 0


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_kl_estimators_are_unbiased(kind):
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    estimates = arithmetic.kl_penalty(policy.log(), reference.log(), kind)
    assert float((policy * estimates).sum()) == pytest.approx(float((policy * (policy / reference).log()).sum()))
    assert (estimates >= 0).all() == (kind == "k3")


def test_an_unknown_kl_estimator_is_an_error():
    with pytest.raises(ValueError, match="'full'"):
        arithmetic.kl_penalty(torch.zeros(1, 1), torch.zeros(1, 1), "full")


def test_approx_kl_is_that_of_old_to_new():
    """Over tokens distributed as the old policy has them: an unbiased estimate, unlike half the square."""
    old, new = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    tokens = [0, 0, 1, 2]  # the old policy's distribution, as a sample
    one = torch.ones(1, 4).double()
    _, stats = arithmetic.policy_loss(new.log()[tokens][None], old.log()[tokens][None], one, one.bool(), CLIP)
    exact = float((old * (old / new).log()).sum())
    assert float(stats["approx_kl"]) == pytest.approx(exact)
    assert statistics.fmean([0.5 * math.log(float(old[t] / new[t])) ** 2 for t in tokens]) != pytest.approx(exact)


# --- deviations from TRL ---


def test_first_token_and_eos_count_where_trl_leaves_the_first_out():
    """TRL's mask of an encoder-decoder starts at 1 and is empty for a response of EOS alone."""
    trainer = trl_trainer()
    trainer.is_encoder_decoder = True
    start, eos = 0, 1
    responses = [torch.tensor([start, 5, 6, eos]), torch.tensor([start, eos])]
    model = torch.nn.Module()
    model.forward = lambda **_: (torch.randn(2, 4, 8), None, torch.zeros(2, 4))
    _, _, _, masks = trainer.batched_forward_pass(
        model,
        queries=[torch.tensor([2, eos])] * 2,
        responses=responses,
        model_inputs=dict(
            input_ids=torch.tensor([[2, eos]] * 2),
            attention_mask=torch.ones(2, 2, dtype=torch.long),
            decoder_input_ids=torch.tensor([[start, 5, 6, eos], [start, eos, start, start]]),
            decoder_attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        ),
    )
    assert masks.tolist() == [[0, 1, 1], [0, 0, 0]]
    kl = torch.full((2, 3), 0.5)
    with pytest.raises(IndexError):
        trainer.compute_rewards(torch.ones(2), kl, torch.zeros(2, 3), masks)

    ours = torch.tensor([[True, True, True], [True, False, False]])
    rewards = arithmetic.token_rewards(torch.tensor([1.0, 2.0]), kl, ours, KL_COEF)
    torch.testing.assert_close(rewards, torch.tensor([[-0.15, -0.15, 0.85], [1.85, 0.0, 0.0]]))
    advantages, returns = arithmetic.gae(rewards, torch.full((2, 3), 0.25), ours, 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[0.55, 0.7, 0.85], [1.85, 0.0, 0.0]]))
    new = torch.full((2, 3), 0.1, requires_grad=True)
    arithmetic.policy_loss(new, torch.zeros(2, 3), advantages, ours, CLIP)[0].backward()
    assert (new.grad != 0).equal(ours)


def test_a_row_that_counts_nothing_is_an_error():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"\[1\]"):
        arithmetic.token_rewards(torch.ones(2), torch.zeros(2, 2), mask, KL_COEF)


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

    moments = arithmetic.RunningMoments()
    moments.update(torch.stack(scores))
    shaped = shape(torch.stack(scores), moments=moments, normalize=True, scale=True)
    deviation = statistics.stdev([1, 2, 4, 5])
    assert shaped.tolist() == pytest.approx([-2 / deviation, -1 / deviation, 1 / deviation, 2 / deviation])


def test_one_counted_token_whitens_to_zero_where_trl_gives_nan():
    x, mask = torch.tensor([[3.0, 7.0]]), torch.tensor([[True, False]])
    assert trl_core.masked_whiten(x, mask).isnan().any()
    assert arithmetic.masked_whiten(x, mask).tolist() == [[0.0, 0.0]]
    assert arithmetic.masked_whiten(x, mask, shift_mean=False).tolist() == [[3.0, 0.0]]
    assert arithmetic.masked_var(x, mask) == 0


def test_explained_variance_forgives_an_offset_and_constant_returns():
    data = batch(padding=math.nan)
    returns, mask = data.old_values, data.mask
    assert float(arithmetic.explained_variance(returns + 5, returns, mask)) == pytest.approx(1.0)
    assert float(arithmetic.explained_variance(torch.zeros_like(returns), returns, mask)) == pytest.approx(0.0)
    assert float(arithmetic.explained_variance(-returns, returns, mask)) == pytest.approx(-3.0)
    assert arithmetic.explained_variance(returns, torch.ones_like(returns), mask) == 0


# --- scores ---


def shape(scores, finished=None, moments=None, normalize=False, scale=False, clip=None, penalty=0.0):
    finished = torch.ones_like(scores, dtype=torch.bool) if finished is None else finished
    return arithmetic.shape_scores(
        scores,
        finished,
        moments=moments,
        normalize=normalize,
        scale=scale,
        clip=clip,
        unfinished_penalty=penalty,
    )


def history(*scores):
    moments = arithmetic.RunningMoments()
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
    for moments in (None, arithmetic.RunningMoments()):
        for flag in ("normalize", "scale"):
            with pytest.raises(ValueError, match="update the moments"):
                shape(torch.ones(2), moments=moments, **{flag: True})


def test_half_precision_scores_are_raised():
    shaped = shape(torch.tensor([1.0, 3.0]).bfloat16(), moments=history(1.0, 3.0), normalize=True, scale=True)
    assert shaped.dtype == torch.float32
    assert shaped.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


def test_running_moments_are_those_of_all_scores_so_far():
    generator = torch.Generator().manual_seed(0)
    batches = [100 + torch.randn(n, generator=generator) for n in (1, 1, 4, 7)]
    ours, theirs = arithmetic.RunningMoments(), trl_utils.RunningMoments(SimpleNamespace(use_distributed=False))
    merged, seen = arithmetic.RunningMoments(), []
    for scores in batches:
        ours.update(scores)
        halves = [arithmetic.moments(part, torch.ones(len(part)).bool()) for part in scores.double().split(2)]
        merged.merge(*arithmetic.merge_moments(*halves))
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


def test_equal_scores_are_not_blown_up():
    moments = history(0.1, 0.1, 0.1)
    assert moments.std == 1.0
    assert shape(torch.full((3,), 0.1), moments=moments, normalize=True, scale=True).tolist() == pytest.approx([0] * 3)


@pytest.mark.parametrize(
    "make, change",
    [
        (arithmetic.RunningMoments, lambda x: x.update(torch.tensor([1.0, 2.5]))),
        (lambda: arithmetic.AdaptiveKLController(0.2, 6.0, 100), lambda x: x.update(9.0, 16)),
        (lambda: arithmetic.FixedKLController(0.2), lambda x: x.update(9.0, 16)),
    ],
)
def test_state_survives_json_and_goes_on_identically(make, change):
    first, second = make(), make()
    change(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    change(first)
    change(second)
    assert second.state_dict() == first.state_dict()


# --- statistics in parts ---


def test_merged_moments_are_those_of_the_whole():
    data = batch((5, 1, 7, 3), padding=math.nan)
    x, mask = data.old_values, data.mask
    parts = [slice(0, 1), slice(1, 2), slice(2, 4)]
    nothing = arithmetic.moments(x[:1], torch.zeros_like(mask[:1]))
    merged = arithmetic.merge_moments(nothing, *(arithmetic.moments(x[p], mask[p]) for p in parts), nothing)
    whole = arithmetic.moments(x, mask)
    torch.testing.assert_close(torch.stack(merged), torch.stack(whole))


def test_merging_keeps_precision_far_from_zero():
    values = torch.arange(8, dtype=torch.float64) + 1e8
    every = torch.ones(4, dtype=torch.bool)
    merged = arithmetic.merge_moments(arithmetic.moments(values[:4], every), arithmetic.moments(values[4:], every))
    assert float(arithmetic.variance(merged)) == pytest.approx(6.0, rel=1e-9)
    assert float(arithmetic.variance(merged, unbiased=False)) == pytest.approx(5.25, rel=1e-9)


# --- properties: padding, order, microbatches ---

PROPERTY = settings(max_examples=40, deadline=None, database=None)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def select(data, rows, columns=slice(None)):
    return SimpleNamespace(**{k: x[rows] if x.dim() == 1 else x[rows][:, columns] for k, x in vars(data).items()})


@PROPERTY
@given(
    LENGTHS,
    st.integers(0, 4),
    st.sampled_from(GARBAGE),
    st.randoms(use_true_random=False),
    st.integers(0, 99),
)
def test_padding_and_order_change_nothing(lengths, extra, garbage, random, seed):
    width = max(lengths)
    plain = experience(batch(lengths, width, padding=0.0, seed=seed))
    order = random.sample(range(len(lengths)), len(lengths))
    padded = experience(select(batch(lengths, width + extra, padding=garbage, seed=seed), order))
    for name, expected in plain.items():
        ours = padded[name]
        if expected.dim():
            assert (ours[:, width:] == 0).all(), name
            ours, expected = ours[:, :width], expected[order]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@PROPERTY
@given(st.lists(st.integers(1, 5), min_size=2, max_size=2), st.sampled_from(GARBAGE), st.permutations(range(8)))
def test_padding_may_stand_anywhere(lengths, garbage, columns):
    """A response spread over any columns, in its order, is the same response."""
    places = [sorted(columns[:n]) for n in lengths]
    compact = batch(lengths, 5, padding=0.0)
    spread = SimpleNamespace(scores=compact.scores)
    for name, x in vars(compact).items():
        if name != "scores":
            filler = False if x.dtype == torch.bool else garbage
            wide = torch.full((len(lengths), 8), filler, dtype=x.dtype)
            for row, (place, n) in enumerate(zip(places, lengths, strict=True)):
                wide[row, place] = x[row, :n]
            setattr(spread, name, wide)
    expected, ours = experience(compact), experience(spread)
    for name, x in expected.items():
        if x.dim():
            for row, (place, n) in enumerate(zip(places, lengths, strict=True)):
                torch.testing.assert_close(ours[name][row, place], x[row, :n], rtol=1e-9, atol=1e-9)
            assert (ours[name][~spread.mask] == 0).all()
        else:
            torch.testing.assert_close(ours[name], x, rtol=1e-9, atol=1e-9)


@PROPERTY
@given(LENGTHS, st.sampled_from(GARBAGE), st.data())
def test_microbatches_add_up_to_the_minibatch(lengths, garbage, draw):
    data = batch(lengths, 8, padding=garbage)
    advantages, returns = data.ref_logprobs + 3, data.value_change
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(lengths)), max_size=3)) | {len(lengths)})
    parts = [slice(a, b) for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]

    def backward(rows, normalizer):
        policy, policy_stats = arithmetic.policy_loss(
            logprobs[rows], data.old_logprobs[rows], advantages[rows], data.mask[rows], CLIP, normalizer
        )
        value, value_stats = arithmetic.value_loss(
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


def test_half_precision_is_raised_to_float32():
    data = batch(dtype=torch.bfloat16)
    advantages, returns = arithmetic.gae(data.log_ratio, data.old_values, data.mask, GAMMA, LAM)
    loss, _ = arithmetic.policy_loss(data.old_logprobs, data.old_logprobs, advantages, data.mask, CLIP)
    rewards = arithmetic.token_rewards(data.scores, data.log_ratio, data.mask, KL_COEF)
    assert {x.dtype for x in (advantages, returns, loss, rewards)} == {torch.float32}
