"""What is read off a language-model head (log-probability, entropy, KL) without its [N, V] logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    chunk: int = 256,
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
    hidden: Tensor, reference_hidden: Tensor, weight: Tensor, *, bias: Tensor | None = None, chunk: int = 256
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
    for rows in _chunks(len(hidden), chunk):
        logprobs = _logits(hidden[rows], weight, bias).log_softmax(-1)
        difference = logprobs - _logits(reference_hidden[rows], weight, bias).log_softmax(-1)
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
        logsumexp = torch.empty_like(logprobs)
        entropies = torch.empty_like(logprobs) if entropy else None
        derivative = torch.empty_like(hidden) if derive else None
        for rows in _chunks(len(hidden), chunk):
            logits = _logits(hidden[rows], weight, bias)
            logsumexp[rows] = logits.logsumexp(-1)
            logprobs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - logsumexp[rows]
            if entropies is not None:
                full = logits - logsumexp[rows, None]
                entropies[rows] = -full.exp().mul_(full).sum(-1)
            if derivative is not None:
                ones = torch.ones_like(logprobs[rows])
                grad_logits = _grad_logits(logits, logsumexp[rows], targets[rows], ones)
                derivative[rows] = _matmul(grad_logits.to(weight.dtype), weight).to(hidden.dtype)
        if derive:
            ctx.save_for_backward(derivative)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, logsumexp)
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.derived:
            (derivative,) = ctx.saved_tensors
            return (derivative * grad[:, None]).to(derivative.dtype), None, None, None, None, None, None
        hidden, weight, bias, targets, logsumexp = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=logsumexp.dtype) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=logsumexp.dtype) if for_bias else None
        for rows in _chunks(len(hidden), ctx.chunk):
            logits = _logits(hidden[rows], weight, bias)
            grad_logits = _grad_logits(logits, logsumexp[rows], targets[rows], grad[rows])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = _matmul(grad_logits, weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += _matmul(grad_logits.T, hidden[rows].to(weight.dtype))
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _grad_logits(logits: Tensor, logsumexp: Tensor, targets: Tensor, grad: Tensor) -> Tensor:
    """Overwrite [n, V] logits with grad * (one-hot(targets) - softmax)."""
    logits.sub_(logsumexp[:, None]).exp_().mul_(-grad[:, None])
    return logits.scatter_add_(1, targets[:, None], grad[:, None].to(logits.dtype))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = _matmul(hidden.to(weight.dtype), weight.T).to(_softmax_dtype(weight))
    return logits if bias is None else logits.add_(bias)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _softmax_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, rows, chunk)]
