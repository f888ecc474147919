"""How the next token is chosen: by the distribution, within its filters, from seeds that are an example's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detox.model import devices
from detox.model.sampling import Sampling, choose, uniforms
from tests.devices.sums import blockwise_sums


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[1.0, 2.0, -1.0, 0.0, -torch.inf]])
    draws = (torch.arange(20_000) + 0.5) / 20_000
    tokens, logprobs = choose(logits.expand(20_000, 5), draws, Sampling(draws), torch.empty(20_000, 0))
    shares = torch.bincount(tokens, minlength=5) / 20_000
    torch.testing.assert_close(shares, logits.softmax(-1)[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[0][tokens])
    edge, _ = choose(logits, torch.tensor([0.99999994]), Sampling(draws), torch.empty(1, 0))
    assert int(edge) == 3, "never a token without probability"


def test_a_device_whose_sums_fall_here_and_there_never_draws_a_token_without_probability(monkeypatch):
    monkeypatch.setattr(Tensor, "cumsum", blockwise_sums)
    monkeypatch.setitem(devices.BY_TYPE, "cpu", devices.CUDA)
    logits = torch.randn(4, 32_128, generator=torch.Generator().manual_seed(0))
    logits[:, torch.rand(32_128, generator=torch.Generator().manual_seed(1)) < 0.9] = -torch.inf
    probabilities = logits.softmax(-1)
    even = (torch.arange(2000) + 0.5) / 2000
    for row, sums in zip(range(4), probabilities.cumsum(-1), strict=True):
        rises_at_nothing = (sums.diff() > 0) & (probabilities[row, 1:] == 0)
        edges = (sums[:-1][rises_at_nothing] / sums[-1]).unique()
        plain = torch.searchsorted(sums, edges * sums[-1], right=True)
        assert bool((probabilities[row, plain] == 0).any()), "what this is about"
        draws = torch.cat([even, edges])
        tokens, _ = choose(logits[row].expand(len(draws), -1), draws, Sampling(draws), None)
        assert bool((probabilities[row, tokens] > 0).all())
        shares = torch.histc(tokens[:2000].float(), 8, 0, 32_128) / 2000
        torch.testing.assert_close(shares, torch.full((8,), 0.125), atol=0.05, rtol=0)


def test_filters_leave_what_they_should():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    draws = (torch.arange(1000) + 0.5) / 1000

    def drawn(prefix=(), **options):
        sampling = Sampling(draws, **options)
        prefixes = torch.tensor([prefix] * 1000).reshape(1000, len(prefix))
        tokens, logprobs = choose(logits.expand(1000, 4), draws, sampling, prefixes)
        torch.testing.assert_close(logprobs, logits.log_softmax(-1)[0][tokens])
        return set(tokens.tolist())

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.7) == {0, 1}
    assert drawn(top_p=0.01) == {0}
    assert drawn(banned=((1,), (3, 0))) == {0, 2, 3}
    assert drawn(prefix=(3,), banned=((1,), (3, 0))) == {2, 3}
    assert drawn(prefix=(0, 3), banned=((1,), (3, 0), (2, 3, 2))) == {2, 3}
    assert drawn(prefix=(1, 2, 3), banned=((2, 3, 1), (3, 2, 0), (1, 2, 3, 2))) == {0, 3}
    greedy, _ = choose(logits, None, Sampling(banned=((0,),)), torch.empty(1, 0))
    assert int(greedy) == 1


def test_random_numbers_depend_on_seed_stream_and_key_alone():
    together = uniforms(1, 0, [4, 9, 2], 50)
    assert torch.equal(together[1], uniforms(1, 0, [9], 50)[0])
    assert torch.equal(together[1, :20], uniforms(1, 0, [9], 20)[0])
    assert float(together.min()) >= 0 and float(together.max()) < 1
    for other in (uniforms(2, 0, [9], 50), uniforms(1, 1, [9], 50), uniforms(1, 0, [8], 50)):
        assert not torch.equal(other[0], together[1])


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_what_leaves_no_distribution_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
