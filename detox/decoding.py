"""Incremental decoding by the packed T5 engine: a growing cache, and prompts of alike length looked at together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from detox import packing
from detox.engine import Encoded, response_mask
from detox.layers import LinearsOfFew, linears

if TYPE_CHECKING:
    from detox.t5 import Attention, PackedT5Engine


@dataclass
class Prompts:
    """Prompts of alike length, side by side in a decoding.

    Attributes:
        bias: [n, 1, 1, S] float32, 0 at a token of the prompt, else -inf.
        keys: of each layer, [n, H, S, dk].
        values: of each layer, [n, H, S, dk].
    """

    bias: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def __len__(self) -> int:
        return len(self.bias)

    def select(self, indices: Tensor) -> Prompts:
        """Return the prompts at `indices` [n'], in rising order."""
        if len(indices) == len(self):
            return self
        keys, values = ([of_layer[indices] for of_layer in part] for part in (self.keys, self.values))
        return Prompts(self.bias[indices], keys, values)


class Decoding:
    """b responses that grow by a token a step, in the order in which their prompts lie in groups.

    LoRA factors are read at the first step only.

    Attributes:
        order: [b] int64, which of the caller's sequences each of them is.
        prompts: groups of prompts, in that order.
        cache: [2, layers, b, H, capacity, dk], keys and values of the tokens so far.
        bias: [H, capacity] float32, the relative position bias of distances capacity - 1 down to 0.
        step: tokens so far.

    Args:
        engine: runs the decoder.
        encoded: b prompts.
    """

    def __init__(self, engine: PackedT5Engine, encoded: Encoded):
        self.engine = engine
        self.linears = LinearsOfFew()
        self.step = 0
        lengths, device = encoded.lengths, engine.device
        begins = list(itertools.accumulate(lengths, initial=0))
        groups = packing.alike(lengths)
        self.order = torch.tensor([i for members in groups for i in members], device=device)
        self.prompts: list[Prompts] = []
        sources = []
        for members in groups:
            mask = response_mask([lengths[i] for i in members], device)
            positions = torch.arange(mask.shape[1], device=device) * mask
            sources.append(torch.tensor([begins[i] for i in members], device=device)[:, None] + positions)
            bias = torch.zeros(mask.shape, device=device).masked_fill_(~mask, -torch.inf)
            self.prompts.append(Prompts(bias[:, None, None], [], []))
        memory = engine.padded(encoded.hidden)
        for block in engine.decoder.block:
            attention = block.layer[1].EncDecAttention
            key, value = linears(memory, attention.k, attention.v, adapters=True)
            for group, source in zip(self.prompts, sources, strict=True):
                group.keys.append(self._heads(key[source]))
                group.values.append(self._heads(value[source]))
        shape = (2, len(engine.decoder.block), len(encoded), engine.heads, 0, key.shape[-1] // engine.heads)
        self.cache = torch.empty(shape, dtype=engine.attention_dtype, device=device)
        self.bias = torch.empty(0)

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed tokens [b]; return the hidden states [b, d] that predict the next, in the caller's order."""
        if self.step == self.cache.shape[-2]:
            self._grow()
        self.step += 1
        rows = self._run(tokens[self.order])
        return torch.empty_like(rows).index_copy_(0, self.order, rows)

    def keep(self, indices: Tensor) -> None:
        """Leave only the sequences at `indices` [b'] of the caller's, in that order."""
        moved = torch.full((len(self.order),), -1, device=self.order.device)
        moved[indices] = torch.arange(len(indices), device=self.order.device)
        order = moved[self.order]
        staying = [(part >= 0).nonzero().squeeze(1) for part in order.split([len(group) for group in self.prompts])]
        self.cache = self.cache[:, :, order >= 0]
        self.order = order[order >= 0]
        self.prompts = [group.select(of) for group, of in zip(self.prompts, staying, strict=True) if len(of)]

    def _run(self, tokens: Tensor) -> Tensor:
        count, own_bias = len(tokens), self.bias[None, :, None, -self.step :]
        counts = [len(group) for group in self.prompts]

        def heads(rows: Tensor) -> Tensor:
            return rows.to(self.cache.dtype).unflatten(-1, (self.engine.heads, 1, -1))

        def attend(index: int, layer: Attention, normed: Tensor) -> Tensor:
            query, *own = heads(self.linears(normed, layer.q, layer.k, layer.v))
            keys, values = self.cache[:, index, :, :, : self.step]
            keys[:, :, -1:], values[:, :, -1:] = own
            return _look(query, keys, values, own_bias).view(count, -1)

        def attend_prompt(index: int, layer: Attention, normed: Tensor) -> Tensor:
            (query,) = heads(self.linears(normed, layer.q))
            outputs = [
                _look(part, group.keys[index], group.values[index], group.bias)
                for part, group in zip(query.split(counts), self.prompts, strict=True)
            ]
            return torch.cat(outputs).view(count, -1)

        decoder = self.engine.decoder
        hidden = self.engine.run(decoder, tokens, attend, attend_prompt, self.linears)
        return self.engine.norm(decoder.final_layer_norm, hidden, hidden.dtype)

    def _grow(self) -> None:
        capacity = max(32, 2 * self.step)
        distances = torch.arange(1 - capacity, 1, device=self.cache.device)
        self.cache = F.pad(self.cache, (0, 0, 0, capacity - self.step))
        self.bias = self.engine.bias_line(self.engine.decoder, distances, causal=True)

    def _heads(self, rows: Tensor) -> Tensor:
        """Return [n, H, S, dk], contiguous, of [n, S, H * dk]."""
        heads = rows.unflatten(-1, (self.engine.heads, -1)).transpose(1, 2)
        return heads.to(self.engine.attention_dtype, memory_format=torch.contiguous_format)


def _look(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Return the attention [b, H, 1, dk] of one query a sequence to its keys and values [b, H, S, dk]."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype), scale=1.0)
    # The CPU's fused kernel repacks all keys for one query, and `matmul` expands what `bmm` takes as it is.
    scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).view(*query.shape[:2], 1, -1)
    weights = scores.add_(bias).softmax(-1)
    return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view_as(query)
