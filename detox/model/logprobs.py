"""What is read off a language-model head (log-probability, entropy, KL) without its [N, V] logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 192
"""Rows whose logits exist at once. With T5's 32,128 words a buffer of theirs is one that malloc keeps, not returns."""


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return log softmax(hidden @ weight.T + bias)[targets], computed `chunk` rows at a time.

    The product is taken in the dtype of `weight`, whatever autocast says; the softmax in float32 (float64 for
    a float64 weight). With a frozen head, each row's derivative by `hidden` is taken while its logits are
    there, so that the backward pass has no product left to do; a trained head computes the logits again.

    Args:
        hidden: [N, d], floating point; the only argument that a frozen head needs a gradient for.
        weight: [V, d], floating point, bfloat16 included.
        targets: [N] int64, each in 0 .. V - 1.
        bias: [V], or None.
        chunk: rows whose logits exist at the same time.
        entropy: also return the entropy of each row's distribution.

    Returns:
        The log-probabilities [N], in nats, float32, differentiable once by hidden, weight and bias; the
        entropies [N], in nats, float32, without gradient, or None.
    """
    grad_hidden = torch.is_grad_enabled() and hidden.requires_grad
    frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    return _LinearLogprobs.apply(hidden, weight, bias, targets, chunk, entropy, grad_hidden and frozen)


@torch.no_grad()
def linear_full_kl(
    hidden: Tensor, reference_hidden: Tensor, weight: Tensor, *, bias: Tensor | None = None, chunk: int = CHUNK
) -> Tensor:
    """Return the exact KL(policy || reference) over the vocabulary, where both share a head; no gradient.

    Args:
        hidden: [N, d], the policy's.
        reference_hidden: [N, d], the reference's.
        weight: [V, d].
        bias: [V], or None.
        chunk: rows whose logits exist at the same time.

    Returns:
        [N] float32 (float64 for a float64 weight), in nats.
    """
    divergence = hidden.new_empty(len(hidden), dtype=_softmax_dtype(weight))
    head = _Head(weight, bias, min(chunk, len(hidden)))
    for rows in _chunks(len(hidden), chunk):
        logprobs = head.logits(hidden[rows]).log_softmax(-1)
        difference = logprobs - head.logits(reference_hidden[rows]).log_softmax(-1)
        divergence[rows] = difference.mul_(logprobs.exp_()).sum(-1)
    return divergence


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        entropy: bool,
        derive: bool,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.chunk, ctx.derived = chunk, derive
        logprobs = hidden.new_empty(len(hidden), dtype=_softmax_dtype(weight))
        entropies = torch.empty_like(logprobs) if entropy else None
        derivative = torch.empty_like(hidden) if derive else None
        head = _Head(weight, bias, min(chunk, len(hidden)))
        for rows in _chunks(len(hidden), chunk):
            logits, probabilities = head.softmax(hidden[rows])
            # The highest probability is 1 over the sum of exponentials.
            logsumexp = logits.amax(-1) - probabilities.amax(-1).log()
            logprobs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - logsumexp
            if entropies is not None:
                entropies[rows] = logsumexp - torch.linalg.vecdot(probabilities, logits)
            if derivative is not None:
                difference = head.narrow(_less_one_hot(probabilities, targets[rows]))
                derivative[rows] = _matmul(difference, weight).neg_()
        ctx.save_for_backward(*([derivative] if derive else [hidden, weight, bias, targets]))
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.derived:
            (derivative,) = ctx.saved_tensors
            return (derivative * grad[:, None]).to(derivative.dtype), None, None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=grad.dtype) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=grad.dtype) if for_bias else None
        head = _Head(weight, bias, min(ctx.chunk, len(hidden)))
        for rows in _chunks(len(hidden), ctx.chunk):
            _, probabilities = head.softmax(hidden[rows])
            grad_logits = _less_one_hot(probabilities, targets[rows]).mul_(-grad[rows, None])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            grad_logits = head.narrow(grad_logits)
            if grad_hidden is not None:
                grad_hidden[rows] = _matmul(grad_logits, weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += _matmul(grad_logits.T, hidden[rows].to(weight.dtype))
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _less_one_hot(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Take 1 off [n, V] probabilities at the targets [n], in place: minus the derivative of log-probabilities."""
    return probabilities.scatter_add_(1, targets[:, None], probabilities.new_full((len(targets), 1), -1.0))


class _Head:
    """The product with the head for up to `rows` rows at a time, in buffers that are used again each time."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.bias = weight, bias
        shape, dtype = (rows, len(weight)), _softmax_dtype(weight)
        self._narrow = weight.new_empty(shape)
        self._logits = self._narrow if weight.dtype == dtype else weight.new_empty(shape, dtype=dtype)
        self._probabilities = weight.new_empty(shape, dtype=dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, V] of hidden states [n, d], in the dtype of the softmax."""
        with torch.autocast(hidden.device.type, enabled=False):
            product = torch.mm(hidden.to(self.weight.dtype), self.weight.T, out=self._narrow[: len(hidden)])
        logits = self._logits[: len(hidden)]
        if logits.dtype != product.dtype:
            logits.copy_(product)
        return logits if self.bias is None else logits.add_(self.bias)

    def softmax(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, [n, V] each, of hidden states [n, d]."""
        logits = self.logits(hidden)
        return logits, torch.softmax(logits, -1, out=self._probabilities[: len(hidden)])

    def narrow(self, wide: Tensor) -> Tensor:
        """Return [n, V] in the dtype of the weight; overwrites the logits."""
        return wide if wide.dtype == self.weight.dtype else self._narrow[: len(wide)].copy_(wide)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _softmax_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, rows, chunk)]
