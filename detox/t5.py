"""The packed T5 engine: linear layers on the tokens of all sequences end to end, attention within each one.

It computes what the modules of `transformers` compute, from their own weights and those of their LoRA layers,
read in place at every call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm, T5Stack

from detox.engine import Encoded, Engine

ROW_MULTIPLE = 64
"""Rows of a bfloat16 product are rounded up to it: oneDNN keeps a compiled kernel for each number of rows."""

ENCODE_ROWS = {"cpu": 1536, "cuda": 8192}
"""Tokens encoded at once; few on a processor, whose cache then holds a layer's activations."""

LINEARS = frozenset(("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"))

Attend = Callable[[int, T5Attention, Tensor], Tensor]
"""Attention of a layer: its index, module and normed input [rows, d] -> the heads' outputs [rows, H * dk]."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens of sequences lie in packed rows: each sequence in a slot, then rows that hold nothing.

    Attributes:
        slots: rows of each sequence, in the order in which they lie there; at least its tokens.
        lengths: tokens of each sequence, in that order.
        source: [rows] int64, which of the caller's tokens (its sequences end to end) lies there, or 0.
        rows_of: [tokens] int64, the row of each of the caller's tokens.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    source: Tensor
    rows_of: Tensor


@dataclass(frozen=True)
class Group:
    """Neighbours in packed rows with equal slots, for which attention is computed at once.

    Attributes:
        count: sequences.
        queries: rows of the slot of each on the querying side.
        keys: rows of the slot of each on the side that is looked at.
        mask: [count, 1, 1, keys] bool, True = a token, or None if all are.
    """

    count: int
    queries: int
    keys: int
    mask: Tensor | None


@dataclass
class MemoryGroup:
    """Prompts of alike length while their responses are generated.

    Attributes:
        rows: [b] int64, where they stand in the batch.
        mask: [b, 1, 1, S] bool, True = a token of the prompt.
        keys: of each layer, [b, H, S, dk].
        values: of each layer, [b, H, S, dk].
    """

    rows: Tensor
    mask: Tensor
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
    the dtype of the frozen weights. The residual stream, norms and softmax are in float32; the factors and
    their gradients are kept in theirs.
    """

    kind = "packed"

    def __init__(self, model: nn.Module, value_head: nn.Module | None = None, value_reads_detached: bool = True):
        super().__init__(model, value_head, value_reads_detached)
        self.encoder: T5Stack = self.base.encoder
        self.decoder: T5Stack = self.base.decoder
        self.heads: int = self.base.config.num_heads
        self.dtype = self.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype
        # On an accelerator, few kernels to launch are worth more than no padding.
        self.slot_multiple = 1 if self.device.type == "cpu" else ROW_MULTIPLE
        self.row_multiple = ROW_MULTIPLE if self.dtype == torch.bfloat16 else 1

    @staticmethod
    def supports(model: nn.Module) -> bool:
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
            and all(_is_known_linear(layer) for name, layer in named if name.rpartition(".")[2] in LINEARS)
            and all(type(stack.embed_tokens) is nn.Embedding for stack in stacks)
            and type(base.get_output_embeddings()) is nn.Linear
        )

    # ---------------------------------------------------------------------------- whole sequences at once

    def encode(self, queries: Sequence[Tensor], *, reference: bool = False) -> Encoded:
        lengths = [len(query) for query in queries]
        rows: list[Tensor | None] = [None] * len(queries)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_is_trained and not reference):
            for part in _parts(lengths, ENCODE_ROWS.get(self.device.type, ENCODE_ROWS["cpu"])):
                hidden = self._encode([queries[i].to(self.device) for i in part], not reference)
                for i, row in zip(part, hidden.split([lengths[i] for i in part]), strict=True):
                    rows[i] = row
            return Encoded(torch.cat(rows), tuple(lengths))

    def _encode(self, queries: list[Tensor], adapters: bool) -> Tensor:
        lengths = [len(query) for query in queries]
        slots = self._slots(lengths)
        order = sorted(range(len(queries)), key=lambda i: slots[i])
        packing = self._pack(lengths, slots, order)
        groups = _groups(packing, packing)
        biases = self._biases(self.encoder, groups, causal=False)

        def attend(_: int, layer: T5Attention, normed: Tensor) -> Tensor:
            return self._attend(*_project(layer, normed, adapters), groups, biases)

        hidden = self._run(self.encoder, torch.cat(queries)[packing.source], attend, None, adapters)
        return self._norm(self.encoder.final_layer_norm, hidden, self.dtype)[packing.rows_of]

    def decode(self, encoded: Encoded, responses: Sequence[Tensor], *, reference: bool = False) -> Tensor:
        adapters = not reference
        start = torch.tensor([self.start_id], device=self.device)
        inputs = torch.cat([part for ids in responses for part in (start, ids[:-1].to(self.device))])
        lengths = [len(response) for response in responses]
        slots, memory_slots = self._slots(lengths), self._slots(encoded.lengths)
        order = sorted(range(len(lengths)), key=lambda i: (memory_slots[i], slots[i]))
        packing = self._pack(lengths, slots, order)
        memory_packing = self._pack(encoded.lengths, memory_slots, order)
        groups, cross_groups = _groups(packing, packing), _groups(packing, memory_packing)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not reference):
            memory = encoded.hidden[memory_packing.source]
            biases = self._biases(self.decoder, groups, causal=True)
            masks = [group.mask for group in cross_groups]

            def attend(_: int, layer: T5Attention, normed: Tensor) -> Tensor:
                return self._attend(*_project(layer, normed, adapters), groups, biases)

            def attend_prompt(_: int, layer: T5Attention, normed: Tensor) -> Tensor:
                key, value = linear(layer.k, memory, adapters), linear(layer.v, memory, adapters)
                return self._attend(linear(layer.q, normed, adapters), key, value, cross_groups, masks)

            hidden = self._run(self.decoder, inputs[packing.source], attend, attend_prompt, adapters)
            return self._norm(self.decoder.final_layer_norm, hidden[packing.rows_of], hidden.dtype)

    def _run(self, stack: T5Stack, ids: Tensor, attend: Attend, attend_prompt: Attend | None, adapters: bool) -> Tensor:
        """Return the residual stream [rows, d], float32, after the blocks of a stack, for ids [rows]."""
        hidden = _wide(F.embedding(ids, stack.embed_tokens.weight))
        for index, block in enumerate(stack.block):
            own, *cross, feed = block.layer
            normed = self._norm(own.layer_norm, hidden, self.dtype)
            hidden = hidden + linear(own.SelfAttention.o, attend(index, own.SelfAttention, normed), adapters)
            if cross:
                normed = self._norm(cross[0].layer_norm, hidden, self.dtype)
                attention = cross[0].EncDecAttention
                hidden = hidden + linear(attention.o, attend_prompt(index, attention, normed), adapters)
            dense = feed.DenseReluDense
            normed = self._norm(feed.layer_norm, hidden, self.dtype)
            if self.base.config.is_gated_act:
                inner = _GatedGelu.apply(linear(dense.wi_0, normed, adapters), linear(dense.wi_1, normed, adapters))
            else:
                inner = linear(dense.wi, normed, adapters).relu()
            hidden = hidden + linear(dense.wo, inner, adapters)
        return hidden

    def _norm(self, norm: T5LayerNorm, hidden: Tensor, dtype: torch.dtype) -> Tensor:
        return _RmsNorm.apply(hidden, norm.weight, norm.variance_epsilon, dtype)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, groups: list[Group], biases: list[Tensor | None]
    ) -> Tensor:
        """Return softmax(query key' + bias) value of each sequence, of packed [rows, H * dk]."""
        rows = len(query)
        if query.device.type == "cpu" and torch.is_grad_enabled():
            # The backward pass of the CPU's fused kernel takes up to four times as long in bfloat16.
            query, key, value = _wide(query), _wide(key), _wide(value)
        query_rows = [group.count * group.queries for group in groups]
        key_rows = [group.count * group.keys for group in groups]
        queries = query.split([*query_rows, rows - sum(query_rows)])
        keys, values = (x.split([*key_rows, len(x) - sum(key_rows)]) for x in (key, value))
        outputs = []
        # What is left of each split are the rows that hold nothing.
        for group, bias, q, k, v in zip(groups, biases, queries, keys, values, strict=False):
            q = q.view(group.count, group.queries, self.heads, -1).transpose(1, 2)
            k, v = (x.view(group.count, group.keys, self.heads, -1).transpose(1, 2) for x in (k, v))
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask_for(q, bias), scale=1.0)
            outputs.append(output.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat([*outputs, query.new_zeros(rows - sum(query_rows), query.shape[1])])

    def _biases(self, stack: T5Stack, groups: list[Group], causal: bool) -> list[Tensor]:
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

    def _bias_line(self, stack: T5Stack, distances: Tensor, causal: bool) -> Tensor:
        """Return the bias [H, n] float32 of keys `distances` [n] after the query; -inf for a future key."""
        attention = stack.block[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            distances,
            bidirectional=not causal,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        line = _wide(attention.relative_attention_bias(buckets)).T
        return line.masked_fill(distances > 0, -torch.inf) if causal else line

    def _slots(self, lengths: Sequence[int]) -> list[int]:
        return [_round_up(length, self.slot_multiple) for length in lengths]

    def _pack(self, lengths: Sequence[int], slots: Sequence[int], order: Sequence[int]) -> Packing:
        begins = itertools.accumulate([slots[i] for i in order], initial=0)
        starts = dict(zip(order, begins, strict=False))
        shifts = [starts[i] - begin for i, begin in enumerate(itertools.accumulate(lengths[:-1], initial=0))]
        tokens = torch.arange(sum(lengths))
        rows_of = tokens + torch.tensor(shifts).repeat_interleave(torch.tensor(lengths))
        source = torch.zeros(_round_up(sum(slots), self.row_multiple), dtype=torch.long)
        source[rows_of] = tokens
        return Packing(
            slots=tuple(slots[i] for i in order),
            lengths=tuple(lengths[i] for i in order),
            source=source.to(self.device),
            rows_of=rows_of.to(self.device),
        )

    # ------------------------------------------------------------------------------------- token by token

    @torch.no_grad()
    def start(self, encoded: Encoded) -> DecodingState:
        lengths = encoded.lengths
        begins = list(itertools.accumulate(lengths, initial=0))
        groups = []
        for members in _alike(lengths):
            sizes = torch.tensor([lengths[i] for i in members], device=self.device)
            positions = torch.arange(int(sizes.max()), device=self.device)[None, :]
            mask = positions < sizes[:, None]
            index = torch.tensor([begins[i] for i in members], device=self.device)[:, None] + positions * mask
            rows = torch.tensor(members, device=self.device)
            groups.append((MemoryGroup(rows, mask[:, None, None], keys=[], values=[]), index))
        memory = F.pad(encoded.hidden, (0, 0, 0, -len(encoded.hidden) % self.row_multiple))
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            key, value = linear(attention.k, memory, True), linear(attention.v, memory, True)
            for group, index in groups:
                group.keys.append(self._split_heads(key[index]))
                group.values.append(self._split_heads(value[index]))
        shape = (2, len(self.decoder.block), len(encoded), self.heads, 0, key.shape[-1] // self.heads)
        return DecodingState([group for group, _ in groups], key.new_empty(shape), torch.empty(0))

    @torch.no_grad()
    def advance(self, state: DecodingState, tokens: Tensor) -> Tensor:
        if state.step == state.cache.shape[-2]:
            self._grow(state)
        state.step += 1
        bias = state.bias[:, -state.step :][None, :, None]

        def attend(index: int, layer: T5Attention, normed: Tensor) -> Tensor:
            query, key, value = (x.view(len(x), self.heads, 1, -1) for x in _project(layer, normed, True))
            keys, values = state.cache[:, index, :, :, : state.step]
            keys[:, :, -1:], values[:, :, -1:] = key, value
            output = F.scaled_dot_product_attention(query, keys, values, attn_mask=_mask_for(query, bias), scale=1.0)
            return output.reshape(len(normed), -1)

        def attend_prompt(index: int, layer: T5Attention, normed: Tensor) -> Tensor:
            query = linear(layer.q, normed, True).view(len(normed), self.heads, 1, -1)
            output = torch.empty_like(query)
            for group in state.memory:
                output[group.rows] = F.scaled_dot_product_attention(
                    query[group.rows], group.keys[index], group.values[index], attn_mask=group.mask, scale=1.0
                )
            return output.view(len(normed), -1)

        hidden = self._run(self.decoder, tokens, attend, attend_prompt, True)
        return self._norm(self.decoder.final_layer_norm, hidden, hidden.dtype)

    def keep(self, state: DecodingState, indices: Tensor) -> None:
        moved = torch.full((state.cache.shape[2],), -1, device=self.device)
        moved[indices] = torch.arange(len(indices), device=self.device)
        state.cache = state.cache[:, :, indices]
        for group in state.memory:
            group.rows = moved[group.rows]
            staying = (group.rows >= 0).nonzero().squeeze(1)
            if len(staying) < len(group.rows):
                group.rows, group.mask = group.rows[staying], group.mask[staying]
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
        return rows.view(*rows.shape[:2], self.heads, -1).transpose(1, 2).contiguous()


# ---------------------------------------------------------------------------------------------- layers


def _project(layer: T5Attention, normed: Tensor, adapters: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [rows, H * dk] of self-attention."""
    return (
        linear(layer.q, normed, adapters),
        linear(layer.k, normed, adapters),
        linear(layer.v, normed, adapters),
    )


def linear(layer: nn.Module, x: Tensor, adapters: bool) -> Tensor:
    """Return [N, out] of x [N, in], in the dtype of the layer's weight.

    Args:
        layer: nn.Linear or PEFT's LoRA around one.
        x: cast to the weight's dtype.
        adapters: add what the layer's active adapters give, unless they are disabled in the layer itself.
    """
    if not isinstance(layer, LoraLinear):
        return _product(x.to(layer.weight.dtype), layer.weight)
    weight = layer.base_layer.weight
    active = adapters and not layer.disable_adapters
    names = [name for name in layer.active_adapters if name in layer.lora_A] if active else []
    if not names:
        return _product(x.to(weight.dtype), weight)
    factors = [part[name].weight for name in names for part in (layer.lora_A, layer.lora_B)]
    return _LoraLinear.apply(x.to(weight.dtype), weight, [layer.scaling[name] for name in names], *factors)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if len(x) <= ROW_MULTIPLE and x.dtype == torch.bfloat16 and x.device.type == "cpu":
        # With few rows, oneDNN spends most of the time on repacking a weight that is the right factor.
        return (weight @ x.T).T.contiguous()
    return F.linear(x, weight)


class _LoraLinear(torch.autograd.Function):
    """x W' + the sum of scaling (x A') B', in one buffer [N, out], and no product for a frozen W.

    All products are in W's dtype, as under autocast; A, B and their gradients stay in their own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scalings: list[float], *factors: Tensor) -> Tensor:
        output = _product(x, weight)
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
            for_down, for_up = ctx.needs_input_grad[3 + 2 * i : 5 + 2 * i]
            grad_narrow = (grad @ up.to(grad.dtype)).mul_(scaling)
            grads.append((grad_narrow.T @ x).to(down.dtype) if for_down else None)
            grads.append((grad.T @ narrow).mul_(scaling).to(up.dtype) if for_up else None)
            if grad_x is not None:
                grad_x.addmm_(grad_narrow, down.to(grad.dtype))
        return grad_x, grad_weight, None, *grads


class _RmsNorm(torch.autograd.Function):
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


class _GatedGelu(torch.autograd.Function):
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


def _wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is if it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _mask_for(query: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return the bias in the dtype that fused attention takes; on a CPU it takes float32 with any."""
    keep = bias is None or bias.dtype == torch.bool or query.device.type == "cpu"
    return bias if keep else bias.to(query.dtype)


def _is_known_linear(layer: nn.Module) -> bool:
    """Return whether `linear` computes what this layer computes when nothing is dropped."""
    if isinstance(layer, LoraLinear):
        variants = layer.lora_variant or layer.merged or any(layer.lora_bias.values()) or layer.fan_in_fan_out
        return not variants and _is_known_linear(layer.base_layer)
    return type(layer) is nn.Linear and layer.bias is None


# -------------------------------------------------------------------------------------------- grouping


def _groups(packing: Packing, keys: Packing) -> list[Group]:
    """Return the groups of attention from the rows of `packing` to those of `keys`, sequence by sequence."""
    groups = []
    sequences = zip(packing.slots, keys.slots, keys.lengths, strict=True)
    for (slot, key_slot), members in itertools.groupby(sequences, key=lambda sequence: sequence[:2]):
        lengths = [length for _, _, length in members]
        mask = None
        if min(lengths) < key_slot:
            device = keys.source.device
            mask = torch.arange(key_slot, device=device) < torch.tensor(lengths, device=device)[:, None]
            mask = mask[:, None, None]
        groups.append(Group(len(lengths), slot, key_slot, mask))
    return groups


def _parts(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Return the indices of `lengths`, longest first, in parts of at most `rows` tokens (or one sequence)."""
    parts: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > room:
            parts.append([])
            room = rows
        parts[-1].append(i)
        room -= lengths[i]
    return parts


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of `lengths` in groups whose longest has at most 5/4 of the shortest's tokens."""
    groups: list[list[int]] = []
    shortest = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if lengths[i] > 1.25 * shortest:
            groups.append([])
            shortest = lengths[i]
        groups[-1].append(i)
    return groups


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
