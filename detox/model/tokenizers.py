"""Tokenizers that are whole and fit: of a summarizer, or of any model."""

from __future__ import annotations

import importlib

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from detox.model import sources
from detox.model.sources import Source
from detox.stage.errors import UserError

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "vocab.json",
    "vocab.txt",
)
"""Files of which one at least makes a tokenizer."""
FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "target.spm",
    *VOCABULARIES,
)
_SENTENCEPIECE = tuple(file for file in VOCABULARIES if file.endswith((".model", ".spm")))


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a summarizer; it pads and truncates on the right.

    Raises:
        UserError: not found, incomplete, without padding or end token, or larger than the model's vocabulary.
    """
    source = sources.locate(name, revision, FILES)
    tokenizer = tokenizer_of(source)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token; choose an encoder-decoder such as T5")
    if (source.folder / "config.json").exists():
        size = source.json("config.json").get("vocab_size")
        if isinstance(size, int):
            check_vocabulary(source, tokenizer, size)
    return tokenizer


def is_in(source: Source) -> bool:
    """Return whether a model's folder holds a tokenizer."""
    return any(source.has(file) for file in VOCABULARIES)


def tokenizer_of(source: Source) -> PreTrainedTokenizerBase:
    if not is_in(source):
        raise UserError(f"{source.name}: has no tokenizer ({', '.join(VOCABULARIES)}); save one next to the model")
    with source.readable() as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # a foreign file can fail in any way, tokenizers' own errors are bare Exceptions
            if any(source.has(file) for file in _SENTENCEPIECE) and not _reads_sentencepiece():
                raise UserError(
                    f"{source.name}: its tokenizer needs `pip install sentencepiece protobuf` (see requirements.txt)"
                ) from None
            raise source.unloadable("a tokenizer", error) from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"{source.name}: its tokenizer has no padding token; batches need one, choose another model")
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.name_or_path = source.name
    vars(tokenizer)["_resolved_revision"] = source.commit
    return tokenizer


def _reads_sentencepiece() -> bool:
    try:
        return all(map(importlib.import_module, ("sentencepiece", "google.protobuf")))
    except ImportError:
        return False


def check_vocabulary(source: Source, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= size:
        raise UserError(
            f"{source.name}: its tokenizer does not fit: token id {largest}, but {size} rows of embedding; "
            "put the tokenizer that the model was trained with next to it"
        )
