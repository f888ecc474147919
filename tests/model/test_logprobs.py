"""The fused head against the plain computation: values, gradients, dtypes, edges, and memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detox.model.logprobs import linear_full_kl, linear_logprobs

ROWS, WIDTH, VOCABULARY = 23, 8, 40


def head(dtype=torch.float64, rows=ROWS, with_bias=True):
    generator = torch.Generator().manual_seed(0)
    hidden = 2 * torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) if with_bias else None
    targets = torch.randint(VOCABULARY, (rows,), generator=generator)
    targets[:2] = torch.tensor([0, VOCABULARY - 1])[:rows]
    return hidden.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype), targets


def plain(hidden, weight, bias, targets):
    """The whole [N, V] at once; log-probabilities and entropies by torch's own functions."""
    distribution = torch.distributions.Categorical(
        logits=torch.nn.functional.linear(hidden, weight, bias), validate_args=False
    )
    return distribution.log_prob(targets), distribution.entropy()


def gradients(function, hidden, weight, bias, targets, trained):
    """Gradients, for those of hidden, weight and bias that are trained, of a loss that weighs rows apart."""
    leaves = [x.detach().clone().requires_grad_(t) for x, t in zip((hidden, weight, bias), trained, strict=True)]
    values = function(*leaves, targets)
    (values * torch.linspace(-1.5, 2.0, len(values), dtype=values.dtype)).sum().backward()
    return [x.grad for x, t in zip(leaves, trained, strict=True) if t]


@pytest.mark.parametrize("chunk", [1, 7, ROWS, 256])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_values_and_entropies_are_those_of_the_whole_softmax(chunk, with_bias, dtype, rtol):
    hidden, weight, bias, targets = head(dtype, with_bias=with_bias)
    logprobs, entropy = linear_logprobs(hidden, weight, targets, bias=bias, chunk=chunk, entropy=True)
    expected = plain(*(x if x is None else x.double() for x in (hidden, weight, bias)), targets)
    assert logprobs.dtype == entropy.dtype == dtype
    torch.testing.assert_close(logprobs.double(), expected[0], rtol=rtol, atol=rtol)
    torch.testing.assert_close(entropy.double(), expected[1], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize(
    "trained",
    [(True, False, False), (True, True, False), (True, False, True), (True, True, True), (False, True, True)],
)
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_gradients_are_those_of_the_whole_softmax(chunk, trained, dtype, rtol):
    ours = gradients(lambda h, w, b, t: linear_logprobs(h, w, t, bias=b, chunk=chunk)[0], *head(dtype), trained)
    expected = gradients(lambda *arguments: plain(*arguments)[0], *head(), trained)
    assert len(ours) == sum(trained)
    for mine, reference in zip(ours, expected, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), reference, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradcheck_by_finite_differences(frozen):
    hidden, weight, bias, targets = head(rows=5)
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    bias.requires_grad_(not frozen)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_logprobs(h, w, targets, bias=b, chunk=2)[0], (hidden, weight, bias)
    )


def test_entropy_carries_no_gradient():
    hidden, weight, _, targets = head()
    logprobs, entropy = linear_logprobs(hidden.requires_grad_(), weight, targets, entropy=True)
    assert logprobs.requires_grad and not entropy.requires_grad
    assert linear_logprobs(hidden, weight, targets)[1] is None


def test_extreme_logits_stay_finite():
    hidden, weight, _, targets = head(torch.float32)
    hidden = (1e4 * hidden).requires_grad_()
    logprobs, entropy = linear_logprobs(hidden, weight, targets, entropy=True)
    logprobs.sum().backward()
    assert torch.isfinite(logprobs).all() and torch.isfinite(entropy).all() and torch.isfinite(hidden.grad).all()


def test_no_rows():
    hidden, weight, bias, targets = head(rows=0)
    for trained in (False, True):
        leaf = hidden.clone().requires_grad_()
        logprobs, entropy = linear_logprobs(leaf, weight.requires_grad_(trained), targets, bias=bias, entropy=True)
        logprobs.sum().backward()
        assert logprobs.shape == entropy.shape == (0,) and leaf.grad.shape == (0, WIDTH)
    assert linear_full_kl(hidden, hidden, weight).shape == (0,)


