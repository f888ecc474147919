"""The Hugging Face engine: any encoder-decoder of `transformers`, through its own modules."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from detox.model.engine import Encoded, Engine, by_length

BATCH = 16
"""Prompts that are encoded at once."""


class HuggingFaceEngine(Engine):
    """Any encoder-decoder of `transformers`, through its own modules, right-padded and length-sorted."""

    name = "hf"
    kind = "Hugging Face"

    def __init__(self, model: nn.Module, value_head: nn.Module | None = None, value_reads_detached: bool = True):
        super().__init__(model, value_head, value_reads_detached)
        self.encoder, self.decoder = self.base.get_encoder(), self.base.get_decoder()
        parameters = inspect.signature(self.decoder.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    def encode(self, queries: Sequence[Tensor], *, reference: bool = False) -> Encoded:
        lengths = [len(query) for query in queries]
        rows = [torch.empty(0)] * len(queries)
        with self.adapters_off() if reference else contextlib.nullcontext():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_is_trained and not reference):
                for group in by_length(lengths, BATCH):
                    ids, mask = self._pad([queries[i].to(self.device) for i in group])
                    hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
                    for row, i in enumerate(group):
                        rows[i] = hidden[row, : lengths[i]]
        return Encoded(torch.cat(rows), tuple(lengths))

    def decode(self, encoded: Encoded, responses: Sequence[Tensor], *, reference: bool = False) -> Tensor:
        memory, memory_mask = self._pad(encoded.rows())
        start = torch.tensor([self.start_id], device=self.device)
        inputs, _ = self._pad([torch.cat([start, response[:-1].to(self.device)]) for response in responses])
        with self.adapters_off() if reference else contextlib.nullcontext():
            with torch.set_grad_enabled(torch.is_grad_enabled() and not reference):
                hidden = self.decoder(
                    input_ids=inputs,
                    encoder_hidden_states=memory,
                    encoder_attention_mask=memory_mask,
                    use_cache=False,
                ).last_hidden_state
        return torch.cat([hidden[row, : len(response)] for row, response in enumerate(responses)])

    def start(self, encoded: Encoded) -> dict[str, Any]:
        memory, mask = self._pad(encoded.rows())
        # Without a configuration, which counts the encoder's layers, the caches grow with the layers that are run.
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return {"cache": cache, "memory": memory, "mask": mask}

    def advance(self, state: dict[str, Any], tokens: Tensor) -> Tensor:
        return self.decoder(
            input_ids=tokens[:, None],
            encoder_hidden_states=state["memory"],
            encoder_attention_mask=state["mask"],
            use_cache=True,
            **{self._cache_name: state["cache"]},
        ).last_hidden_state[:, -1]

    def keep(self, state: dict[str, Any], indices: Sequence[int]) -> None:
        places = torch.tensor(indices, device=self.device)
        state["cache"].batch_select_indices(places)
        state["memory"], state["mask"] = state["memory"][places], state["mask"][places]

    def _pad(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Right-pad rows [length, ...] with zeros; return [B, S, ...] and the mask [B, S], 1 = a real position."""
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        beyond = -padded.shape[1] % self.traits.pad_multiple
        if beyond:
            padded = nn.functional.pad(padded, (0, 0) * (padded.dim() - 2) + (0, beyond))
        mask = torch.arange(padded.shape[1], device=self.device)[None, :] < lengths[:, None]
        return padded, mask.long()
