"""The packed T5 engine: linear layers on the tokens of all sequences end to end, attention within each one.

It computes what the modules of `transformers` compute, from their own weights and those of their LoRA layers,
read in place at every call.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from detox import packing
from detox.engine import Encoded, Engine
from detox.layers import GatedGelu, Known, RmsNorm, is_known_linear, linear, linear_of_few, weight_of, wide
from detox.packing import Group, Packing

ROW_MULTIPLE = 64
"""Rows of a bfloat16 product are rounded up to it: oneDNN keeps a compiled kernel for each number of rows."""

ENCODE_ROWS = {"cpu": 1536, "cuda": 8192}
"""Tokens encoded at once; few on a processor, whose cache then holds a layer's activations."""

KNOWN_BYTES = 2**28
"""Memory for keys and values of prompts, before LoRA, from one pass over a rollout to the next."""

LINEARS = frozenset(("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"))

Stack = Any
Attention = Any
Norm = Any
"""T5Stack, T5Attention and T5LayerNorm of `transformers`: what is inside a module, torch declares no type for."""

Attend = Callable[[int, Attention, Tensor], Tensor]
"""Attention of a layer: its index, module and normed input [rows, d] -> the heads' outputs [rows, H * dk]."""

Linear = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class MemoryGroup:
    """Prompts of alike length while their responses are generated.

    Attributes:
        rows: [b] int64, where they stand in the batch.
        bias: [b, 1, 1, S] float32, 0 at a token of the prompt, else -inf.
        keys: of each layer, [b, H, S, dk].
        values: of each layer, [b, H, S, dk].
    """

    rows: Tensor
    bias: Tensor
    keys: list[Tensor]
    values: list[Tensor]


@dataclass
class DecodingState:
    """An incremental decoding of b sequences after `step` tokens.

    Attributes:
        memory: the prompts, grouped.
        cache: [2, layers, b, H, capacity, dk], keys and values of the tokens so far.
        bias: [H, capacity] float32, the relative position bias of distances capacity - 1 down to 0.
        step: tokens so far.
    """

    memory: list[MemoryGroup]
    cache: Tensor
    bias: Tensor
    step: int = 0


