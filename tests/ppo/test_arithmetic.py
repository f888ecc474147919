"""PPO's arithmetic from scores to gradients: against loops in plain Python, and under any padding."""

import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detox.ppo.advantages import gae
from detox.ppo.losses import policy_loss
from detox.ppo.rewards import token_rewards
from tests.ppo.token_batches import (
    CLIP,
    GAMMA,
    GARBAGE,
    KL_COEF,
    LAM,
    LENGTHS,
    PROPERTY,
    VALUE_CLIP,
    batch,
    experience,
    trl_trainer,
)

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")


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
    rewards = token_rewards(torch.tensor([1.0, 2.0]), kl, ours, KL_COEF)
    torch.testing.assert_close(rewards, torch.tensor([[-0.15, -0.15, 0.85], [1.85, 0.0, 0.0]]))
    advantages, returns = gae(rewards, torch.full((2, 3), 0.25), ours, 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[0.55, 0.7, 0.85], [1.85, 0.0, 0.0]]))
    new = torch.full((2, 3), 0.1, requires_grad=True)
    policy_loss(new, torch.zeros(2, 3), advantages, ours, CLIP)[0].backward()
    assert (new.grad != 0).equal(ours)


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


def test_half_precision_is_raised_to_float32():
    data = batch(dtype=torch.bfloat16)
    advantages, returns = gae(data.log_ratio, data.old_values, data.mask, GAMMA, LAM)
    loss, _ = policy_loss(data.old_logprobs, data.old_logprobs, advantages, data.mask, CLIP)
    rewards = token_rewards(data.scores, data.log_ratio, data.mask, KL_COEF)
    assert {x.dtype for x in (advantages, returns, loss, rewards)} == {torch.float32}
