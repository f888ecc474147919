"""Files of weights: safetensors, or pickles that hold tensors alone. Nothing that a file says is ever run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detox.model.sources import Source
from detox.stage import notes
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_OTHER = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".gguf", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """The files that hold a model's weights."""

    files: tuple[Path, ...]
    pickled: bool


def find(source: Source, safe: str, pickle: str) -> Weights:
    """Find one file of weights, or an index with all its shards in the same folder; safetensors if there are any.

    Args:
        source: of the model.
        safe: name of the file, such as `model.safetensors`.
        pickle: name of the one to take otherwise, such as `pytorch_model.bin`.

    Raises:
        UserError: there is none, a shard is missing, or a pickle holds anything but tensors.
    """
    for name in (safe, pickle):
        files = _shards(source, name)
        if files:
            if name == pickle:
                _check_pickles(source, files)
            return Weights(files, name == pickle)
    others = sorted(file.name for file in source.folder.iterdir() if file.suffix in _OTHER)
    found = f"only {', '.join(others[:3])}" if others else "no weights" if source.commit is None else "none"
    raise UserError(
        f"{source.name}: needs {safe} or {pickle}, has {printable(found, 120)}; "
        "save it with save_pretrained() of transformers or peft, and name that folder"
    )


def _shards(source: Source, name: str) -> tuple[Path, ...]:
    index = f"{name}.index.json"
    if source.has(name):
        return (source.folder / name,)
    if not source.has(index):
        return ()
    shards = source.json(index).get("weight_map")
    files = sorted(set(shards.values())) if isinstance(shards, dict) else [None]
    for file in files:
        plain = isinstance(file, str) and Path(file).name == file and Path(file).suffix == Path(name).suffix
        if not plain or not source.has(str(file)):
            raise UserError(f"{source.name}: {index} names {file!r}, which is not there; fetch the model again")
    return tuple(source.folder / str(file) for file in files)


def read(source: Source, found: Weights) -> dict[str, Tensor]:
    """Return the tensors of all files by name.

    Raises:
        UserError: a file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for file in found.files:
        try:
            tensors.update(_load_pickle(file, "cpu") if found.pickled else load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{source.name}: {file.name} is damaged ({error}); fetch or save it again") from None
    return tensors


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that holds a NaN or an infinity, if one does; 0.04 s for 250 M floats."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, tensor.aminmax())):
            return name
    return None


def _load_pickle(file: Path, place: str) -> Any:
    with warnings.catch_warnings():  # torch has something to say on every pickle that it did not write
        warnings.simplefilter("ignore")
        return torch.load(file, map_location=place, weights_only=True)


def _check_pickles(source: Source, files: tuple[Path, ...]) -> None:
    """Demand that torch's restricted unpickler reads the files, and that they hold tensors by name; say so once."""
    for file in files:
        try:
            content = _load_pickle(file, "meta")
        except Exception as error:  # the unpickler's own, and what a damaged file brings
            raise UserError(
                f"{source.name}: {file.name} is refused ({_reason(error)}): of a pickle only tensors are read, since "
                "it could run code; save the model as safetensors with save_pretrained()"
            ) from None
        odd = _odd(content)
        if odd:
            raise UserError(
                f"{source.name}: {file.name} is refused: it holds {printable(odd, 80)}, and of a pickle only tensors "
                "are read; save the model with save_pretrained()"
            )
        notes.pickles[f"{source.name}/{file.name}"] = sha256(file)
        notes.tell(
            f"{source.name}/{file.name} is a pickle; torch's restricted unpickler read it, tensors alone, and no code "
            "of it was run"
        )


def _odd(content: object) -> str:
    """Return what a pickle holds besides tensors by name, if anything."""
    if not isinstance(content, dict) or not content:
        return f"a {type(content).__name__}{' without entries' if isinstance(content, dict) else ''}"
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            return f"a {type(value).__name__} named {key!r}"
    return ""


def _reason(error: Exception) -> str:
    """Return the gist of torch's long advice on pickles that it refuses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "nsupported" in line or "GLOBAL" in line]
    return printable((telling or lines or [type(error).__name__])[0], 160)
