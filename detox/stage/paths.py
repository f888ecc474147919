"""Names of folders and files as people type them: `~`, a slash at the end, another working folder. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.stage.errors import UserError

if TYPE_CHECKING:
    from config import S


_SETTINGS = {"adapter", "ask", "bad_words", "base", "bert_score", "checkpoint", "checkpoints", "dataset", "export"}
_SETTINGS |= {"model"}
"""Fields of settings that may name a folder or file."""


def tidy(settings: S) -> S:
    """Return settings in which what names a folder or file is written plainly: no `~`, no needless dots and slashes."""
    return dataclasses.replace(settings, **_tidied(settings))


def _tidied(settings: Any) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed[field.name] = dataclasses.replace(value, **_tidied(value))
        elif field.name in _SETTINGS and isinstance(value, str):
            changed[field.name] = _plain(value)
        elif field.name in _SETTINGS and isinstance(value, tuple):
            changed[field.name] = tuple(map(_plain, value))
    return changed


def _plain(name: str) -> str:
    name = os.path.expanduser(name)
    plain = os.path.normpath(name) if name else name
    return plain if same(plain, name) else name


def same(one: object, other: object) -> bool:
    """Return whether two names are of one folder or file that exists."""
    try:
        return isinstance(one, str) and isinstance(other, str) and os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def demand_utf8(folder: str) -> None:
    """Refuse a folder whose whole name is not UTF-8 here, since pyarrow and safetensors take every name for that.

    Raises:
        UserError: bytes of it are none, or the locale reads them as something else.
    """
    name = os.path.realpath(folder)
    written = os.fsencode(name)
    with contextlib.suppress(UnicodeEncodeError):
        if name.encode() == written:
            return
    plain = written.decode(errors="backslashreplace")
    remedy = "set PYTHONUTF8=1" if plain.encode() == written else "rename that folder, or choose another --checkpoints"
    raise UserError(f"{plain}: this name is not read as UTF-8; {remedy}")


def shown(path: Path) -> Path:
    """Return a path as short as it can be shown: from the working folder, if it lies in that."""
    here, absolute = Path.cwd(), Path(os.path.abspath(path))
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def find(name: str, roots: Iterable[Path]) -> str | None:
    """Return what the folder `name` is called from here, or None if it is in none of the `roots`."""
    for root in (Path(), *roots):
        if (root / name).is_dir():
            return str(shown(root / name))
    return None
