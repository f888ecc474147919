"""Where models come from: folders, the hub in reach or not, and loading what is whole and fits."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils import get_session, httpx
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from detox import artifacts
from detox.errors import UserError, printable

if TYPE_CHECKING:
    from peft import PeftModel

DEMO_MODELS = Path(__file__).resolve().parent / "demo" / "models"
PROBE_SECONDS = 4.0
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
_SMALL_FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
_WEIGHTS = (
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")
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
_CONVERT = (
    "pickled weights can run code when they are loaded and are refused: convert them once, with "
    "save_pretrained() of transformers or peft or at https://huggingface.co/spaces/safetensors/convert, "
    "and name the converted folder or revision"
)


class HubUnreachable(UserError):
    """A model is not in the local cache, and the hub cannot be reached."""


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


# -------------------------------------------------------------------------------------------------------- hub


@functools.lru_cache(maxsize=4)
def hub_problem(endpoint: str) -> str | None:
    """Ask once whether the hub answers; return why not, or None.

    The request runs in a thread, because a broken resolver blocks for longer than any timeout of the client.
    """
    outcome = [f"no answer within {PROBE_SECONDS:g} s"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=PROBE_SECONDS - 1).status_code
            outcome[0] = f"it answers {status}" if status >= 500 else ""
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            outcome[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome[0] or None


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong with the hub inside this block into one `UserError` about the repository `name`.

    Bars of downloads show on a terminal alone. Where the hub does not answer, the block runs in the libraries'
    offline mode, in which they take what is in the local cache at once; otherwise they would retry for a minute.

    Raises:
        HubUnreachable: and the repository is not in the cache.
        UserError: no such repository or revision, gated, or the cache cannot be written.
    """
    offline, endpoint = constants.HF_HUB_OFFLINE, constants.ENDPOINT
    problem = None if offline else hub_problem(endpoint)
    constants.HF_HUB_OFFLINE = offline or problem is not None
    shown = sys.stderr.isatty() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # the variable decides, if set
    try:
        with nullcontext() if shown else huggingface_hub.utils.disable_progress_bars():
            yield
    except (errors.HFValidationError, errors.HfUriError):
        raise UserError(f"{name}: neither a folder nor a name on the hub (owner/name); check the spelling") from None
    except errors.GatedRepoError:
        raise UserError(f"{name}: gated; accept its terms at {endpoint}, then log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such folder here, and no such repository at {endpoint}, or a private one; "
            "check the name, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no such revision; name a commit, tag or branch of it") from None
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.HTTPError,
        ConnectionError,
    ) as error:
        answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = None if answer is None else answer.status_code
        if status in (401, 403):
            raise UserError(f"{name}: {endpoint} refuses access ({status}); log in with `hf auth login`") from None
        if offline:
            problem = "HF_HUB_OFFLINE is set"
        problem = problem or (f"it answers {status}" if status else str(error).partition("\n")[0])
        raise HubUnreachable(
            f"{name}: not in the local cache, and the hub at {endpoint} cannot be reached "
            f"({printable(problem, 120)}); use --preset demo, or name a local path instead"
        ) from None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be stored in the cache {constants.HF_HUB_CACHE} ({error.strerror or error}); "
            "make room or set HF_HOME to a folder that can be written"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


@dataclass(frozen=True)
class _Source:
    """A model's folder on this disk, the name that the user gave, and the commit if it came from the hub."""

    name: str
    folder: Path
    commit: str | None = None

    def json(self, file: str) -> dict[str, Any]:
        """Return the content of a JSON file of the folder."""
        path = self.folder / file
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.name}: has no {file}; name a folder or repository that is complete") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}: {file} cannot be read ({error}); fetch or save it again") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.name}: {file} is not a JSON object; fetch or save it again")
        return content


def _locate(name: str, revision: str | None, patterns: tuple[str, ...]) -> _Source:
    """Find a model: `demo:<name>`, a folder, or a hub repository, of which the files `patterns` are fetched.

    Only files at the top of a repository are fetched, so that no name in its listing leads elsewhere.
    """
    if name.startswith("demo:"):
        known = sorted(path.name for path in DEMO_MODELS.glob("*") if path.is_dir())
        if name.removeprefix("demo:") not in known:
            choices = ", ".join(f"demo:{choice}" for choice in known) or "none (run `make demo-models`)"
            raise UserError(f"{name}: no such embedded model; there are {choices}")
        return _Source(name, DEMO_MODELS / name.removeprefix("demo:"))
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a local folder, which has no revision {revision}; leave the revision out")
        return _Source(name, path)
    if path.exists():
        raise UserError(f"{name}: a file; name the folder that holds the model")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"{name}: no such folder; name an existing folder or a model on the hub (owner/name)")
    with hub_errors(name):
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        )
    return _Source(name, folder, commit=folder.name)


