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
    """Prompts of alike length, side by side in a decoding, each with its responses.

    Attributes:
        counts: responses to each of the n prompts, m at most.
        slots: [responses] int64, the place of each among n * m, or None if there are as many.
        bias: [n, 1, 1, S], 0 at a token of the prompt, else -inf.
        keys: of each layer, [n, H, S, dk].
        values: of each layer, [n, H, S, dk].
    """

    counts: list[int]
    slots: Tensor | None
    bias: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def __len__(self) -> int:
        return sum(self.counts)

    def spread(self, rows: Tensor) -> Tensor:
        """Return rows of the responses [b, H, 1, dk] by their prompts, [n, H, m, dk]."""
        rows = rows.squeeze(2)
        if self.slots is not None:
            rows = rows.new_zeros(len(self.counts) * max(self.counts), *rows.shape[1:]).index_copy_(0, self.slots, rows)
        return rows.unflatten(0, (len(self.counts), -1)).transpose(1, 2)

    def collect(self, rows: Tensor) -> Tensor:
        """Return what `spread` gave, [n, H, m, dk], as rows of the responses [b, H, dk]."""
        rows = rows.transpose(1, 2).flatten(0, 1)
        return rows if self.slots is None else rows[self.slots]


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
        once, responses = encoded.different()
        lengths, device = once.lengths, engine.device
        begins = list(itertools.accumulate(lengths, initial=0))
        groups = packing.alike(lengths, engine.traits.alike)
        of_prompts = [i for members in groups for i in members]
        self.order = [i for prompt in of_prompts for i in responses[prompt]]
        ends, starts = torch.tensor([[item[i] for i in of_prompts] for item in (lengths, begins)]).to(device)
        self.prompts: list[Prompts] = []
        sources = []
        sizes = [len(members) for members in groups]
        for members, end, start in zip(groups, ends.split(sizes), starts.split(sizes), strict=True):
            longest = packing.round_up(max(lengths[i] for i in members), engine.traits.slot_multiple)
            positions = torch.arange(longest, device=device)
            there = positions < end[:, None]
            sources.append(start[:, None] + positions * there)
            bias = torch.zeros(there.shape, dtype=engine.attention_dtype, device=device)
            bias = bias.masked_fill_(~there, -torch.inf)[:, None, None]
            counts = [len(responses[i]) for i in members]
            places = _slots(counts)
            slots = None if places is None else torch.tensor(places, device=device)
            self.prompts.append(Prompts(counts, slots, bias, [], []))
        self.places = torch.tensor(self.order, device=device)
        memory = engine.padded(once.hidden)
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
        stays = [before in moved for before in self.order]
        staying = [place for place, kept in enumerate(stays) if kept]
        self.order = [moved[self.order[place]] for place in staying]
        told, groups, marks = [staying, self.order], [], iter(stays)
        for group in self.prompts:
            counts = [sum(itertools.islice(marks, count)) for count in group.counts]
            with_any = [i for i, count in enumerate(counts) if count]
            if with_any:
                group.counts = [counts[i] for i in with_any]
                groups.append(group)
                told += [with_any, _slots(group.counts) or []]
        # All that says who stays goes to the device at once.
        on_device = torch.tensor(list(itertools.chain.from_iterable(told))).to(self.cache.device)
        places, self.places, *parts = on_device.split(list(map(len, told)))
        self.cache = self.cache[:, :, places]
        for group, with_any, slots in zip(groups, parts[::2], parts[1::2], strict=True):
            group.slots = slots if len(slots) else None
            if len(with_any) < len(group.bias):
                group.bias = group.bias[with_any]
                group.keys, group.values = ([layer[with_any] for layer in x] for x in (group.keys, group.values))
        self.prompts = groups

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
                group.collect(self._look(group.spread(part), group.keys[index], group.values[index], group.bias))
                for part, group in zip(query.split(counts), self.prompts, strict=True)
            ]
            return (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).flatten(1)

        decoder = self.engine.decoder
        hidden = self.engine.run(decoder, tokens, attend, attend_prompt, self.linears, self.norm)
        return self.norm(decoder.final_layer_norm, hidden, hidden.dtype)

    def _grow(self) -> None:
        capacity = max(32, 2 * self.step)
        distances = torch.arange(1 - capacity, 1, device=self.cache.device)
        cache = self.cache.new_empty(*self.cache.shape[:-2], capacity, self.cache.shape[-1])
        cache[..., : self.step, :] = self.cache[..., : self.step, :]
        self.cache = cache
        line = self.engine.bias_line(self.engine.decoder, distances, causal=True)
        longer = F.pad(line, (0, ALIGNMENT))
        self.biases = torch.stack([longer[:, shift : shift + capacity] for shift in range(ALIGNMENT)])

    def _heads(self, rows: Tensor) -> Tensor:
        """Return [n, H, S, dk], contiguous, of [n, S, H * dk]."""
        heads = rows.unflatten(-1, (self.engine.heads, -1)).transpose(1, 2)
        return heads.to(self.engine.attention_dtype, memory_format=torch.contiguous_format)

    def _look(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the attention [b, H, m, dk] of m queries to the keys and values [b, H, S, dk] of one sequence."""
        if self.engine.traits.fused:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        # `matmul` expands what `bmm` takes as it is.
        scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).view(*query.shape[:3], -1)
        weights = scores.add_(bias).softmax(-1)
        return torch.bmm(weights.flatten(0, 1), values.flatten(0, 1)).view_as(query)


def _slots(counts: list[int]) -> list[int] | None:
    """Return the place of each response where every prompt has room for as many as any has; None if all are taken."""
    most = max(counts)
    if most * len(counts) == sum(counts):
        return None
    return [i * most + j for i, count in enumerate(counts) for j in range(count)]
