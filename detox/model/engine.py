"""What runs the summarizer: the interface of all engines (encode, log-probabilities of responses, generate).

The trainer and the evaluation see an `Engine` only. Sequences travel as lists of unpadded id tensors and as packed
rows, so padding is each engine's own affair and never part of a mask.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detox.model import sharding
from detox.model.devices import traits
from detox.model.layers import Product, packed_product, wide
from detox.model.logprobs import linear_logprobs
from detox.model.sampling import GREEDY, Sampling, choose


@dataclass(frozen=True)
class Encoded:
    """Encoder outputs of B prompts, end to end.

    Attributes:
        hidden: [sum of lengths, d], in the encoder's dtype.
        lengths: tokens of each prompt.
        origin: what this was selected from, and [sum of lengths] int64, the row there of each token.
        prompts: the place of each prompt in what this was selected from; the same twice is one prompt.
        products: what an engine computed of `hidden`, by layer, for all that is selected from this.
    """

    hidden: Tensor
    lengths: tuple[int, ...]
    origin: tuple[Encoded, Tensor] | None = None
    prompts: tuple[int, ...] = ()
    products: dict[nn.Module, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self) -> tuple[Tensor, ...]:
        """Return the encoder outputs of each prompt, [length, d]."""
        return self.hidden.split(self.lengths)

    def select(self, indices: Sequence[int]) -> Encoded:
        """Return the prompts at `indices`, in that order."""
        tokens = torch.arange(len(self.hidden), device=self.hidden.device).split(self.lengths)
        rows = torch.cat([tokens[i] for i in indices])
        lengths = tuple(self.lengths[i] for i in indices)
        if self.origin is None:
            return Encoded(self.hidden[rows], lengths, (self, rows), tuple(indices))
        whole, places = self.origin
        return Encoded(self.hidden[rows], lengths, (whole, places[rows]), tuple(self.prompts[i] for i in indices))

    def different(self) -> tuple[Encoded, list[list[int]]]:
        """Return each prompt once, and the places at which it stands here."""
        places: dict[int, list[int]] = {}
        for i, prompt in enumerate(self.prompts or range(len(self))):
            places.setdefault(prompt, []).append(i)
        once = self if len(places) == len(self) else self.select([first for first, *_ in places.values()])
        return once, list(places.values())

    def forget(self) -> None:
        """Let go of what an engine computed of these prompts."""
        (self if self.origin is None else self.origin[0]).products.clear()


@dataclass(frozen=True)
class TokenOutputs:
    """What the model says of B given responses of up to T tokens; 0 where `mask` is False.

    Attributes:
        logprobs: [B, T] float32, nats.
        mask: [B, T] bool, True = a token of the response, its end-of-sequence token included.
        entropy: [B, T] float32, nats, without a graph, or None.
        hidden: [tokens, d], what the language-model head read, packed.
    """

    logprobs: Tensor
    mask: Tensor
    entropy: Tensor | None
    hidden: Tensor


@dataclass(frozen=True)
class Generated:
    """B sampled (or greedy) responses of up to T tokens.

    Attributes:
        responses: id tensors without the decoder start token, with the end-of-sequence token where there is one.
        logprobs: [B, T] float32, nats, of the tokens chosen, under the full distribution; 0 as padding.
        finished: [B] bool, True = ended with an end-of-sequence token.
        hidden: [tokens, d], the decoder's last hidden states that predicted the tokens, packed.
    """

    responses: list[Tensor]
    logprobs: Tensor
    finished: Tensor
    hidden: Tensor


def response_mask(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return [B, T] bool, True on the first `lengths[b]` of T = max(lengths) positions."""
    return torch.arange(max(lengths), device=device)[None, :] < torch.tensor(lengths, device=device)[:, None]


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the indices of `lengths`, longest first, in groups of at most `size`: neighbours pad each other least."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


