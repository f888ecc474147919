"""Models that are whole and of the right kind: their settings, their weights, and what of both is refused."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from detox.model import sources, tokenizers, weights
from detox.model.sources import Source
from detox.stage import notes
from detox.stage.errors import UserError, printable

WHOLE = (*tokenizers.FILES, "generation_config.json", *weights.SAFE)


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
    for reporter in ("modeling_utils", "distributed.tensor_parallel", "models.led.modeling_led"):  # (LED: it pads)
        logging.getLogger(f"transformers.{reporter}").setLevel(logging.ERROR)


def load_summarizer(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load an encoder-decoder, in eval mode, on the CPU.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        dtype: of the weights.

    Raises:
        UserError: not found, not an encoder-decoder, or its weights are missing or damaged.
    """
    source = sources.locate(name, revision, WHOLE, weights.PICKLED)
    settings = model_config(source)
    if not settings.is_encoder_decoder or is_classifier(settings):
        kind = (settings.architectures or [settings.model_type])[0]
        raise UserError(f"{name}: {kind} is not an encoder-decoder for text; choose one such as google/flan-t5-base")
    _complete_ids(source, settings)
    model = load_whole(AutoModelForSeq2SeqLM, source, settings, "an encoder-decoder", dtype)
    if tokenizers.is_in(source):
        tokenizers.check_vocabulary(source, tokenizers.tokenizer_of(source), embedding_rows(model))
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
    source = sources.locate(name, revision, ("config.json",))
    return model_config(source), source.json("config.json")


def check_tokens(flag: str, tokens: int, name: str, revision: str | None = None, part: str = "decoder") -> None:
    """Demand that a summarizer has positions for so many tokens.

    Args:
        flag: that sets `tokens`, for the message.
        tokens: longest prompt or summary.
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        part: what these tokens are fed to, `encoder` or `decoder`.

    Raises:
        UserError: it has not, or there is no such model.
    """
    limit = positions(name, revision, part)
    if limit is not None and tokens > limit:
        raise UserError(f"{flag}={tokens}: {name} takes {limit} tokens; set it to {limit} or less")


def positions(name: str, revision: str | None, part: str) -> int | None:
    """Return how many tokens a summarizer's `encoder` or `decoder` takes; T5's positions are relative: None.

    T5's `n_positions` is no limit, and is left out. Of two models in one, each has settings of its own.
    """
    source = sources.locate(name, revision, tokenizers.FILES)
    if not (source.folder / "config.json").exists():
        return None
    settings = source.json("config.json")
    inner = settings.get(part) if settings.get("model_type") == "encoder-decoder" else None
    if isinstance(inner, dict):
        limit = inner.get("max_position_embeddings")
        if isinstance(limit, int) and "roberta" in str(inner.get("model_type")):
            limit -= 2  # it counts positions from behind its padding index
    else:
        limit = settings.get(f"max_{part}_position_embeddings", settings.get("max_position_embeddings"))
    return limit if isinstance(limit, int) else None


def plain_files(name: str, revision: str | None = None) -> tuple[dict[str, Any], list[Path]]:
    """Return config.json of a summarizer as it stands, and the files of its tokenizer.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.

    Raises:
        UserError: not found, or config.json can't be read.
    """
    source = sources.locate(name, revision, WHOLE, weights.PICKLED)
    files = (source.folder / file for file in tokenizers.FILES if file != "config.json")
    return source.json("config.json"), [file for file in files if file.is_file()]


def model_config(source: Source) -> PreTrainedConfig:
    """Read a model's settings, without those that would fetch code or need a quantization library."""
    kind = source.json("config.json").get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{source.name}: config.json names no model_type; name a transformers model")
    try:
        with source.readable() as folder:
            settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign config can fail in any way
        raise source.unloadable(f"a model of type {kind!r} (code of repositories is never run)", error) from None
    if getattr(settings, "quantization_config", None):
        raise UserError(f"{source.name}: quantized weights, which cannot be trained here; name the unquantized model")
    settings._attn_implementation = None  # a config can name a hub repository of compiled kernels here
    settings._experts_implementation = None
    return settings


def is_classifier(settings: PreTrainedConfig) -> bool:
    return any("Classification" in architecture for architecture in settings.architectures or ())


def load_whole(auto: Any, source: Source, settings: PreTrainedConfig, what: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load weights and demand that each parameter came from the file, since a fresh one is random, and is finite.

    A folder is loaded as what its config.json says: an adapter beside a whole model is left out, which transformers
    would put on top, a second time where the model was merged before it was saved.
    """
    found = weights.find(source, "model.safetensors", "pytorch_model.bin")
    if source.has("adapter_config.json"):
        notes.tell(
            f"{source.name} holds an adapter beside a whole model; the model is loaded alone, as config.json says"
        )
    try:
        with source.readable(without="adapter_") as folder:
            model, report = auto.from_pretrained(
                folder,
                config=settings,
                dtype=dtype,
                use_safetensors=not found.pickled,
                weights_only=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below
            )
    except sources.FAILURES as error:
        raise source.unloadable(what, error) from None
    for key, in_file, by_config in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{source.name}: {printable(key, 80)} has shape {list(in_file)} in its weights and {list(by_config)} by "
            "its config.json; save both together, or name another model"
        )
    missing = sorted(set(report["missing_keys"]) & {parameter for parameter, _ in model.named_parameters()})
    if missing:
        raise UserError(
            f"{source.name}: its weights lack {len(missing)} tensors of {what}, "
            f"such as {printable(missing[0], 80)}; they would be random: name a model trained as such"
        )
    broken = weights.not_finite((name, parameter.detach()) for name, parameter in model.named_parameters())
    if broken is not None:
        raise UserError(
            f"{source.name}: its weights are not finite (NaN or infinite in {printable(broken, 80)}): what wrote them "
            "went wrong; fetch or save the model again, or name another one"
        )
    model.config._name_or_path = model.name_or_path = source.name
    vars(model)["_resolved_revision"] = source.commit
    return model.eval()


def resolved_revision(model: object) -> str | None:
    """Return the hub commit that a model, adapter or tokenizer was loaded at, if any."""
    return vars(model).get("_resolved_revision")


def embedding_rows(model: PreTrainedModel) -> int:
    return model.get_input_embeddings().get_parameter("weight").shape[0]
