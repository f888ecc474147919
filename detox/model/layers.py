"""The layers of T5 as functions: linear with LoRA, norm, gated activation; their graphs keep as little as they can.

Weights are those of the modules of `transformers` and PEFT, read in place at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Layer = Any
"""nn.Linear, or PEFT's LoRA around one: what is inside a module, torch declares no type for."""

Product = Callable[[Tensor], Tensor]
"""What multiplies rows with a weight."""

LARGE = 2**14
"""Outputs that only a language-model head has; smaller weights in float32 gain nothing from being laid out once."""

Known = tuple[Tensor, Tensor]
"""A product x W' that is there already: [more rows, out], and [N] int64, which of its rows are x's."""


def linears(x: Tensor, *layers: Layer, adapters: bool, known: Sequence[Known | None] = ()) -> Sequence[Tensor]:
    """Return [N, out] of each of some linear layers of one input x [N, in], in the dtype of their weights.

    Args:
        x: cast to the weights' dtype.
        layers: nn.Linear, or PEFT's LoRA around them.
        adapters: add what a layer's active adapters give, unless they are disabled in the layer itself.
        known: of each layer the product with its weight, if it is frozen and the product was computed before.
    """
    weights = [weight_of(layer) for layer in layers]
    x = x.to(weights[0].dtype)
    pairs = [(i, layer, name) for i, layer in enumerate(layers) for name in _adapters_of(layer, adapters)]
    known = known or [None] * len(layers)
    if not pairs:
        return [_product(x, weight, product) for weight, product in zip(weights, known, strict=True)]
    placed = [(i, layer.scaling[name]) for i, layer, name in pairs]
    downs, ups = ([getattr(layer, side)[name].weight for _, layer, name in pairs] for side in ("lora_A", "lora_B"))
    return _LoraLinears.apply(x, known, placed, *weights, *downs, *ups)


class LinearsOfFew:
    """`linears` for a few rows and without a graph, whose weights are laid out and LoRA factors read at the first call.

    With few rows, most of the time of LoRA's thin products is that of the calls, so layers of one input (all of one
    shape) share two of them.

    Args:
        dtype: of the products with LoRA factors, and of the result.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._ready: dict[tuple[Layer, ...], tuple[Product | None, tuple[Tensor, Tensor] | None]] = {}

    def __call__(self, x: Tensor, *layers: Layer) -> Tensor:
        """Return [layers, N, out] of x [N, in]."""
        weights = [weight_of(layer) for layer in layers]
        if layers not in self._ready:
            factors = _stacked_factors(layers)
            factors = factors and (factors[0].to(self.dtype), factors[1].to(self.dtype))
            self._ready[layers] = packed_product(*weights), factors
        product, factors = self._ready[layers]
        narrow = x.to(weights[0].dtype)
        if product is not None:
            output = product(narrow).unflatten(1, (len(layers), -1)).transpose(0, 1)
        else:
            output = narrow.new_empty(len(layers), len(x), len(weights[0]))
            for part, weight in zip(output, weights, strict=True):
                torch.mm(narrow, weight.T, out=part)
        output = output.to(self.dtype)
        if factors is not None:
            down, up = factors
            inner = (x.to(self.dtype) @ down).view(len(x), len(up), -1)
            output.baddbmm_(inner.transpose(0, 1), up)
        return output


def packed_product(*weights: Tensor) -> Product | None:
    """Return what gives x W' [n, out] of a few rows x [n, in] from a copy of weights, or None if that gains nothing.

    On a CPU a product lays its weight out anew each time, which takes longer than to multiply few rows: any weight in
    bfloat16, in float32 (by MKL) one as large as a language-model head. The copy, in which the rows of all weights
    [each, in] follow each other, is laid out once.
    """
    weight = weights[0].detach()
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not packs(weight.dtype, len(weight)):
        return None
    try:  # what torch.compile calls, and another version of torch may not have
        supported, reorder = torch.ops.mkldnn._is_mkldnn_bf16_supported, torch.ops.mkldnn._reorder_linear_weight
        linear = torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        return None
    if weight.dtype == torch.bfloat16 and not supported():
        return None
    packed = reorder(torch.cat(weights).detach() if len(weights) > 1 else weight)
    return lambda x: linear(x, packed, None, "none", [], "")


def packs(dtype: torch.dtype, outputs: int) -> bool:
    """Return whether a weight of so many outputs is laid out once for the few rows of a rollout on a CPU."""
    large = dtype == torch.float32 and outputs >= LARGE and torch.backends.mkl.is_available()
    return large or dtype == torch.bfloat16


def _stacked_factors(layers: Sequence[Layer]) -> tuple[Tensor, Tensor] | None:
    """Return A of all layers side by side [in, layers * r] and scaled B [layers, r, out], or None if there is none."""
    downs, ups = zip(*map(_wide_factors, layers), strict=True)
    rank = max(map(len, downs))
    if not rank:
        return None
    down, up = (torch.stack([F.pad(part, (0, 0, 0, rank - len(part))) for part in side]) for side in (downs, ups))
    return down.flatten(0, 1).T, up


def _wide_factors(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and scaled B' [r, out] of all active adapters of a layer, r the sum of their ranks."""
    weight, names = weight_of(layer), _adapters_of(layer, True)
    down, up = (wide(weight.new_empty(0, size)) for size in (weight.shape[1], len(weight)))
    return (
        torch.cat([down, *(wide(layer.lora_A[name].weight) for name in names)]),
        torch.cat([up, *(wide(layer.lora_B[name].weight).T * layer.scaling[name] for name in names)]),
    )


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