class PackedT5Engine(Engine):
    """T5 and Flan-T5 (relu or gated gelu, tied or untied head), with or without LoRA, without padding.

    Dropout is never applied, as in the other engine. Matrix products, those with LoRA factors too, are in
    the dtype of the frozen weights. The residual stream, norms and softmax are in float32, and on a CPU all of
    attention, whose fused kernel is no faster in bfloat16 there, and slower backwards; the factors and their
    gradients are kept in theirs.
    """

    kind = "packed"

    def __init__(self, model: nn.Module, value_head: nn.Module | None = None, value_reads_detached: bool = True):
        super().__init__(model, value_head, value_reads_detached)
        self.encoder: Stack = self.base.encoder
        self.decoder: Stack = self.base.decoder
        self.heads: int = self.base.config.num_heads
        self.dtype = self.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype
        # On an accelerator, few kernels to launch are worth more than no padding.
        self.slot_multiple = 1 if self.device.type == "cpu" else ROW_MULTIPLE
        self.row_multiple = ROW_MULTIPLE if self.dtype == torch.bfloat16 else 1
        self.attention_dtype = self.dtype
        if self.device.type == "cpu":
            self.attention_dtype = torch.promote_types(self.dtype, torch.float32)

    @staticmethod
    def supports(model: Any) -> bool:
        """Return whether `model` is a T5 whose every layer this engine knows."""
        adapters = getattr(model, "peft_config", {}).values()
        base = model.get_base_model() if adapters else model
        if not isinstance(base, T5ForConditionalGeneration) or base.config.model_type != "t5":
            return False
        if (base.config.is_gated_act, base.config.dense_act_fn) not in ((True, "gelu_new"), (False, "relu")):
            return False
        stacks = (base.encoder, base.decoder)
        named = [item for stack in stacks for item in stack.named_modules()]
        return (
            all(adapter.peft_type == "LORA" for adapter in adapters)
            and all(is_known_linear(layer) for name, layer in named if name.rpartition(".")[2] in LINEARS)
            and all(type(stack.embed_tokens) is nn.Embedding for stack in stacks)
            and type(base.get_output_embeddings()) is nn.Linear
        )

    # ---------------------------------------------------------------------------- whole sequences at once

    def encode(self, queries: Sequence[Tensor], *, reference: bool = False) -> Encoded:
        lengths = [len(query) for query in queries]
        rows = [torch.empty(0)] * len(queries)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_is_trained and not reference):
            for part in packing.parts(lengths, ENCODE_ROWS.get(self.device.type, ENCODE_ROWS["cpu"])):
                hidden = self._encode([queries[i].to(self.device) for i in part], not reference)
                for i, row in zip(part, hidden.split([lengths[i] for i in part]), strict=True):
                    rows[i] = row
            return Encoded(torch.cat(rows), tuple(lengths))

    def _encode(self, queries: list[Tensor], adapters: bool) -> Tensor:
        lengths = [len(query) for query in queries]
        slots = self._slots(lengths)
        packed = self._pack(lengths, slots, sorted(range(len(queries)), key=lambda i: slots[i]))
        groups = packing.attention_groups(packed, packed)
        biases = self._biases(self.encoder, groups, causal=False)
        apply = functools.partial(linear, adapters=adapters)

        def attend(_: int, layer: Attention, normed: Tensor) -> Tensor:
            query, key, value = (apply(part, normed) for part in (layer.q, layer.k, layer.v))
            return self._attend(query, key, value, groups, biases)

        hidden = self._run(self.encoder, torch.cat(queries)[packed.source], attend, None, apply)
        return self._norm(self.encoder.final_layer_norm, hidden, self.dtype)[packed.rows_of]

    def decode(self, encoded: Encoded, responses: Sequence[Tensor], *, reference: bool = False) -> Tensor:
        start = torch.tensor([self.start_id], device=self.device)
        inputs = torch.cat([part for ids in responses for part in (start, ids[:-1].to(self.device))])
        lengths = [len(response) for response in responses]
        slots, prompt_slots = self._slots(lengths), self._slots(encoded.lengths)
        order = sorted(range(len(lengths)), key=lambda i: (prompt_slots[i], slots[i]))
        packed, prompts = self._pack(lengths, slots, order), self._pack(encoded.lengths, prompt_slots, order)
        groups, prompt_groups = (packing.attention_groups(packed, keys) for keys in (packed, prompts))
        masks = [group.mask for group in prompt_groups]
        apply = functools.partial(linear, adapters=not reference)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not reference):
            memory = encoded.hidden[prompts.source]
            biases = self._biases(self.decoder, groups, causal=True)

            def attend(_: int, layer: Attention, normed: Tensor) -> Tensor:
                query, key, value = (apply(part, normed) for part in (layer.q, layer.k, layer.v))
                return self._attend(query, key, value, groups, biases)

            def attend_prompt(_: int, layer: Attention, normed: Tensor) -> Tensor:
                key, value = (
                    apply(part, memory, known=self._known(part, encoded, prompts)) for part in (layer.k, layer.v)
                )
                return self._attend(apply(layer.q, normed), key, value, prompt_groups, masks)

            hidden = self._run(self.decoder, inputs[packed.source], attend, attend_prompt, apply)
            return self._norm(self.decoder.final_layer_norm, hidden[packed.rows_of], hidden.dtype)

    def _known(self, part: nn.Module, encoded: Encoded, prompts: Packing) -> Known | None:
        """Return the product of prompts with a frozen weight that all passes over a rollout share, if it is small."""
        weight = weight_of(part)
        if encoded.origin is None or encoded.hidden.requires_grad or weight.requires_grad:
            return None
        whole, rows = encoded.origin
        if 2 * len(self.decoder.block) * len(whole.hidden) * len(weight) * weight.itemsize > KNOWN_BYTES:
            return None
        if part not in whole.products:
            whole.products[part] = F.linear(self._padded(whole.hidden), weight)
        return whole.products[part], rows[prompts.source]

    def _run(self, stack: Stack, ids: Tensor, attend: Attend, attend_prompt: Attend | None, apply: Linear) -> Tensor:
        """Return the residual stream [rows, d], float32, after the blocks of a stack, for ids [rows]."""
        hidden = wide(F.embedding(ids, stack.embed_tokens.weight))
        for index, block in enumerate(stack.block):
            own, *cross, feed = block.layer
            normed = self._norm(own.layer_norm, hidden, self.dtype)
            hidden = hidden + apply(own.SelfAttention.o, attend(index, own.SelfAttention, normed))
            if cross and attend_prompt is not None:
                normed = self._norm(cross[0].layer_norm, hidden, self.dtype)
                attention = cross[0].EncDecAttention
                hidden = hidden + apply(attention.o, attend_prompt(index, attention, normed))
            dense = feed.DenseReluDense
            normed = self._norm(feed.layer_norm, hidden, self.dtype)
            if self.base.config.is_gated_act:
                inner = GatedGelu.apply(apply(dense.wi_0, normed), apply(dense.wi_1, normed))
            else:
                inner = apply(dense.wi, normed).relu()
            hidden = hidden + apply(dense.wo, inner)
        return hidden

    def _norm(self, norm: Norm, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        return RmsNorm.apply(hidden, norm.weight, norm.variance_epsilon, dtype)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, groups: list[Group], biases: Sequence[Tensor | None]
    ) -> Tensor:
        """Return softmax(query key' + bias) value of each sequence, of packed [rows, H * dk]."""
        rows = len(query)
        query, key, value = (x.to(self.attention_dtype) for x in (query, key, value))
        query_rows = [group.count * group.queries for group in groups]
        key_rows = [group.count * group.keys for group in groups]
        queries = query.split([*query_rows, rows - sum(query_rows)])
        keys, values = (x.split([*key_rows, len(x) - sum(key_rows)]) for x in (key, value))
        outputs = []
        # What is left of each split are the rows that hold nothing.
        for group, bias, q, k, v in zip(groups, biases, queries, keys, values, strict=False):
            q = q.view(group.count, group.queries, self.heads, -1).transpose(1, 2)
            k, v = (x.view(group.count, group.keys, self.heads, -1).transpose(1, 2) for x in (k, v))
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(bias), scale=1.0)
            outputs.append(output.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat([*outputs, query.new_zeros(rows - sum(query_rows), query.shape[1])])

    def _biases(self, stack: Stack, groups: list[Group], causal: bool) -> list[Tensor]:
        """Return what each group's attention scores get added, [count or 1, H, length, length] float32."""
        longest = max(group.queries for group in groups)
        line = self._bias_line(stack, torch.arange(1 - longest, longest, device=self.device), causal)
        biases = []
        for group in groups:
            length = group.queries
            # Row i reads distances -i .. length - 1 - i: a window on the line, the last one first.
            bias = line[:, longest - length : longest + length - 1].unfold(1, length, 1).flip(1)[None]
            if group.mask is not None and not causal:
                bias = bias.masked_fill(~group.mask, -torch.inf)
            biases.append(bias)
        return biases

    def _bias_line(self, stack: Stack, distances: Tensor, causal: bool) -> Tensor:
        """Return the bias [H, n] float32 of keys `distances` [n] after the query; -inf for a future key."""
        attention = stack.block[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            distances,
            bidirectional=not causal,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        line = wide(attention.relative_attention_bias(buckets)).T
        return line.masked_fill(distances > 0, -torch.inf) if causal else line

    def _mask(self, bias: Tensor | None) -> Tensor | None:
        return bias if bias is None or bias.dtype == torch.bool else bias.to(self.attention_dtype)

    def _slots(self, lengths: Sequence[int]) -> list[int]:
        return [packing.round_up(length, self.slot_multiple) for length in lengths]

    def _pack(self, lengths: Sequence[int], slots: Sequence[int], order: Sequence[int]) -> Packing:
        return packing.pack(lengths, slots, order, self.row_multiple, self.device)

    def _padded(self, hidden: Tensor) -> Tensor:
        return F.pad(hidden, (0, 0, 0, -len(hidden) % self.row_multiple))

    # ------------------------------------------------------------------------------------- token by token

    @torch.no_grad()
    def start(self, encoded: Encoded) -> DecodingState:
        lengths = encoded.lengths
        begins = list(itertools.accumulate(lengths, initial=0))
        groups = []
        for members in packing.alike(lengths):
            sizes = torch.tensor([lengths[i] for i in members], device=self.device)
            positions = torch.arange(int(sizes.max()), device=self.device)[None, :]
            mask = positions < sizes[:, None]
            index = torch.tensor([begins[i] for i in members], device=self.device)[:, None] + positions * mask
            rows = torch.tensor(members, device=self.device)
            bias = torch.zeros(mask.shape, device=self.device).masked_fill_(~mask, -torch.inf)
            groups.append((MemoryGroup(rows, bias[:, None, None], keys=[], values=[]), index))
        memory = self._padded(encoded.hidden)
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            key, value = linear(attention.k, memory, True), linear(attention.v, memory, True)
            for group, index in groups:
                group.keys.append(self._split_heads(key[index]))
                group.values.append(self._split_heads(value[index]))
        shape = (2, len(self.decoder.block), len(encoded), self.heads, 0, key.shape[-1] // self.heads)
        cache = torch.empty(shape, dtype=self.attention_dtype, device=self.device)
        return DecodingState([group for group, _ in groups], cache, torch.empty(0))

    @torch.no_grad()
    def advance(self, state: DecodingState, tokens: Tensor) -> Tensor:
        if state.step == state.cache.shape[-2]:
            self._grow(state)
        state.step += 1
        bias = state.bias[:, -state.step :][None, :, None]
        apply = functools.partial(linear_of_few, adapters=True)

        def heads(part: nn.Module, normed: Tensor) -> Tensor:
            return apply(part, normed).to(self.attention_dtype).view(len(normed), self.heads, 1, -1)

        def attend(index: int, layer: Attention, normed: Tensor) -> Tensor:
            keys, values = state.cache[:, index, :, :, : state.step]
            keys[:, :, -1:], values[:, :, -1:] = heads(layer.k, normed), heads(layer.v, normed)
            return self._look(heads(layer.q, normed), keys, values, bias).view(len(normed), -1)

        def attend_prompt(index: int, layer: Attention, normed: Tensor) -> Tensor:
            query = heads(layer.q, normed)
            output = torch.empty_like(query)
            for group in state.memory:
                output[group.rows] = self._look(query[group.rows], group.keys[index], group.values[index], group.bias)
            return output.view(len(normed), -1)

        hidden = self._run(self.decoder, tokens, attend, attend_prompt, apply)
        return self._norm(self.decoder.final_layer_norm, hidden, hidden.dtype)

    def _look(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the attention [b, H, 1, dk] of one query a sequence to its keys and values [b, H, S, dk]."""
        if query.device.type != "cpu":
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=self._mask(bias), scale=1.0)
        # The CPU's fused kernel repacks all keys for one query.
        return (query @ keys.transpose(-1, -2)).add_(bias).softmax(-1) @ values

    def keep(self, state: DecodingState, indices: Tensor) -> None:
        moved = torch.full((state.cache.shape[2],), -1, device=self.device)
        moved[indices] = torch.arange(len(indices), device=self.device)
        state.cache = state.cache[:, :, indices]
        for group in state.memory:
            group.rows = moved[group.rows]
            staying = (group.rows >= 0).nonzero().squeeze(1)
            if len(staying) < len(group.rows):
                group.rows, group.bias = group.rows[staying], group.bias[staying]
                group.keys = [keys[staying] for keys in group.keys]
                group.values = [values[staying] for values in group.values]
        state.memory = [group for group in state.memory if len(group.rows)]

    def _grow(self, state: DecodingState) -> None:
        capacity = max(32, 2 * state.step)
        state.cache = F.pad(state.cache, (0, 0, 0, capacity - state.step))
        distances = torch.arange(1 - capacity, 1, device=self.device)
        state.bias = self._bias_line(self.decoder, distances, causal=True)

    def _split_heads(self, rows: Tensor) -> Tensor:
        """Return [b, H, S, dk], contiguous, of [b, S, H * dk]."""
        heads = rows.view(*rows.shape[:2], self.heads, -1).transpose(1, 2)
        return heads.to(self.attention_dtype, memory_format=torch.contiguous_format)
