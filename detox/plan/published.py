"""The shape of a model by its name: from config.json, or as published where the hub is not in reach.

Published shapes are known of the Flan-T5 family and of the default reward model.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig, RobertaConfig, T5Config

from detox.model import hub, loading

FLAN_T5 = {
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
    "xxl": (4096, 10240, 24, 64),
}
"""Of google/flan-t5-<key>: d_model, d_ff, layers of each stack, heads (of 64).

Source: their config.json on the hub."""
ROBERTA_BASE = "facebook/roberta-hate-speech-dynabench-r4-target"
"""A classifier of RoBERTa-base's shape, with two labels."""


@dataclass(frozen=True)
class Shape:
    """A model's config.

    Attributes:
        untied: the head has weights of its own, which transformers' T5Config does not tell.
        is_published: it stands in for a config that is not in reach.
    """

    settings: PreTrainedConfig
    untied: bool
    is_published: bool


def find_shape(name: str, revision: str | None = None) -> Shape:
    """Return the shape of a model from its config.json, or the published one where the hub is not in reach.

    Raises:
        UserError: there is no such model, or it is not in reach and its shape is not known here.
    """
    try:
        settings, source = loading.read_config(name, revision)
    except hub.HubUnreachable:
        known = published(name)
        if known is None:
            raise
        return Shape(known, known.model_type == "t5", True)
    return Shape(settings, source.get("tie_word_embeddings") is False, False)


def published(name: str) -> PreTrainedConfig | None:
    """Return the settings of the model that has this name on the hub, if they are known here."""
    if name == ROBERTA_BASE:
        labels = {0: "nothate", 1: "hate"}
        return RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, id2label=labels)
    family, _, size = name.rpartition("-")
    if family != "google/flan-t5" or size not in FLAN_T5:
        return None
    d, d_ff, layers, heads = FLAN_T5[size]
    return T5Config(
        vocab_size=32128,
        d_model=d,
        d_kv=64,
        d_ff=d_ff,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
    )
