"""The packed T5 engine: linear layers on the tokens of all sequences end to end, attention within each one.

It computes what the modules of `transformers` compute, from their own weights and those of their LoRA layers,
read in place at every call.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from detox.model import packing
from detox.model.decoding import Decoding
from detox.model.engine import Encoded
from detox.model.layers import Known, is_known_linear, linears, weight_of
from detox.model.packing import Group
from detox.model.t5_stacks import Attention, Stack, T5Stacks

KNOWN_BYTES = 2**28
"""Memory for keys and values of prompts, before LoRA, from one pass over a rollout to the next."""

LINEARS = frozenset(("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"))


class PackedT5Engine(T5Stacks):
    """T5 and Flan-T5 (relu or gated gelu, tied or untied head), with or without LoRA, without padding.

    Dropout is never applied, as in the other engine. Matrix products are in the dtype of the frozen weights, those
    with LoRA factors too. The residual stream, norms and softmax are in float32, and where `devices.Traits` says so
    all of attention; the factors and their gradients are kept in theirs.
    """

    name = kind = "packed"

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
            for part in packing.parts(lengths, self.traits.encode_rows):
                hidden = self._encode([queries[i] for i in part], not reference)
                for i, row in zip(part, hidden.split([lengths[i] for i in part]), strict=True):
                    rows[i] = row
            return Encoded(torch.cat(rows), tuple(lengths))

    def _encode(self, queries: list[Tensor], adapters: bool) -> Tensor:
        lengths = [len(query) for query in queries]
        slots = self._slots(lengths)
        order = sorted(range(len(queries)), key=lambda i: slots[i])
        (packed,) = packing.to_device(self.device, packing.pack(lengths, slots, order, self.row_multiple))
        groups = packing.attention_groups(packed, packed)
        biases = self._biases(self.encoder, groups, causal=False)
        apply = functools.partial(linears, adapters=adapters)

        def attend(_: int, layer: Attention, normed: Tensor) -> Tensor:
            query, key, value = apply(normed, layer.q, layer.k, layer.v)
            return self._attend(query, key, value, groups, biases)

        ids = torch.cat(queries).to(self.device)
        hidden = self.run(self.encoder, ids[packed.source], attend, None, apply, self.norm)
        return self.norm(self.encoder.final_layer_norm, hidden, self.dtype)[packed.rows_of]

    def decode(self, encoded: Encoded, responses: Sequence[Tensor], *, reference: bool = False) -> Tensor:
        lengths = [len(response) for response in responses]
        slots, prompt_slots = self._slots(lengths), self._slots(encoded.lengths)
        order = sorted(range(len(lengths)), key=lambda i: (prompt_slots[i], slots[i]))
        packed, prompts = packing.to_device(
            self.device,
            packing.pack(lengths, slots, order, self.row_multiple),
            packing.pack(encoded.lengths, prompt_slots, order, self.row_multiple),
        )
        inputs = torch.cat(list(responses)).to(self.device).roll(1).index_fill(0, packed.begins, self.start_id)
        groups, prompt_groups = (packing.attention_groups(packed, keys) for keys in (packed, prompts))
        masks = self._prompt_masks(prompt_groups)
        apply = functools.partial(linears, adapters=not reference)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not reference):
            memory = encoded.hidden[prompts.source]
            biases = self._biases(self.decoder, groups, causal=True)

            def attend(_: int, layer: Attention, normed: Tensor) -> Tensor:
                query, key, value = apply(normed, layer.q, layer.k, layer.v)
                return self._attend(query, key, value, groups, biases)

            def attend_prompt(_: int, layer: Attention, normed: Tensor) -> Tensor:
                known = [self._known(part, encoded, prompts.source) for part in (layer.k, layer.v)]
                key, value = apply(memory, layer.k, layer.v, known=known)
                (query,) = apply(normed, layer.q)
                return self._attend(query, key, value, prompt_groups, masks)

            hidden = self.run(self.decoder, inputs[packed.source], attend, attend_prompt, apply, self.norm)
            return self.norm(self.decoder.final_layer_norm, hidden[packed.rows_of], hidden.dtype)

    def _known(self, part: nn.Module, encoded: Encoded, source: Tensor) -> Known | None:
        """Return the product of prompts with a frozen weight that all passes over a rollout share, if it is small."""
        weight = weight_of(part)
        if encoded.origin is None or encoded.hidden.requires_grad or weight.requires_grad:
            return None
        whole, rows = encoded.origin
        if 2 * len(self.decoder.block) * len(whole.hidden) * len(weight) * weight.itemsize > KNOWN_BYTES:
            return None
        if part not in whole.products:
            whole.products[part] = F.linear(self.padded(whole.hidden), weight)
        return whole.products[part], rows[source]

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
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            outputs.append(output.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat([*outputs, query.new_zeros(rows - sum(query_rows), query.shape[1])])

    def _biases(self, stack: Stack, groups: list[Group], causal: bool) -> list[Tensor]:
        """Return what each group's attention scores get added, [count or 1, H, length, length]."""
        longest = max(group.queries for group in groups)
        line = self.bias_line(stack, torch.arange(1 - longest, longest, device=self.device), causal)
        biases = []
        for group in groups:
            length = group.queries
            # Row i reads distances -i .. length - 1 - i: a window on the line, the last one first.
            bias = line[:, longest - length : longest + length - 1].unfold(1, length, 1).flip(1)[None]
            biases.append(bias if causal else group.masked(bias))
        return biases

    def _prompt_masks(self, groups: list[Group]) -> list[Tensor | None]:
        """Return what each group's scores for its prompts get added, [count, 1, 1, keys], or None for nothing."""
        none = torch.zeros(1, 1, 1, max(group.keys for group in groups), dtype=self.attention_dtype, device=self.device)
        return [None if group.ends is None else group.masked(none[..., : group.keys]) for group in groups]

    def _slots(self, lengths: Sequence[int]) -> list[int]:
        return [packing.round_up(length, self.traits.slot_multiple) for length in lengths]

    @torch.no_grad()
    def start(self, encoded: Encoded) -> Decoding:
        return Decoding(self, encoded)

    @torch.no_grad()
    def advance(self, state: Decoding, tokens: Tensor) -> Tensor:
        return state.advance(tokens)

    def keep(self, state: Decoding, indices: Sequence[int]) -> None:
        state.keep(indices)
