"""Which tokenizer made a prepared dataset: a fingerprint of all that decides how text becomes tokens."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a sha256 that two tokenizers share only when vocabulary, special tokens and their use agree.

    Behind a colon stands that of all else that decides how text becomes tokens: normalizer, pre-tokenizer, merges.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    sample = tokenizer("Summarize: #Person1# paid $12.50, didn't she?\n  Yes! Ça va.", verbose=False)["input_ids"]
    content = json.dumps([vocabulary, special, sample], sort_keys=True)
    pipeline: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    for setting in ("truncation", "padding"):  # which every call sets anew
        pipeline.pop(setting, None)
    parts = (content, json.dumps(pipeline, sort_keys=True))
    return ":".join(hashlib.sha256(part.encode()).hexdigest() for part in parts)


def is_same_tokenizer(recorded: str, now: str) -> bool:
    """Return whether two fingerprints are of one tokenizer; what was prepared earlier has the first part alone."""
    return recorded in (now, now.partition(":")[0])
