"""The layers of T5 as functions: linear with LoRA, norm, gated activation; their graphs keep as little as they can.

Weights are those of the modules of `transformers` and PEFT, read in place at every call.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Layer = Any
"""nn.Linear, or PEFT's LoRA around one: what is inside a module, torch declares no type for."""

Known = tuple[Tensor, Tensor]
"""A product x W' that is there already: [more rows, out], and [N] int64, which of its rows are x's."""


def linear(layer: Layer, x: Tensor, adapters: bool, known: Known | None = None) -> Tensor:
    """Return [N, out] of x [N, in], in the dtype of the layer's weight.

    Args:
        layer: nn.Linear or PEFT's LoRA around one.
        x: cast to the weight's dtype.
        adapters: add what the layer's active adapters give, unless they are disabled in the layer itself.
        known: the product with the weight, where it is frozen and was computed before.
    """
    weight, names = weight_of(layer), _adapters_of(layer, adapters)
    if not names:
        return _product(x.to(weight.dtype), weight, known)
    factors = [part[name].weight for name in names for part in (layer.lora_A, layer.lora_B)]
    return _LoraLinear.apply(x.to(weight.dtype), weight, known, [layer.scaling[name] for name in names], *factors)


def linear_of_few(layer: Layer, x: Tensor, adapters: bool) -> Tensor:
    """Return what `linear` returns, but [N, out] in float32 and without a graph, for a few rows.

    With few rows, oneDNN spends most of the time of a bfloat16 product on repacking a weight that is the right
    factor, and on LoRA's two thin products a call's overhead; so the weight goes left, and LoRA is in float32.
    """
    weight, x = weight_of(layer), wide(x)
    output = few_rows_times(x, weight)
    for name in _adapters_of(layer, adapters):
        down, up = (part[name].weight.to(x.dtype) for part in (layer.lora_A, layer.lora_B))
        output.addmm_(x @ down.T, up.T, alpha=layer.scaling[name])
    return output


def few_rows_times(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W' [N, out] in float32 (or wider), the product taken in the dtype of the weight."""
    if weight.dtype != torch.bfloat16 or x.device.type != "cpu":
        return wide(x.to(weight.dtype) @ weight.T)
    return x.new_empty(len(x), len(weight), dtype=torch.float32).copy_((weight @ x.to(weight.dtype).T).T)


def weight_of(layer: Layer) -> Tensor:
    """Return the weight [out, in] of a linear layer, below its adapters if it has any."""
    return weight_of(layer.base_layer) if isinstance(layer, LoraLinear) else layer.weight


def _adapters_of(layer: Layer, adapters: bool) -> list[str]:
    if not adapters or not isinstance(layer, LoraLinear) or layer.disable_adapters:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _product(x: Tensor, weight: Tensor, known: Known | None) -> Tensor:
    if known is None:
        return F.linear(x, weight)
    product, rows = known
    return product[rows]


class _LoraLinear(torch.autograd.Function):
    """x W' + the sum of scaling (x A') B', in one buffer [N, out], and no product for a frozen W.

    All products are in W's dtype, as under autocast; A, B and their gradients stay in their own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, known: Known | None, scalings: list[float], *factors: Tensor
    ) -> Tensor:
        output = _product(x, weight, known)
        cast = [factor.to(x.dtype) for factor in factors]
        inner = [x @ down.T for down in cast[::2]]
        for narrow, up, scaling in zip(inner, cast[1::2], scalings, strict=True):
            output.addmm_(narrow, up.T, alpha=scaling)
        ctx.scalings = scalings
        ctx.save_for_backward(x, weight, *factors, *inner)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        count = len(ctx.scalings)
        factors, inner = rest[: 2 * count], rest[2 * count :]
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad.T @ x if ctx.needs_input_grad[1] else None
        grads: list[Tensor | None] = []
        for i, (scaling, narrow) in enumerate(zip(ctx.scalings, inner, strict=True)):
            down, up = factors[2 * i : 2 * i + 2]
            for_down, for_up = ctx.needs_input_grad[4 + 2 * i : 6 + 2 * i]
            grad_narrow = (grad @ up.to(grad.dtype)).mul_(scaling)
            grads.append((grad_narrow.T @ x).to(down.dtype) if for_down else None)
            grads.append((grad.T @ narrow).mul_(scaling).to(up.dtype) if for_up else None)
            if grad_x is not None:
                grad_x.addmm_(grad_narrow, down.to(grad.dtype))
        return grad_x, grad_weight, None, None, *grads


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean of x squared + eps) * weight, of which only x and a number a row are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad = grad.to(x.dtype)
        grad_weight = (grad * x).mul_(scale).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        projection = (grad * x).sum(-1, keepdim=True).mul_(scale**3).div_(x.shape[-1])
        return grad.mul_(scale).addcmul_(x, projection, value=-1), grad_weight, None, None


class GatedGelu(torch.autograd.Function):
    """gelu(gate) * value, of which only the arguments are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value)
        return F.gelu(gate, approximate="tanh").mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, value = ctx.saved_tensors
        grad_value = F.gelu(gate, approximate="tanh").mul_(grad)
        return torch.ops.aten.gelu_backward(grad * value, gate, approximate="tanh"), grad_value


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is if it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def is_known_linear(layer: Layer) -> bool:
    """Return whether `linear` computes what this layer computes when nothing is dropped."""
    if isinstance(layer, LoraLinear):
        variants = layer.lora_variant or layer.merged or any(layer.lora_bias.values()) or layer.fan_in_fan_out
        return not variants and is_known_linear(layer.base_layer)
    return type(layer) is nn.Linear and layer.bias is None
