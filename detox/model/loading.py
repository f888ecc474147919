"""Loading models: devices, tokenizers, summarizers and classifiers that are whole and fit."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from detox.model import hub, weights
from detox.model.hub import Source
from detox.stage import notes
from detox.stage.errors import UserError, printable

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "vocab.json",
    "vocab.txt",
)
_SENTENCEPIECE = tuple(file for file in _TOKENIZER if file.endswith((".model", ".spm")))
_SMALL_FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "target.spm",
)
WHOLE = (*_SMALL_FILES, *_TOKENIZER, "generation_config.json", *weights.SAFE)
_LOADING = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
)


def quiet() -> None:
    """Silence what says nothing to users: libraries on their removals, bars and reports of loading.

    Weights that are missing or do not fit are errors here, so the libraries' reports add nothing.
    """
    warnings.filterwarnings("ignore", r"`PPO(Config|Trainer)` is deprecated and will be removed", FutureWarning)
    # peft asks transformers for a property that transformers has renamed
    warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
    # peft on every merge of an adapter into a T5 whose head is not its embedding, as Flan's is not
    warnings.filterwarnings("ignore", r"Input and output embeddings are no longer tied after merging", UserWarning)
    downloads = huggingface_hub.utils.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not downloads:
        huggingface_hub.utils.enable_progress_bars()
    for reporter in ("transformers.modeling_utils", "transformers.distributed.tensor_parallel"):
        logging.getLogger(reporter).setLevel(logging.ERROR)


# ------------------------------------------------------------------------------------------------- tokenizers


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a summarizer; it pads and truncates on the right.

    Raises:
        UserError: not found, incomplete, without padding or end token, or larger than the model's vocabulary.
    """
    source = hub.locate(name, revision, (*_SMALL_FILES, *_TOKENIZER))
    tokenizer = tokenizer_of(source)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token; choose an encoder-decoder such as T5")
    if (source.folder / "config.json").exists():
        size = source.json("config.json").get("vocab_size")
        if isinstance(size, int):
            check_vocabulary(source, tokenizer, size)
    return tokenizer


def tokenizer_of(source: Source) -> PreTrainedTokenizerBase:
    if not any(source.has(file) for file in _TOKENIZER):
        raise UserError(f"{source.name}: has no tokenizer ({', '.join(_TOKENIZER)}); save one next to the model")
    with _without_marks(source) as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # a foreign file can fail in any way, tokenizers' own errors are bare Exceptions
            if any(source.has(file) for file in _SENTENCEPIECE) and not _reads_sentencepiece():
                raise UserError(
                    f"{source.name}: its tokenizer needs `pip install sentencepiece protobuf` (see requirements.txt)"
                ) from None
            raise _unloadable(source, "a tokenizer", error) from None
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


@contextlib.contextmanager
def _without_marks(source: Source) -> Iterator[Path]:
    """Yield the folder, or one like it where a text file begins with a byte order mark, which libraries do not read."""
    marked = {file for file in source.folder.glob("*") if file.suffix in (".json", ".txt") and _is_marked(file)}
    if not marked:
        yield source.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in source.folder.glob("*"):
            if file in marked:
                Path(folder, file.name).write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
            elif file.is_file():
                try:
                    Path(folder, file.name).symlink_to(file.resolve())
                except OSError:  # Windows, where not everybody may
                    shutil.copyfile(file, Path(folder, file.name))
        yield Path(folder)


