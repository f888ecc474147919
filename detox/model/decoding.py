"""Incremental decoding by the packed T5 engine: a growing cache, and prompts of alike length looked at together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detox.model import packing
from detox.model.engine import Encoded
from detox.model.layers import LinearsOfFew, linears
from detox.model.t5_stacks import Attention, Norm, T5Stacks

ALIGNMENT = 8
"""Numbers, of two or four bytes, that CUDA's fused attention reads at once of a mask, wherever that lies."""


@dataclass
class Prompts:
    """Prompts of alike length, side by side in a decoding.

    Attributes:
        bias: [n, 1, 1, S], 0 at a token of the prompt, else -inf.
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

    LoRA factors, and the weights of norms, are read at the first step only.

    Attributes:
        order: which of the caller's sequences each of them is.
        places: [b] int64, the same.
        prompts: groups of prompts, in that order.
        cache: [2, layers, b, H, capacity, dk], keys and values of the tokens so far.
        biases: [8, H, capacity], the relative position bias of distances capacity - 1 down to 0, moved to the left by
            0 to 7, so that those of the last tokens begin at a multiple of 8 in one of them, whatever their number.
        step: tokens so far.

    Args:
        engine: runs the decoder.
        encoded: b prompts.
    """

    def __init__(self, engine: T5Stacks, encoded: Encoded):
        self.engine = engine
        self.linears = LinearsOfFew(engine.attention_dtype)
        self.norms: dict[Norm, Tensor] = {}
        self.step = 0
        lengths, device = encoded.lengths, engine.device
        begins = list(itertools.accumulate(lengths, initial=0))
        groups = packing.alike(lengths, engine.traits.alike)
        self.order = [i for members in groups for i in members]
        ends, starts = torch.tensor([[item[i] for i in self.order] for item in (lengths, begins)]).to(device)
        self.prompts: list[Prompts] = []
        sources = []
        sizes = [len(members) for members in groups]
        for members, end, start in zip(groups, ends.split(sizes), starts.split(sizes), strict=True):
            longest = packing.round_up(max(lengths[i] for i in members), engine.traits.slot_multiple)
            positions = torch.arange(longest, device=device)
            there = positions < end[:, None]
            sources.append(start[:, None] + positions * there)
            bias = torch.zeros(there.shape, dtype=engine.attention_dtype, device=device)
            self.prompts.append(Prompts(bias.masked_fill_(~there, -torch.inf)[:, None, None], [], []))
        self.places = torch.tensor(self.order, device=device)
        memory = engine.padded(encoded.hidden)
        for block in engine.decoder.block:
            attention = block.layer[1].EncDecAttention
            key, value = linears(memory, attention.k, attention.v, adapters=True)
            for group, source in zip(self.prompts, sources, strict=True):
                group.keys.append(self._heads(key[source]))
                group.values.append(self._heads(value[source]))
        shape = (2, len(engine.decoder.block), len(encoded), engine.heads, 0, key.shape[-1] // engine.heads)
        self.cache = torch.empty(shape, dtype=engine.attention_dtype, device=device)
        self.biases = torch.empty(0)

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed tokens [b]; return the hidden states [b, d] that predict the next, in the caller's order."""
        if self.step == self.cache.shape[-2]:
            self._grow()
        self.step += 1
        rows = self._run(tokens[self.places])
        return torch.empty_like(rows).index_copy_(0, self.places, rows)

    def keep(self, indices: Sequence[int]) -> None:
        """Leave only the sequences at `indices` of the caller's, in that order."""
        moved = {before: now for now, before in enumerate(indices)}
        staying, within, first = [], [], 0
        for group in self.prompts:
            of_group = [i for i in range(len(group)) if self.order[first + i] in moved]
            staying += [first + i for i in of_group]
            within.append(of_group)
            first += len(group)
        self.order = [moved[self.order[place]] for place in staying]
        # All that says who stays goes to the device at once.
        told = torch.tensor([staying, self.order, list(itertools.chain.from_iterable(within))]).to(self.cache.device)
        places, self.places, flat = told
        self.cache = self.cache[:, :, places]
        parts = flat.split([len(of_group) for of_group in within])
        self.prompts = [group.select(part) for group, part in zip(self.prompts, parts, strict=True) if len(part)]

    def norm(self, norm: Norm, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the engine's norm, with a weight that needs no cast at every step."""
        if norm not in self.norms:
            self.norms[norm] = norm.weight.to(hidden.dtype)
        return self.engine.norm(norm, hidden, dtype, self.norms[norm])

    def _run(self, tokens: Tensor) -> Tensor:
        count, begin = len(tokens), self.biases.shape[-1] - self.step
        shift = begin % ALIGNMENT
        own_bias = self.biases[shift, None, :, None, begin - shift : begin - shift + self.step]
        counts = [len(group) for group in self.prompts]

        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (self.engine.heads, 1, -1))

        def attend(index: int, layer: Attention, normed: Tensor) -> Tensor:
            made = heads(self.linears(normed, layer.q, layer.k, layer.v))
            known = self.cache[:, index, :, :, : self.step]
            known[:, :, :, -1:] = made[1:]
            return self._look(made[0], known[0], known[1], own_bias).view(count, -1)

        def attend_prompt(index: int, layer: Attention, normed: Tensor) -> Tensor:
            (query,) = heads(self.linears(normed, layer.q))
            outputs = [
                self._look(part, group.keys[index], group.values[index], group.bias)
                for part, group in zip(query.split(counts), self.prompts, strict=True)
            ]
            return (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).view(count, -1)

        decoder = self.engine.decoder
        hidden = self.engine.run(decoder, tokens, attend, attend_prompt, self.linears, self.norm)
        return self.norm(decoder.final_layer_norm, hidden, hidden.dtype)

    def _grow(self) -> None:
        capacity = max(32, 2 * self.step)
        distances = torch.arange(1 - capacity, 1, device=self.cache.device)
        self.cache = F.pad(self.cache, (0, 0, 0, capacity - self.step))
        line = self.engine.bias_line(self.engine.decoder, distances, causal=True)
        longer = F.pad(line, (0, ALIGNMENT))
        self.biases = torch.stack([longer[:, shift : shift + capacity] for shift in range(ALIGNMENT)])

    def _heads(self, rows: Tensor) -> Tensor:
        """Return [n, H, S, dk], contiguous, of [n, S, H * dk]."""
        heads = rows.unflatten(-1, (self.engine.heads, -1)).transpose(1, 2)
        return heads.to(self.engine.attention_dtype, memory_format=torch.contiguous_format)

    def _look(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the attention [b, H, 1, dk] of one query a sequence to its keys and values [b, H, S, dk]."""
        if self.engine.traits.fused:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        # `matmul` expands what `bmm` takes as it is.
        scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).view(*query.shape[:2], 1, -1)
        weights = scores.add_(bias).softmax(-1)
        return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view_as(query)