class _LoraLinears(torch.autograd.Function):
    """Of each layer x W' + the sum of scaling (x A') B', in one buffer [N, out], and no product for a frozen W.

    The A of all layers lie side by side, since thin products are slow. All products are in W's dtype, as under
    autocast; A, B and their gradients stay in their own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, known: Sequence[Known | None], placed: list[tuple[int, float]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights, downs, ups = _split(tensors, len(known), len(placed))
        outputs = [_product(x, weight, product) for weight, product in zip(weights, known, strict=True)]
        inner = x @ torch.cat(downs).to(x.dtype).T
        ctx.layers, ctx.placed, ctx.ranks = len(known), placed, [len(down) for down in downs]
        for (i, scaling), narrow, up in zip(placed, inner.split(ctx.ranks, 1), ups, strict=True):
            outputs[i].addmm_(narrow, up.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(x, inner, *tensors)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inner = ctx.saved_tensors[:2]
        weights, downs, ups = _split(ctx.saved_tensors[2:], ctx.layers, len(ctx.placed))
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        needs_weight, needs_down, needs_up = _split(needs, ctx.layers, len(ctx.placed))
        narrow = torch.cat(
            [(grads[i] @ up.to(x.dtype)).mul_(scaling) for (i, scaling), up in zip(ctx.placed, ups, strict=True)], 1
        )
        grad_x = None
        if needs_x:
            grad_x = narrow @ torch.cat(downs).to(x.dtype)
            for grad, weight in zip(grads, weights, strict=True):
                grad_x.addmm_(grad, weight)
        found: list[Tensor | None] = [
            grad.T @ x if needed else None for grad, needed in zip(grads, needs_weight, strict=True)
        ]
        for grad, down, needed in zip((narrow.T @ x).split(ctx.ranks), downs, needs_down, strict=True):
            found.append(grad.to(down.dtype) if needed else None)
        for (i, scaling), part, up, needed in zip(ctx.placed, inner.split(ctx.ranks, 1), ups, needs_up, strict=True):
            found.append((grads[i].T @ part).mul_(scaling).to(up.dtype) if needed else None)
        return grad_x, None, None, *found


def _split(items: tuple[Any, ...], layers: int, adapters: int) -> tuple[tuple[Any, ...], ...]:
    """Return what belongs to weights, to A and to B."""
    return items[:layers], items[layers : layers + adapters], items[layers + adapters :]


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
