"""What is read off a language-model head (log-probability, entropy, KL) without its [N, V] logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from detox.model.devices import traits

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
    ours, theirs = (_Head(weight, bias, min(chunk, len(hidden))) for _ in range(2))
    for rows in _chunks(len(hidden), chunk):
        product, reference = ours.product(hidden[rows]), theirs.product(reference_hidden[rows])
        for part, there in ours.parts(rows):
            logprobs = ours.logits(product[part]).log_softmax(-1)
            difference = logprobs - theirs.logits(reference[part]).log_softmax(-1)
            divergence[there] = difference.mul_(logprobs.exp_()).sum(-1)
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
            product = head.product(hidden[rows])
            for part, there in head.parts(rows):
                logits, probabilities = head.softmax(product[part])
                # The highest probability is 1 over the sum of exponentials.
                logsumexp = logits.amax(-1) - probabilities.amax(-1).log()
                logprobs[there] = logits.gather(1, targets[there, None]).squeeze(1) - logsumexp
                if entropies is not None:
                    entropies[there] = logsumexp - torch.linalg.vecdot(probabilities, logits)
                if derivative is not None:
                    product[part] = _less_one_hot(probabilities, targets[there])
            if derivative is not None:
                derivative[rows] = _matmul(product, weight).neg_()
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
            grad_logits = head.product(hidden[rows])
            for part, there in head.parts(rows):
                _, probabilities = head.softmax(grad_logits[part])
                wide = _less_one_hot(probabilities, targets[there]).mul_(-grad[there, None])
                if grad_bias is not None:
                    grad_bias += wide.sum(0)
                grad_logits[part] = wide
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
    """The product with the head for up to `rows` rows at a time, in buffers that are used again each time.

    Its softmax is taken of a part of these rows at a time, as many as `devices.Traits` says.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.bias = weight, bias
        self.size = min(rows, traits(weight.device).softmax_rows)
        self._product = weight.new_empty(rows, len(weight))
        self._probabilities = weight.new_empty(self.size, len(weight), dtype=_softmax_dtype(weight))
        narrow = self._product.dtype != self._probabilities.dtype
        self._logits = torch.empty_like(self._probabilities) if narrow else None

    def product(self, hidden: Tensor) -> Tensor:
        """Return the product [n, V] with hidden states [n, d], in the dtype of the weight."""
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.mm(hidden.to(self.weight.dtype), self.weight.T, out=self._product[: len(hidden)])

    def parts(self, rows: slice) -> Iterator[tuple[slice, slice]]:
        """Yield which rows of the product belong to each part, and which of all rows these are."""
        for start in range(rows.start, rows.stop, self.size):
            stop = min(start + self.size, rows.stop)
            yield slice(start - rows.start, stop - rows.start), slice(start, stop)

    def logits(self, product: Tensor) -> Tensor:
        """Return the logits [n, V] of a part of the product, in the dtype of the softmax; may overwrite it."""
        logits = product if self._logits is None else self._logits[: len(product)].copy_(product)
        return logits if self.bias is None else logits.add_(self.bias)

    def softmax(self, product: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, [n, V] each, of a part of the product."""
        logits = self.logits(product)
        return logits, torch.softmax(logits, -1, out=self._probabilities[: len(product)])


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _softmax_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]
