"""What arithmetic reads off models without their weights: widths, layers, parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from detox.model import policy

if TYPE_CHECKING:
    import config


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic reads off an encoder-decoder.

    Attributes:
        d, inner, d_ff: widths of residual stream, attention (heads x head size) and feed-forward layer.
        activation: arguments of the activation, in units of d_ff: 2 where it is gated.
        weights: parameters of the base model.
        encoder_blocks, decoder_blocks: parameters of the layers of each stack, without embeddings and head.
        adapted: layers with a LoRA, name -> (in, out).
    """

    d: int
    inner: int
    d_ff: int
    activation: int
    vocabulary: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    weights: int
    encoder_blocks: int
    decoder_blocks: int
    adapted: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, settings: PreTrainedConfig, ppo: config.PPO, untied: bool = False) -> Sizes:
        """Read the sizes off a model built without memory.

        Args:
            settings: of the model.
            ppo: where the LoRA goes.
            untied: the head has weights of its own, whatever `settings` says of new models.
        """
        with torch.device("meta"):
            model = AutoModelForSeq2SeqLM.from_config(settings)
        head = model.get_output_embeddings()
        weights = _parameters(model)
        if untied and head.weight is model.get_input_embeddings().weight:
            weights += head.weight.numel()
        names = policy.linear_layers(model, ppo.lora_scope, ppo.lora_targets)
        layers = {name: model.get_submodule(name) for name in names}
        heads = settings.num_attention_heads
        return cls(
            d=settings.hidden_size,
            inner=heads * getattr(settings, "d_kv", settings.hidden_size // heads),
            d_ff=getattr(settings, "d_ff", 0) or settings.decoder_ffn_dim,
            activation=2 if getattr(settings, "is_gated_act", False) else 1,
            vocabulary=head.weight.shape[0],
            heads=heads,
            encoder_layers=getattr(settings, "encoder_layers", settings.num_hidden_layers),
            decoder_layers=getattr(settings, "decoder_layers", None) or settings.num_decoder_layers,
            weights=weights,
            encoder_blocks=_parameters(_blocks(model.get_encoder())),
            decoder_blocks=_parameters(_blocks(model.get_decoder())),
            adapted={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        )

    @property
    def lora_weights(self) -> int:
        """Weights below the adapters."""
        return sum(fan_in * fan_out for fan_in, fan_out in self.adapted.values())

    @property
    def largest_block(self) -> int:
        """Parameters of the widest layer."""
        return max(self.encoder_blocks // self.encoder_layers, self.decoder_blocks // self.decoder_layers)

    @property
    def encoder_is_trained(self) -> bool:
        return any(stack(name) == "encoder" for name in self.adapted)

    def adapter_parameters(self, r: int) -> int:
        return sum(r * (fan_in + fan_out) for fan_in, fan_out in self.adapted.values())

    def trained_parameters(self, r: int) -> int:
        """Return the parameters of the adapters and of the value head."""
        return self.adapter_parameters(r) + self.d + 1


@dataclass(frozen=True)
class ClassifierSizes:
    """What the arithmetic reads off a sequence classifier.

    Attributes:
        weights: its parameters.
        linear: those of them that each token is multiplied with.
    """

    d: int
    layers: int
    weights: int
    linear: int

    @classmethod
    def of(cls, settings: PreTrainedConfig) -> ClassifierSizes:
        """Read the sizes off a model built without memory."""
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(settings)
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        linear = {module for blocks in lists for module in blocks.modules() if isinstance(module, nn.Linear)}
        return cls(
            d=settings.hidden_size,
            layers=settings.num_hidden_layers,
            weights=_parameters(model),
            linear=sum(module.weight.numel() for module in linear),
        )


def stack(name: str) -> str:
    """Return which stack the layer called `name` is part of: `encoder` or `decoder`."""
    return "encoder" if "encoder" in name.split(".") else "decoder"


def reads_prompt(name: str) -> bool:
    """Return whether a layer's input is the encoder's output, which is kept once for all layers."""
    parent, leaf = name.split(".")[-2:]
    return parent in ("EncDecAttention", "encoder_attn") and leaf in ("k", "v", "k_proj", "v_proj")


def rows(name: str, answers: int, tokens: int) -> int:
    """Return how many rows the layer called `name` gets, of `answers` response tokens and `tokens` prompt tokens."""
    return tokens if stack(name) == "encoder" or reads_prompt(name) else answers


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _blocks(stack: nn.Module) -> nn.ModuleList:
    return next(module for module in stack.children() if isinstance(module, nn.ModuleList))
