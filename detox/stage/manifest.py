"""The manifest of an artefact: what it must say, and whether the files are those it names. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from detox.stage import files
from detox.stage.errors import UserError

NAME = "manifest.json"
SCHEMA_VERSION = 1
_KEYS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "stage": str,
    "config": dict,
    "seed": int,
    "versions": dict,
    "device": str,
    "git_rev": (str, type(None)),
    "created_utc": str,
    "inputs": dict,
    "files": list,
    "counts": dict,
    "seconds": (int, float),
    "peak_memory_mb": (int, float),
    "sha256": str,
}


def sealed(manifest: Mapping[str, object]) -> str:
    """Return the text of a manifest, numpy's numbers as plain ones, with its own digest at the end."""
    content = json.loads(json.dumps(manifest, default=lambda number: number.item()))
    return json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n"


def parse(content: bytes, path: Path, stage: str, anew: str) -> dict[str, Any]:
    """Return a manifest that has all its keys, and values of their kinds.

    Args:
        content: of the file.
        path: of the file.
        stage: name of the script that must have written it, without its suffix.
        anew: what to do about one that is damaged.

    Raises:
        UserError: it is none, is damaged, too new or of another stage.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; {anew}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is not a JSON object; {anew}")
    version = manifest.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {version}, newer than {SCHEMA_VERSION}; update the program, or {anew}"
        )
    for key, kind in _KEYS.items():
        if key not in manifest:
            raise UserError(f"{path} lacks {key!r}; {anew}")
        if not isinstance(manifest[key], kind) or isinstance(manifest[key], bool):
            raise UserError(f"{path} has a wrong {key!r}; {anew}")
    if version != SCHEMA_VERSION:
        raise UserError(f"{path} has the unknown schema_version {version}; {anew}")
    if manifest["stage"] != stage:
        raise UserError(f"{path} was written by {manifest['stage']!r}; name a folder that {stage}.py has written")
    return manifest


def content(manifest: Mapping[str, Any]) -> str:
    """Return what tells an artefact from others, whenever it was made: a hash of its files' names and hashes."""
    files_of = sorted((entry["path"], entry["sha256"]) for entry in manifest["files"])
    return hashlib.sha256(json.dumps(files_of).encode()).hexdigest()


def glance(folder: Path) -> Any:
    """Return what the manifest in a folder holds, unchecked; None where there is none that can be read.

    For what is nice to know: what is wrong with it is told where the artefact is read in full.
    """
    try:
        return json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def content_of(folder: Path) -> str | None:
    """Return `content` of the artefact in a folder, None where there is none that can be read."""
    try:
        return content(glance(folder))
    except (KeyError, TypeError):
        return None


def is_as_written(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest still has its own digest."""
    return manifest["sha256"] == _digest(manifest)


def file_problem(folder: Path, entry: Any, verify: bool) -> str | None:
    """Return what is wrong with a file that a manifest names, None if nothing is.

    Args:
        folder: the artefact.
        entry: of the manifest's `files`.
        verify: compare its sha256; else only its size.
    """
    name = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not isinstance(entry.get("sha256"), str) or type(entry.get("bytes")) is not int:
        return f"{NAME} has a wrong entry in 'files'"
    relative = PurePosixPath(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or "\0" in name:
        return f"{NAME} names {name!r}, which is outside"
    try:
        status = os.stat(folder / relative)
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is not a file"
        if status.st_size != entry["bytes"]:
            return f"{name} has {status.st_size} bytes instead of {entry['bytes']}"
        if verify and files.sha256(folder / relative) != entry["sha256"]:
            return f"{name} has changed"
    except PermissionError:
        raise  # it may be whole
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "can't be read"
        return f"{name} {reason}"
    return None


def _digest(manifest: Mapping[str, object]) -> str:
    """Return the sha256 of all that a manifest says but this."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