def resolved_revision(model: object) -> str | None:
    """Return the hub commit that a model, adapter, tokenizer or `Classifier` was loaded at, if any."""
    if isinstance(model, Classifier):
        model = model.model
    return vars(model).get("_resolved_revision")


def identity(name: str, revision: str | None = None) -> str:
    """Return what tells a model from others: the commit of a hub name, the hash of a folder's settings and weights.

    Raises:
        UserError: there is no such model.
    """
    settings = ("config.json", "adapter_config.json")
    source = _locate(name, revision, settings)
    if source.commit is not None:
        return source.commit
    digest = hashlib.sha256()
    there = [source.folder / file for file in settings if (source.folder / file).is_file()]
    for path in [*there, *sorted(source.folder.glob("*.safetensors"))]:
        digest.update(f"{path.name} {artifacts.sha256(path)}\n".encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------- tokenizers


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a summarizer; it pads and truncates on the right.

    Raises:
        UserError: not found, incomplete, without padding or end token, or larger than the model's vocabulary.
    """
    source = _locate(name, revision, (*_SMALL_FILES, *_TOKENIZER))
    tokenizer = _tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end-of-sequence token; choose an encoder-decoder such as T5")
    if (source.folder / "config.json").exists():
        size = source.json("config.json").get("vocab_size")
        if isinstance(size, int):
            _check_vocabulary(source, tokenizer, size)
    return tokenizer


def _tokenizer(source: _Source) -> PreTrainedTokenizerBase:
    if not any((source.folder / file).is_file() for file in _TOKENIZER):
        raise UserError(f"{source.name}: has no tokenizer ({', '.join(_TOKENIZER)}); save one next to the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign file can fail in any way, tokenizers' own errors are bare Exceptions
        raise _unloadable(source, "a tokenizer", error) from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"{source.name}: its tokenizer has no padding token; batches need one, choose another model")
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.name_or_path = source.name
    vars(tokenizer)["_resolved_revision"] = source.commit
    return tokenizer


def _check_vocabulary(source: _Source, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= size:
        raise UserError(
            f"{source.name}: its tokenizer does not fit: token id {largest}, but {size} rows of embedding; "
            "put the tokenizer that the model was trained with next to it"
        )


def _embedding_rows(model: PreTrainedModel) -> int:
    return model.get_input_embeddings().get_parameter("weight").shape[0]


# ----------------------------------------------------------------------------------------------------- models


def load_summarizer(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load an encoder-decoder from safetensors, in eval mode, on the CPU.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        dtype: of the weights.

    Raises:
        UserError: not found, not an encoder-decoder, or its weights are missing, damaged or pickled.
    """
    source = _locate(name, revision, (*_SMALL_FILES, *_TOKENIZER, *_WEIGHTS))
    settings = _config(source)
    if not settings.is_encoder_decoder or _is_classifier(settings):
        kind = (settings.architectures or [settings.model_type])[0]
        raise UserError(f"{name}: {kind} is not an encoder-decoder for text; choose one such as google/flan-t5-base")
    model = _load(AutoModelForSeq2SeqLM, source, settings, "an encoder-decoder", dtype)
    if any((source.folder / file).is_file() for file in _TOKENIZER):
        _check_vocabulary(source, _tokenizer(source), _embedding_rows(model))
    return model


def read_config(name: str, revision: str | None = None) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """Return the settings of a model, and the content of its config.json, from which transformers may depart.

    Raises:
        UserError: not found, or no model that is loaded here; `HubUnreachable` where that is all.
    """
    source = _locate(name, revision, ("config.json",))
    return _config(source), source.json("config.json")


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
    source = _locate(name, revision, (*_SMALL_FILES, *_TOKENIZER))
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
    source = _locate(name, revision, (*_SMALL_FILES, *_TOKENIZER, *_WEIGHTS))
    files = (source.folder / file for file in (*_SMALL_FILES, *_TOKENIZER) if file != "config.json")
    return source.json("config.json"), [file for file in files if file.is_file()]


def _config(source: _Source) -> PreTrainedConfig:
    """Read a model's settings, without those that would fetch code or need a quantization library."""
    kind = source.json("config.json").get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{source.name}: config.json names no model_type; name a transformers model")
    try:
        settings = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign config can fail in any way
        raise _unloadable(source, f"a model of type {kind!r} (code of repositories is never run)", error) from None
    if getattr(settings, "quantization_config", None):
        raise UserError(f"{source.name}: quantized weights, which cannot be trained here; name the unquantized model")
    settings._attn_implementation = None  # a config can name a hub repository of compiled kernels here
    settings._experts_implementation = None
    return settings


def _is_classifier(settings: PreTrainedConfig) -> bool:
    return any("Classification" in architecture for architecture in settings.architectures or ())


def _load(auto: Any, source: _Source, settings: PreTrainedConfig, what: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load weights and demand that each parameter came from the file: a fresh one would be random."""
    _check_weights(source, "model")
    try:
        model, report = auto.from_pretrained(
            source.folder,
            config=settings,
            dtype=dtype,
            use_safetensors=True,
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


def _check_weights(source: _Source, stem: str) -> None:
    """Demand safetensors: one file, or an index with all its shards in the same folder."""
    index = f"{stem}.safetensors.index.json"
    if (source.folder / f"{stem}.safetensors").is_file():
        return
    if (source.folder / index).is_file():
        shards = source.json(index).get("weight_map")
        files = sorted(set(shards.values())) if isinstance(shards, dict) else [None]
        for file in files:
            plain = isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")
            if not plain or not (source.folder / str(file)).is_file():
                raise UserError(f"{source.name}: {index} names {file!r}, which is not there; fetch the model again")
        return
    pickles = sorted(file.name for file in source.folder.iterdir() if file.suffix in _PICKLES)
    found = f"only {', '.join(pickles[:3])}" if pickles else "no weights" if source.commit is None else "none"
    raise UserError(f"{source.name}: needs {stem}.safetensors, has {printable(found, 120)}; {_CONVERT}")


def _unloadable(source: _Source, what: str, error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = printable(lines[0] if lines else type(error).__name__, 200)
    return UserError(f"{source.name}: cannot be loaded as {what} ({reason}); check the files, or name another model")


# --------------------------------------------------------------------------------------------------- adapters


def load_adapter(model: PreTrainedModel, name: str, revision: str | None = None) -> PeftModel:
    """Put a trained LoRA on its base.

    Args:
        model: the base; is changed in place.
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.

    Returns:
        The base with the adapter, named `default`, frozen, in eval mode.

    Raises:
        UserError: not found, not a plain LoRA, for another base, or its weights are damaged or pickled.
    """
    from peft import LoraConfig, PeftModel

    source = _locate(name, revision, _ADAPTER)
    _check_plain_lora(source)
    _check_weights(source, "adapter_model")
    shapes = _tensor_shapes(source, "adapter_model.safetensors")
    _check_base(source, shapes, model)
    try:
        settings = LoraConfig.from_pretrained(str(source.folder))
        settings.task_type, settings.inference_mode = "SEQ_2_SEQ_LM", True
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error, told below
            adapted = PeftModel.from_pretrained(model, str(source.folder), config=settings)
    except _LOADING as error:
        raise _unloadable(source, "a LoRA adapter", error) from None
    loaded = {key.replace(".default.", ".") for key, _ in adapted.named_parameters() if ".lora_" in key}
    if loaded != set(shapes):
        odd = sorted(loaded ^ set(shapes))
        raise UserError(
            f"{name}: does not fit the base: {len(odd)} tensors without counterpart, "
            f"such as {printable(odd[0], 100)}; take the base that it was trained on"
        )
    vars(adapted)["_resolved_revision"] = source.commit
    return adapted.eval()


def _check_plain_lora(source: _Source) -> None:
    if not (source.folder / "adapter_config.json").is_file():
        raise UserError(f"{source.name}: has no adapter_config.json, so it is no PEFT adapter; name one, or `none`")
    settings = source.json("adapter_config.json")
    kind, task = settings.get("peft_type"), settings.get("task_type")
    if kind != "LORA":
        raise UserError(f"{source.name}: a PEFT adapter of type {kind}; only LoRA can be merged and exported here")
    if task not in (None, "SEQ_2_SEQ_LM"):
        raise UserError(f"{source.name}: a LoRA for {task}; name one for an encoder-decoder (SEQ_2_SEQ_LM)")
    refused = ["use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication"]
    refused += ["target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "velora_config"]
    extras = [f"{key}={settings[key]}" for key in refused if settings.get(key)]
    if settings.get("bias", "none") != "none":
        extras.append(f"bias={settings['bias']}")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start not in ("gaussian", "orthogonal"):
        extras.append(f"init_lora_weights={start}, which changes the base")
    if extras:
        raise UserError(f"{source.name}: LoRA with {printable(', '.join(extras), 120)}; train a plain LoRA, without it")


def _tensor_shapes(source: _Source, file: str) -> dict[str, tuple[int, ...]]:
    """Return names and shapes from the header of a safetensors file, without reading a weight."""
    try:
        with safe_open(source.folder / file, framework="pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{source.name}: {file} is damaged ({error}); fetch or save it again") from None


def _check_base(source: _Source, shapes: dict[str, tuple[int, ...]], model: PreTrainedModel) -> None:
    """Demand that each pair of factors meets a linear layer of its size, before the base is touched."""
    trained_on = source.json("adapter_config.json").get("base_model_name_or_path") or "another model"
    advice = f"it was trained on {printable(trained_on, 80)}: take that as the base, or another adapter"
    for key, shape in shapes.items():
        layer, _, factor = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if factor not in ("lora_A", "lora_B") or len(shape) != 2:
            raise UserError(
                f"{source.name}: holds {printable(key, 80)}, no factor of a LoRA on linear layers; {advice}"
            )
        try:
            module = model.get_submodule(layer)
        except AttributeError:
            raise UserError(f"{source.name}: adapts {layer}, which the base does not have; {advice}") from None
        if not isinstance(module, nn.Linear):
            raise UserError(f"{source.name}: adapts {layer}, which is no linear layer of the base; {advice}")
        size, wanted = (shape[1], module.in_features) if factor == "lora_A" else (shape[0], module.out_features)
        if size != wanted:
            raise UserError(f"{source.name}: has size {size} at {layer}, where the base has {wanted}; {advice}")
    if not shapes:
        raise UserError(f"{source.name}: an empty adapter; {advice}")


# ------------------------------------------------------------------------------------------------ classifiers


@dataclass
class Classifier:
    """A sequence classifier, its tokenizer, and the label that is asked for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_id: int
    name: str

    @property
    def labels(self) -> list[str]:
        """Names of the labels by index."""
        return _labels(self.model.config)

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes, special ones included.

        RoBERTa counts positions from behind its padding index, so its 514 rows hold 512 tokens.
        """
        limit = self.tokenizer.model_max_length
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
                limit = min(limit, module.num_embeddings - offset)
        return int(limit)

    @property
    def multi_label(self) -> bool:
        """Whether labels are independent (sigmoid) or exclusive (softmax), as in transformers' pipeline."""
        return self.model.config.problem_type == "multi_label_classification"

    def index(self, label: str) -> int:
        """Return the index of the label called `label`, wherever the model has it.

        Raises:
            UserError: there is none, or more than one.
        """
        found = [index for index, name in enumerate(self.labels) if name == label]
        if len(found) != 1:
            problem = "no label" if not found else "more than one label"
            choices = printable(", ".join(self.labels), 300)
            raise UserError(f"{self.name}: has {problem} {label!r}; choose from: {choices}")
        return found[0]

    def with_label(self, label: str) -> Classifier:
        """Return the same classifier, weights shared, asked for another label.

        Raises:
            UserError: there is no such label, or more than one.
        """
        return replace(self, label_id=self.index(label))


def _labels(settings: PreTrainedConfig) -> list[str]:
    names: Mapping[Any, str] = settings.id2label or {}
    return [str(name) for _, name in sorted(names.items())]


def load_classifier(
    name: str, revision: str | None = None, label: str = "hate", dtype: torch.dtype = torch.float32
) -> Classifier:
    """Load a sequence classifier from safetensors, in eval mode, on the CPU.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        label: name of the label that is wanted, as in the model's config.
        dtype: of the weights.

    Raises:
        UserError: not found, not a classifier, one label only, no such label, or its weights are missing,
            damaged or pickled.
    """
    source = _locate(name, revision, (*_SMALL_FILES, *_TOKENIZER, *_WEIGHTS))
    settings = _config(source)
    if not _is_classifier(settings):
        kind = (settings.architectures or [settings.model_type])[0]
        raise UserError(f"{name}: {kind} is not a sequence classifier; choose one that has the label {label!r}")
    labels = _labels(settings)
    if len(labels) < 2 or settings.problem_type == "regression":
        problem = "has one label only" if len(labels) < 2 else "is a regression"
        names = printable(", ".join(labels), 200)
        raise UserError(
            f"{name}: {problem} ({names}); choose a classifier of two labels or more, one of them {label!r}"
        )
    tokenizer = _tokenizer(source)
    model = _load(AutoModelForSequenceClassification, source, settings, "a sequence classifier", dtype)
    _check_vocabulary(source, tokenizer, _embedding_rows(model))
    classifier = Classifier(model, tokenizer, 0, name)
    return classifier.with_label(label)
