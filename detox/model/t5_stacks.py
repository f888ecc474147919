"""The stacks of T5 on packed rows: blocks one after the other, norms, position biases, whatever attention is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detox.model.engine import Engine
from detox.model.layers import GatedGelu, RmsNorm, wide

ROW_MULTIPLE = 64
"""Rows of a bfloat16 product are rounded up to it: oneDNN keeps a compiled kernel for each number of rows."""

Stack = Any
Attention = Any
Norm = Any
"""T5Stack, T5Attention and T5LayerNorm of `transformers`: what is inside a module, torch declares no type for."""

Attend = Callable[[int, Attention, Tensor], Tensor]
"""Attention of a layer: its index, module and normed input [rows, d] -> the heads' outputs [rows, H * dk]."""

Linears = Callable[..., Iterable[Tensor]]
"""Linear layers of one input: x [rows, in], then the layers -> [rows, out] of each."""

Normalize = Callable[[Norm, Tensor, torch.dtype], Tensor]
"""A norm of the residual stream [rows, d], in the dtype that is wanted."""


class T5Stacks(Engine):
    """What runs a stack of T5 for whole sequences and token by token alike; attention is the caller's.

    Attributes:
        heads: of attention.
        dtype: of matrix products, that of the frozen weights.
        attention_dtype: of numbers inside attention.
        row_multiple: rows of a product of many are rounded up to it.
    """

    def __init__(self, model: nn.Module, value_head: nn.Module | None = None, value_reads_detached: bool = True):
        super().__init__(model, value_head, value_reads_detached)
        self.encoder: Stack = self.base.encoder
        self.decoder: Stack = self.base.decoder
        self.heads: int = self.base.config.num_heads
        self.dtype = self.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype
        self.row_multiple = ROW_MULTIPLE if self.dtype == torch.bfloat16 else 1
        self.attention_dtype = self.dtype
        if self.traits.wide_attention:
            self.attention_dtype = torch.promote_types(self.dtype, torch.float32)

    def run(
        self,
        stack: Stack,
        ids: Tensor,
        attend: Attend,
        attend_prompt: Attend | None,
        apply: Linears,
        norm: Normalize,
    ) -> Tensor:
        """Return the residual stream [rows, d], float32, after the blocks of a stack, for ids [rows]."""
        hidden = wide(F.embedding(ids, stack.embed_tokens.weight))
        for index, block in enumerate(stack.block):
            own, *cross, feed = block.layer
            normed = norm(own.layer_norm, hidden, self.dtype)
            (output,) = apply(attend(index, own.SelfAttention, normed), own.SelfAttention.o)
            hidden = hidden + output
            if cross and attend_prompt is not None:
                normed = norm(cross[0].layer_norm, hidden, self.dtype)
                attention = cross[0].EncDecAttention
                (output,) = apply(attend_prompt(index, attention, normed), attention.o)
                hidden = hidden + output
            dense = feed.DenseReluDense
            normed = norm(feed.layer_norm, hidden, self.dtype)
            if self.base.config.is_gated_act:
                inner = GatedGelu.apply(*apply(normed, dense.wi_0, dense.wi_1))
            else:
                (inner,) = apply(normed, dense.wi)
                inner = inner.relu()
            (output,) = apply(inner, dense.wo)
            hidden = hidden + output
        return hidden

    def norm(self, norm: Norm, hidden: Tensor, dtype: torch.dtype, weight: Tensor | None = None) -> Tensor:
        """Return the norm of the residual stream; `weight` stands for the norm's own, in the dtype of `hidden`."""
        weight = norm.weight if weight is None else weight
        if self.traits.fused:
            return F.rms_norm(hidden, weight.shape, weight.to(hidden.dtype), norm.variance_epsilon).to(dtype)
        return RmsNorm.apply(hidden, weight, norm.variance_epsilon, dtype)

    def bias_line(self, stack: Stack, distances: Tensor, causal: bool) -> Tensor:
        """Return the bias [H, n] of keys `distances` [n] after the query; -inf for a future key."""
        attention = stack.block[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            distances,
            bidirectional=not causal,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        line = attention.relative_attention_bias(buckets).to(self.attention_dtype).T
        return line.masked_fill(distances > 0, -torch.inf) if causal else line

    def padded(self, hidden: Tensor) -> Tensor:
        """Return rows [N, d], and rows of 0 up to a multiple."""
        return F.pad(hidden, (0, 0, 0, -len(hidden) % self.row_multiple))
