"""Artefacts, the hand-off between stages: published whole or not at all, replaced by --overwrite, read when whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.stage import commands, drafts, files, folders, main_memory, manifest, paths, storage, versions
from detox.stage.errors import UserError, printable
from detox.stage.figures import lookup

if TYPE_CHECKING:
    import config


MANIFEST = manifest.NAME


@dataclass
class Draft:
    """An artefact that is being written."""

    path: Path
    """Temporary folder that takes the files."""
    counts: dict[str, int | float] = field(default_factory=dict)
    """What the manifest shall tell of the contents, in numbers."""
    notes: dict[str, Any] = field(default_factory=dict)
    """And in words, where there is something to tell."""
    inputs: dict[str, Path] = field(default_factory=dict)
    """Artefacts that this one was made from, where they are known only while it is written."""


@contextlib.contextmanager
def publish(
    target: Path,
    *,
    stage: str,
    settings: config.Stage,
    device: str = "cpu",
    overwrite: bool = False,
    inputs: Mapping[str, Path] | None = None,
) -> Iterator[Draft]:
    """Write an artefact: a reader sees all of it or none, whatever happens in between.

    Args:
        target: folder to make; its parents are made where they are missing.
        stage: name of the script that writes, without its suffix.
        settings: recorded in full.
        device: where the stage computed.
        overwrite: replace an existing artefact; it stays whole until the new one is.
        inputs: artefacts that this one is made from.

    Yields:
        The draft whose `path` takes the files; on an error it is removed.

    Raises:
        UserError: the target exists and may not be replaced, or can't be written.
    """
    target, started = Path(os.path.realpath(target)), time.monotonic()
    with storage.told(target), folders.made(target.parent):
        folders.recover(target)
        _refuse_existing(target, stage, overwrite)
        drafts.sweep(target)
        sources = {name: _source(target, folder) for name, folder in (inputs or {}).items()}
        path = drafts.temporary(target)
        with drafts.held(path, wait=True):
            try:
                path.mkdir()
                draft = Draft(path)
                yield draft
                sources.update({name: _source(target, folder) for name, folder in draft.inputs.items()})
                content = {
                    "schema_version": manifest.SCHEMA_VERSION,
                    "stage": stage,
                    "config": dataclasses.asdict(settings),
                    "seed": settings.seed,
                    "versions": versions.installed(),
                    "device": str(device),
                    "git_rev": versions.git_rev(),
                    "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "inputs": sources,
                    "files": _flush_files(path),
                    "counts": dict(draft.counts),
                    "seconds": round(time.monotonic() - started, 3),
                    "peak_memory_mb": main_memory.peak_mb(),
                    **({"notes": draft.notes} if draft.notes else {}),
                }
                files.write_new(path / MANIFEST, manifest.sealed(content).encode())
                files.sync_folder(path)
                folders.replace(target, path)
                files.sync_folder(target.parent)
            finally:
                drafts.discard(path)


def read_manifest(
    folder: Path, stage: str, *, verify: bool = True, remedy: str | None = None, reader: config.Stage | None = None
) -> dict[str, Any]:
    """Return the manifest of a whole artefact.

    Args:
        folder: the artefact.
        stage: name of the script that must have written it, without its suffix.
        verify: compare the sha256 of every file; else only that it is there with its size.
        remedy: what to do about one that is damaged; `python <stage>.py --overwrite` unless given.
        reader: settings of the stage that reads it, whose run it is of; with them the user is told a whole command.

    Raises:
        UserError: something is missing, changed, too new or of another stage.
    """
    folder = Path(folder)
    while True:
        before = _identity(folder)
        try:
            return _read_whole(folder, stage, verify, remedy, reader)
        except UserError:
            if _identity(folder) == before:
                raise  # else a new artefact took its place between two looks


def _refuse_existing(target: Path, stage: str, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not (target / MANIFEST).is_file():
        raise UserError(
            f"{paths.shown(target)} has no {MANIFEST}, so it is not replaced; move it away, or choose another --run"
        )
    written = lookup(manifest.glance(target), "stage")
    if written not in (None, stage):
        raise UserError(
            f"{paths.shown(target)} was written by {printable(repr(written), 60)}, so it is not replaced; move it "
            "away, or choose another --run"
        )
    if not overwrite:
        raise UserError(f"{paths.shown(target)} exists; pass --overwrite to replace it, or choose another --run")


def _source(target: Path, folder: Path) -> dict[str, Any]:
    """Return what is recorded of an artefact that was read: of prepared data the settings too, to make them again."""
    folder = Path(os.path.realpath(folder))
    read = json.loads((folder / MANIFEST).read_bytes())
    return {
        "path": Path(os.path.relpath(folder, target)).as_posix(),
        "manifest_sha256": files.sha256(folder / MANIFEST),
        "content_sha256": manifest.content(read),
        **({"config": read["config"]} if read["stage"] == "data_preparation" else {}),
    }


def _flush_files(folder: Path) -> list[dict[str, Any]]:
    """Return what the manifest says of the files in a folder, which the disk then has."""
    entries: list[dict[str, Any]] = []
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            files.share(path)
            files.sync(path)
            relative = path.relative_to(folder).as_posix()
            entries.append({"path": relative, "bytes": path.stat().st_size, "sha256": files.sha256(path)})
        files.sync_folder(Path(parent))
    return sorted(entries, key=lambda entry: entry["path"])


def _identity(folder: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.stat(folder)
        return status.st_ino, status.st_ctime_ns
    return None


def _read_whole(
    folder: Path, stage: str, verify: bool, remedy: str | None, reader: config.Stage | None
) -> dict[str, Any]:
    anew = remedy or f"run {commands.before(stage, reader, folder, '--overwrite')} to make it anew"
    with storage.told(folder):
        folders.recover(folder)
        content = None
        with contextlib.suppress(FileNotFoundError):  # it goes between two looks
            if (folder / MANIFEST).is_file():
                content = (folder / MANIFEST).read_bytes()
        if content is None:
            if os.path.lexists(folder):
                default = f"move it away and run {commands.before(stage, reader, folder)}"
                raise UserError(f"{folder} has no {MANIFEST}; {remedy or default}")
            raise UserError(f"{folder}: no such folder; {commands.missing(stage, reader, folder)}")
    found = manifest.parse(content, folder / MANIFEST, stage, anew)
    is_as_written = manifest.is_as_written(found)
    for entry in found["files"]:
        problem = manifest.file_problem(folder, entry, verify)
        if problem:
            if is_as_written and remedy is None:
                anew = f"run {commands.remake(stage, reader, folder)} to make it anew"
            raise UserError(f"{folder}: {problem}; {anew}")
    if not is_as_written:
        raise UserError(f"{folder / MANIFEST} has changed; {anew}")
    return found