def _is_marked(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(3) == codecs.BOM_UTF8


def check_vocabulary(source: Source, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= size:
        raise UserError(
            f"{source.name}: its tokenizer does not fit: token id {largest}, but {size} rows of embedding; "
            "put the tokenizer that the model was trained with next to it"
        )


def embedding_rows(model: PreTrainedModel) -> int:
    return model.get_input_embeddings().get_parameter("weight").shape[0]


# ----------------------------------------------------------------------------------------------------- models


def load_summarizer(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load an encoder-decoder, in eval mode, on the CPU.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        dtype: of the weights.

    Raises:
        UserError: not found, not an encoder-decoder, or its weights are missing or damaged.
    """
    source = hub.locate(name, revision, WHOLE, weights.PICKLED)
    settings = model_config(source)
    if not settings.is_encoder_decoder or is_classifier(settings):
        kind = (settings.architectures or [settings.model_type])[0]
        raise UserError(f"{name}: {kind} is not an encoder-decoder for text; choose one such as google/flan-t5-base")
    _complete_ids(source, settings)
    model = load_whole(AutoModelForSeq2SeqLM, source, settings, "an encoder-decoder", dtype)
    if any(source.has(file) for file in _TOKENIZER):
        check_vocabulary(source, tokenizer_of(source), embedding_rows(model))
    return model


def _complete_ids(source: Source, settings: PreTrainedConfig) -> None:
    """Put the tokens that summaries begin and end with into a model's settings, which may have them elsewhere.

    Raises:
        UserError: nothing says which they are.
    """
    generation = source.json("generation_config.json") if source.has("generation_config.json") else {}
    inner = getattr(settings, "decoder", None)
    is_t5 = settings.model_type.endswith("t5") or settings.model_type == "switch_transformers"
    fallback = {
        # T5 begins with the padding token, T5Gemma as its decoder was taught to.
        "decoder_start_token_id": settings.pad_token_id if is_t5 else None,
        "eos_token_id": getattr(inner, "eos_token_id", None),
    }
    if settings.model_type.startswith("t5gemma"):
        fallback["decoder_start_token_id"] = getattr(inner, "bos_token_id", None)
    for name, otherwise in fallback.items():
        known = [getattr(settings, name, None), generation.get(name), otherwise]
        found = next((value for value in known if value is not None), None)
        if found is None:
            raise UserError(
                f"{source.name}: its config.json names no {name}, so it is not known how a summary begins and ends; "
                "add it (for mBART the id of the target language)"
            )
        setattr(settings, name, found)


def read_config(name: str, revision: str | None = None) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Return the settings of a model, and the content of its config.json, from which transformers may depart.

    Raises:
        UserError: not found, or no model that is loaded here; `HubUnreachable` where that is all.
    """
    source = hub.locate(name, revision, ("config.json",))
    return model_config(source), source.json("config.json")


def check_tokens(flag: str, tokens: int, name: str, revision: str | None = None) -> None:
    """Demand that a summarizer has positions for so many tokens; T5, whose positions are relative, always has.

    Args:
        flag: that sets `tokens`, for the message.
        tokens: longest prompt or summary.
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.

    Raises:
        UserError: it has not, or there is no such model.
    """
    source = hub.locate(name, revision, (*_SMALL_FILES, *_TOKENIZER))
    has_config = (source.folder / "config.json").exists()
    limit = source.json("config.json").get("max_position_embeddings") if has_config else None
    if isinstance(limit, int) and tokens > limit:
        raise UserError(f"{flag}={tokens}: {name} takes {limit} tokens; set it to {limit} or less")


def plain_files(name: str, revision: str | None = None) -> tuple[dict[str, Any], list[Path]]:
    """Return config.json of a summarizer as it stands, and the files of its tokenizer.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.

    Raises:
        UserError: not found, or config.json can't be read.
    """
    source = hub.locate(name, revision, WHOLE, weights.PICKLED)
    files = (source.folder / file for file in (*_SMALL_FILES, *_TOKENIZER) if file != "config.json")
    return source.json("config.json"), [file for file in files if file.is_file()]


def model_config(source: Source) -> PreTrainedConfig:
    """Read a model's settings, without those that would fetch code or need a quantization library."""
    kind = source.json("config.json").get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{source.name}: config.json names no model_type; name a transformers model")
    try:
        with _without_marks(source) as folder:
            settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign config can fail in any way
        raise _unloadable(source, f"a model of type {kind!r} (code of repositories is never run)", error) from None
    if getattr(settings, "quantization_config", None):
        raise UserError(f"{source.name}: quantized weights, which cannot be trained here; name the unquantized model")
    settings._attn_implementation = None  # a config can name a hub repository of compiled kernels here
    settings._experts_implementation = None
    return settings


def is_classifier(settings: PreTrainedConfig) -> bool:
    return any("Classification" in architecture for architecture in settings.architectures or ())


def load_whole(auto: Any, source: Source, settings: PreTrainedConfig, what: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load weights and demand that each parameter came from the file: a fresh one would be random.

    A folder is loaded as what its config.json says: an adapter beside a whole model is left out, which transformers
    would put on top, a second time where the model was merged before it was saved.
    """
    found = weights.find(source, "model.safetensors", "pytorch_model.bin")
    if source.has("adapter_config.json"):
        notes.tell(
            f"{source.name} holds an adapter beside a whole model; the model is loaded alone, as config.json says"
        )
    try:
        with _without_marks(source) as folder:
            model, report = auto.from_pretrained(
                folder,
                config=settings,
                dtype=dtype,
                use_safetensors=not found.pickled,
                weights_only=True,
                adapter_kwargs={"subfolder": "no adapter"},  # there transformers looks for one
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except _LOADING as error:
        raise _unloadable(source, what, error) from None
    missing = sorted(set(report["missing_keys"]) & {parameter for parameter, _ in model.named_parameters()})
    if missing:
        raise UserError(
            f"{source.name}: its weights lack {len(missing)} tensors of {what}, "
            f"such as {printable(missing[0], 80)}; they would be random: name a model trained as such"
        )
    model.config._name_or_path = model.name_or_path = source.name
    vars(model)["_resolved_revision"] = source.commit
    return model.eval()


def _unloadable(source: Source, what: str, error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = printable(lines[0] if lines else type(error).__name__, 200)
    return UserError(f"{source.name}: cannot be loaded as {what} ({reason}); check the files, or name another model")


def resolved_revision(model: object) -> str | None:
    """Return the hub commit that a model, adapter or tokenizer was loaded at, if any."""
    return vars(model).get("_resolved_revision")