def test_no_graph_without_grad_mode():
    hidden, weight, _, targets = head()
    with torch.no_grad():
        assert not linear_logprobs(hidden.requires_grad_(), weight, targets)[0].requires_grad


def test_a_target_outside_the_vocabulary_is_an_error():
    hidden, weight, _, targets = head()
    targets[3] = VOCABULARY
    with pytest.raises((RuntimeError, IndexError)):
        linear_logprobs(hidden, weight, targets)


def test_bfloat16_head_softmaxes_in_float32_and_ignores_autocast():
    hidden, weight, bias, targets = head(torch.float32)
    half = weight.bfloat16()
    leaf = hidden.clone().requires_grad_()
    logprobs, entropy = linear_logprobs(leaf, half, targets, bias=bias, chunk=7, entropy=True)
    logits = torch.nn.functional.linear(hidden.bfloat16(), half).float() + bias
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.detach(), logits.log_softmax(-1)[range(ROWS), targets], rtol=1e-5, atol=1e-5)
    logprobs.sum().backward()
    exact = hidden.double().requires_grad_()
    plain(exact, weight.double(), bias.double(), targets)[0].sum().backward()
    assert leaf.grad.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(leaf.grad.double().flatten(), exact.grad.flatten(), 0) > 0.999

    plain_weight = linear_logprobs(hidden, weight, targets)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_logprobs(hidden, weight, targets)[0], plain_weight)


def test_full_kl_is_the_sum_over_the_vocabulary():
    hidden, weight, bias, _ = head()
    reference = hidden.flip(0) + 0.3
    policy, other = (torch.distributions.Categorical(logits=x @ weight.T + bias) for x in (hidden, reference))
    expected = torch.distributions.kl_divergence(policy, other)
    for chunk in (1, 7, 256):
        divergence = linear_full_kl(hidden.requires_grad_(), reference, weight, bias=bias, chunk=chunk)
        torch.testing.assert_close(divergence, expected, rtol=1e-6, atol=1e-9)
        assert not divergence.requires_grad
    assert torch.equal(linear_full_kl(hidden, hidden, weight, bias=bias), torch.zeros(ROWS, dtype=torch.float64))


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operator returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("trained", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_head(trained):
    rows, width, vocabulary, chunk = 64, 4, 50, 8
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=trained)
    targets = torch.randint(vocabulary, (rows,))
    with LargestTensor() as ours:
        linear_logprobs(hidden, weight, targets, chunk=chunk, entropy=True)[0].sum().backward()
        linear_full_kl(hidden, 2 * hidden, weight, chunk=chunk)
    assert ours.elements == max(chunk * vocabulary, rows * width)
    with LargestTensor() as whole:
        plain(hidden, weight, None, targets)
    assert whole.elements >= rows * vocabulary


@pytest.mark.parametrize("trained", [False, True])
def test_what_the_graph_keeps_does_not_grow_with_the_vocabulary(trained):
    rows, width = 64, 4
    kept = []
    for vocabulary in (50, 500):
        weight = torch.randn(vocabulary, width, requires_grad=trained)
        hidden, targets, seen = (
            torch.randn(rows, width, requires_grad=True),
            torch.zeros(rows, dtype=torch.long),
            [],
        )

        def note(tensor, weight=weight, seen=seen):
            seen.append(0 if tensor.data_ptr() == weight.data_ptr() else tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            linear_logprobs(hidden, weight, targets, chunk=8, entropy=True)
        kept.append(sum(seen))
    assert kept[0] == kept[1] <= rows * (width + 2)


class Products(TorchDispatchMode):
    """Counts the matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket is torch.ops.aten.mm
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained, forward, backward", [(False, 2, 0), (True, 1, 3)])
def test_a_frozen_head_leaves_no_product_to_the_backward_pass(trained, forward, backward):
    hidden, weight, _, targets = head()
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    with Products() as products:
        loss = linear_logprobs(hidden, weight, targets)[0].sum()
        assert products.count == forward
        loss.backward()
        assert products.count == forward + backward
    with Products() as products, torch.no_grad():
        linear_logprobs(hidden, weight, targets)
    assert products.count == 1
