"""Where a model is (embedded, in a folder, on the hub), which one it is, and its files as libraries can read them."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from detox.model import hub
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

DEMO_MODELS = Path(__file__).resolve().parents[1] / "demo" / "models"
FAILURES = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError),
    re.error,  # of a pattern of layers
)
"""What libraries raise over files of which they can make no model."""


@dataclass(frozen=True)
class Source:
    """A model's folder on this disk, the name that the user gave, and the commit if it came from the hub."""

    name: str
    folder: Path
    commit: str | None = None

    def has(self, file: str) -> bool:
        """Return whether the folder has a file of this name."""
        return (self.folder / file).is_file()

    def json(self, file: str) -> dict[str, Any]:
        """Return the content of a JSON file of the folder."""
        path = self.folder / file
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise UserError(f"{self.name}: has no {file}; {self._instead(file)}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.name}: {file} cannot be read ({error}); fetch or save it again") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.name}: {file} is not a JSON object; fetch or save it again")
        return content

    def _instead(self, file: str) -> str:
        """Return what may have been meant: an adapter, or a folder inside of this one."""
        if file == "config.json" and self.has("adapter_config.json"):
            return "it is an adapter: give the summarizer's as --model.adapter, merge others into their base first"
        inside = sorted(path.parent for path in self.folder.glob(f"*/{file}"))
        if inside and self.commit is None:
            return f"name a folder inside of it, such as {Path(self.name) / inside[-1].name}"
        return "name a folder or repository that is complete"

    @contextlib.contextmanager
    def readable(self, without: str | None = None) -> Iterator[Path]:
        """Yield the folder, or one like it without the byte order marks of text files, which libraries do not read.

        Args:
            without: beginning of the names of files that are left out.
        """
        there = [file for file in self.folder.glob("*") if file.is_file()]
        files = [file for file in there if without is None or not file.name.startswith(without)]
        marked = {file for file in files if file.suffix in (".json", ".txt") and _is_marked(file)}
        if not marked and files == there:
            yield self.folder
            return
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                if file in marked:
                    Path(folder, file.name).write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
                else:
                    try:
                        Path(folder, file.name).symlink_to(file.resolve())
                    except OSError:  # Windows, where not everybody may
                        shutil.copyfile(file, Path(folder, file.name))
            yield Path(folder)

    def unloadable(self, what: str, error: Exception) -> UserError:
        """Return the error for a folder of which a library makes no `what`."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = printable(lines[0] if lines else type(error).__name__, 200)
        return UserError(f"{self.name}: cannot be loaded as {what} ({reason}); check the files, or name another model")


def locate(name: str, revision: str | None, patterns: Sequence[str], otherwise: Sequence[str] = ()) -> Source:
    """Find a model: `demo:<name>`, a folder, or a hub repository, of which the files `patterns` are fetched.

    Only files at the top of a repository are fetched, so that no name in its listing leads elsewhere.

    Args:
        name: as the user gave it.
        revision: commit, tag or branch of a hub name.
        patterns: names of the files that are wanted, with `*`.
        otherwise: names of those that are fetched where the repository has no safetensors.
    """
    if name.startswith("demo:"):
        known = sorted(path.name for path in DEMO_MODELS.glob("*") if path.is_dir())
        if name.removeprefix("demo:") not in known:
            choices = ", ".join(f"demo:{choice}" for choice in known) or "none (run `make demo-models`)"
            raise UserError(f"{name}: no such embedded model; there are {choices}")
        return Source(name, DEMO_MODELS / name.removeprefix("demo:"))
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a local folder, which has no revision {revision}; leave the revision out")
        return Source(name, path)
    if path.exists():
        raise UserError(f"{name}: a file; name the folder that holds the model")
    begun = "/" in name and path.parent.is_dir()  # its folder is here, so that no owner on the hub is meant
    if begun or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"{name}: no such folder; name an existing folder or a model on the hub (owner/name)")
    folder = hub.fetch(name, revision, patterns)
    if otherwise and not any(folder.glob("*.safetensors")):
        folder = hub.fetch(name, folder.name, [*patterns, *otherwise])
    return Source(name, folder, commit=folder.name)


def is_here(name: str) -> bool:
    """Return whether a model is embedded or a folder on this disk."""
    return name.startswith("demo:") or Path(name).expanduser().is_dir()


def identity(name: str, revision: str | None = None) -> str:
    """Return what tells a model from others: the commit of a hub name, the hash of a folder's settings and weights.

    Raises:
        UserError: there is no such model.
    """
    settings = ("config.json", "adapter_config.json")
    source = locate(name, revision, settings)
    if source.commit is not None:
        return source.commit
    digest = hashlib.sha256()
    files = [source.folder / file for file in settings if source.has(file)]
    files += sorted(source.folder.glob("*.safetensors"))
    if not source.has("adapter_model.safetensors"):
        files += source.folder.glob("adapter_model.bin")
    if source.has("config.json") and not any(source.folder.glob("model*.safetensors")):
        files += sorted(source.folder.glob("pytorch_model*.bin"))
    for path in files:
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _is_marked(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(3) == codecs.BOM_UTF8