class Engine(ABC):
    """A summarizer with LoRA adapters (or none) and, while training, a value head.

    Attributes:
        name: as `--engine` has it.
        kind: name for people.
        peft, base: the `PeftModel`, or None, and the `PreTrainedModel`.
        traits: what is done otherwise on this device than on others.
        eos_ids, eos: the ids that end a response, and the same [n] on the device.
        sharded: weights lie with other processes too, so that all of them run every step together.

    Args:
        model: `PreTrainedModel`, or a `PeftModel` around one; the reference is the same model, adapters off.
        value_head: maps hidden states [N, d] to values [N, 1].
        value_reads_detached: the value head's gradient stops at the hidden state.
    """

    name: str
    kind: str

    def __init__(self, model: Any, value_head: nn.Module | None = None, value_reads_detached: bool = True):
        self.peft: Any = model if hasattr(model, "disable_adapter") else None
        self.base: Any = model if self.peft is None else self.peft.get_base_model()
        self.value_head = value_head
        self.value_reads_detached = value_reads_detached
        self.base.eval()
        config = self.base.config
        eos = config.eos_token_id
        self.eos_ids = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
        self.start_id: int = config.decoder_start_token_id
        head = self.base.get_output_embeddings()
        self.head_weight: Tensor = head.weight
        bias = getattr(self.base, "final_logits_bias", None)
        self.head_bias: Tensor | None = bias.view(-1) if bias is not None and bool(bias.any()) else None
        # T5 1.0 multiplies by d ** -0.5 before its tied head; transformers before 5.21 told so by the tie itself.
        by_tie = config.model_type in ("t5", "umt5", "longt5", "switch_transformers") and config.tie_word_embeddings
        scaled = getattr(config, "scale_decoder_outputs", by_tie)
        self.head_scale = config.d_model**-0.5 if scaled else 1.0
        self.sharded = sharding.is_sharded(self.base)
        self.traits = traits(self.device)
        self.eos = torch.tensor(self.eos_ids, device=self.device)
        encoder = self.base.get_encoder()
        self.encoder_is_trained = any(parameter.requires_grad for parameter in encoder.parameters())

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    def describe(self) -> str:
        """Return a phrase for people: what runs the model, in which precision."""
        how = ", sharded" if self.sharded else ""
        return f"{self.kind} engine, frozen weights in {str(self.head_weight.dtype).removeprefix('torch.')}{how}"

    @abstractmethod
    def encode(self, queries: Sequence[Tensor], *, reference: bool = False) -> Encoded:
        """Run the encoder on prompts [length] of ids; with a graph where it is trained and grad mode is on."""

    @abstractmethod
    def decode(self, encoded: Encoded, responses: Sequence[Tensor], *, reference: bool = False) -> Tensor:
        """Return the decoder's last hidden states [tokens, d] that predict each response token (teacher forcing)."""

    @abstractmethod
    def start(self, encoded: Encoded) -> Any:
        """Return the state of an incremental decoding, before its first step."""

    @abstractmethod
    def advance(self, state: Any, tokens: Tensor) -> Tensor:
        """Feed `tokens` [b] to an incremental decoding and return the hidden states [b, d] that predict the next."""

    @abstractmethod
    def keep(self, state: Any, indices: Sequence[int]) -> None:
        """Leave only the sequences at `indices` in the state of an incremental decoding, in that order."""

    def head_input(self, hidden: Tensor) -> Tensor:
        """Return what the language-model head multiplies with its weight."""
        return hidden * self.head_scale if self.head_scale != 1.0 else hidden

    def logprobs(
        self,
        encoded: Encoded,
        responses: Sequence[Tensor],
        *,
        reference: bool = False,
        entropy: bool = False,
    ) -> TokenOutputs:
        """Return log-probabilities, and entropy where asked for, of `responses` given their prompts.

        Args:
            encoded: the prompts, by the same model (`reference` or not) if its encoder is trained.
            responses: [length >= 1] of ids each, without the decoder start token.
            reference: adapters off.
        """
        hidden = self.decode(encoded, responses, reference=reference)
        targets = torch.cat(list(responses)).to(self.device)
        packed, packed_entropy = linear_logprobs(
            self.head_input(hidden), self.head_weight, targets, bias=self.head_bias, entropy=entropy
        )
        mask = response_mask([len(response) for response in responses], self.device)
        return TokenOutputs(
            logprobs=unpack(packed, mask),
            mask=mask,
            entropy=unpack(packed_entropy, mask) if packed_entropy is not None else None,
            hidden=hidden,
        )

    def value(self, hidden: Tensor) -> Tensor:
        """Return the value head's reading [N] float32 of hidden states [N, d]."""
        if self.value_head is None:
            raise ValueError("this engine was made without a value head")
        hidden = hidden.detach() if self.value_reads_detached else hidden
        return self.value_head(hidden.float()).squeeze(-1)

    @torch.no_grad()
    def generate(
        self, encoded: Encoded, max_new_tokens: int, sampling: Sampling = GREEDY, *, reference: bool = False
    ) -> Generated:
        """Generate a response to each prompt; finished sequences leave the batch.

        Args:
            encoded: B prompts.
            max_new_tokens: longest response, its end-of-sequence token included.
            sampling: how tokens are chosen.
            reference: adapters off.
        """
        count = len(encoded)
        tokens = torch.zeros(count, max_new_tokens, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(count, max_new_tokens, device=self.device)
        hidden = torch.zeros(count, max_new_tokens, self.head_weight.shape[1], device=self.device)
        lengths, finished = [max_new_tokens] * count, [False] * count
        batch, rows, looked = list(range(count)), torch.arange(count, device=self.device), 0
        current = torch.full((count,), self.start_id, device=self.device)
        draws = sampling.uniforms.to(self.device) if sampling.uniforms is not None else None
        # Cheaper than no_grad at so many small operations; but what FSDP gathers also serves a later backward pass.
        cheaper = contextlib.nullcontext() if self.sharded else torch.inference_mode()
        whole = sharding.gathered(self.base.get_decoder(), self.device)
        with self.adapters_off() if reference else self.adapters_merged(), cheaper, whole as alone:
            state, product = self.start(encoded), packed_product(self.head_weight)
            for step in range(max_new_tokens):
                output = self.advance(state, current)
                hidden[rows, step] = output.float()
                draw = None if draws is None else draws[rows, step]
                prefixes = tokens[rows, :step] if sampling.banned else None
                current, chosen_logprobs = choose(self._logits(output, product), draw, sampling, prefixes)
                tokens[rows, step], logprobs[rows, step] = current, chosen_logprobs
                if (step + 1) % self.traits.look_every and step + 1 < max_new_tokens:
                    continue
                marks = torch.isin(tokens[rows, looked : step + 1], self.eos).tolist()
                for i, marked in zip(batch, marks, strict=True):
                    if True in marked and not finished[i]:
                        lengths[i], finished[i] = looked + marked.index(True) + 1, True
                looked = step + 1
                going_on = [place for place, i in enumerate(batch) if not finished[i]]
                if not going_on:
                    for _ in range(0 if alone else max_new_tokens - step - 1):
                        self.advance(state, current)  # for nothing, but others may need this process's part of weights
                    break
                if len(going_on) < self.traits.crowded * len(batch):
                    batch = [batch[place] for place in going_on]
                    rows = torch.tensor(batch, device=self.device)
                    current = tokens[rows, step]
                    self.keep(state, going_on)
        return self._generated(tokens, logprobs, hidden, lengths, finished)

    def _generated(
        self, tokens: Tensor, logprobs: Tensor, hidden: Tensor, lengths: list[int], finished: list[bool]
    ) -> Generated:
        """Return what was generated, without what came after the end of a response."""
        mask, longest = response_mask(lengths, self.device), max(lengths)
        places = [row * hidden.shape[1] + place for row, length in enumerate(lengths) for place in range(length)]
        return Generated(
            [tokens[i, :length].clone() for i, length in enumerate(lengths)],
            logprobs[:, :longest].masked_fill(~mask, 0.0),
            torch.tensor(finished, device=self.device),
            hidden.flatten(0, 1)[torch.tensor(places, device=self.device)],
        )

    def _logits(self, hidden: Tensor, product: Product | None = None) -> Tensor:
        """Return the logits [n, V] of a few hidden states [n, d]; `product` gives those with the head's weight."""
        hidden = self.head_input(hidden).to(self.head_weight.dtype)
        if product is not None:
            logits = wide(product(hidden))
        elif len(hidden) < self.traits.tall_head and hidden.dtype == torch.float32:
            logits = (self.head_weight @ hidden.T).T.contiguous()
        else:
            logits = wide(hidden @ self.head_weight.T)
        return logits if self.head_bias is None else logits + self.head_bias

    def adapters_off(self) -> contextlib.AbstractContextManager:
        """Return a context in which the model is the reference."""
        return self.peft.disable_adapter() if self.peft is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def adapters_merged(self) -> Iterator[None]:
        """Fold the adapters into copies of their layers' weights while the context lasts.

        Only for float32 weights, since a small update would be lost in bfloat16's rounding, that are here in full. The
        original tensors come back untouched, so nothing drifts however often this is done.
        """
        layers = self._lora_layers() if self.head_weight.dtype == torch.float32 and not self.sharded else []
        originals = [layer.get_base_layer().weight.data for layer in layers]
        try:
            for layer, weight in zip(layers, originals):
                delta = sum(layer.get_delta_weight(name) for name in layer.active_adapters if name in layer.lora_A)
                layer.get_base_layer().weight.data = weight + delta
            with self.adapters_off() if layers else contextlib.nullcontext():
                yield
        finally:
            for layer, weight in zip(layers, originals):
                layer.get_base_layer().weight.data = weight

    def _lora_layers(self) -> list[Any]:
        if self.peft is None:
            return []
        return [module for module in self.peft.modules() if hasattr(module, "get_delta_weight")]


def unpack(packed: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T] with the packed numbers [tokens] where `mask` [B, T] is True, 0 elsewhere."""
    return packed.new_zeros(mask.shape).masked_scatter(mask, packed)
