"""The hand-off between stages: manifests, atomic publishing, hash checks and the lock of a run. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import filelock
import psutil

from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
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
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "evaluate")
_STORAGE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.EISDIR: "a folder is in the way; move it, or choose another name",
    errno.EIO: "check the disk",
}
_LOCKED: set[int] = set()


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
    with _storage_errors(target), _folder(target.parent):
        _recover(target)
        _refuse_existing(target, overwrite)
        _sweep(target)
        sources = {name: _source(target, folder) for name, folder in (inputs or {}).items()}
        path = _temporary(target)
        with _held(path, wait=True):
            try:
                path.mkdir()
                draft = Draft(path)
                yield draft
                sources.update({name: _source(target, folder) for name, folder in draft.inputs.items()})
                manifest = {
                    "schema_version": SCHEMA_VERSION,
                    "stage": stage,
                    "config": dataclasses.asdict(settings),
                    "seed": settings.seed,
                    "versions": versions(),
                    "device": str(device),
                    "git_rev": git_rev(),
                    "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "inputs": sources,
                    "files": _flush_files(path),
                    "counts": dict(draft.counts),
                    "seconds": round(time.monotonic() - started, 3),
                    "peak_memory_mb": peak_memory_mb(),
                    **({"notes": draft.notes} if draft.notes else {}),
                }
                content = json.loads(json.dumps(manifest, default=lambda number: number.item()))
                text = json.dumps({**content, "sha256": _own_digest(content)}, indent=2)
                _write(path / MANIFEST, text.encode() + b"\n")
                _sync_folder(path)
                _replace_folder(path, target)
                _sync_folder(target.parent)
            finally:
                _remove(path)


def read_manifest(folder: Path, stage: str, *, verify: bool = True, remedy: str | None = None) -> dict[str, Any]:
    """Return the manifest of a whole artefact.

    Args:
        folder: the artefact.
        stage: name of the script that must have written it, without its suffix.
        verify: compare the sha256 of every file; else only that it is there with its size.
        remedy: what to do about one that is damaged; `python <stage>.py --overwrite` unless given.

    Raises:
        UserError: something is missing, changed, too new or of another stage.
    """
    folder = Path(folder)
    while True:
        before = _identity(folder)
        try:
            return _read_whole(folder, stage, verify, remedy)
        except UserError:
            if _identity(folder) == before:
                raise  # else a new artefact took its place between two looks


@contextlib.contextmanager
def lock(run_folder: Path) -> Iterator[None]:
    """Keep every other process from writing to a run; the folder is made where it is missing.

    The system drops the lock of a process that dies. What was made for the lock alone goes with it.

    Raises:
        UserError: another process, which is named, holds the lock; or the folder can't be written.
    """
    run_folder = Path(os.path.abspath(run_folder))
    path = run_folder / ".lock"
    with _storage_errors(path), _folder(run_folder):
        descriptor = _acquire(path)
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            sweep(run_folder)
            yield
        finally:
            _release(descriptor, path)


def remove(folder: Path) -> None:
    """Remove an artefact, or a folder of them: renamed first, so that no reader ever meets a part."""
    doomed = _temporary(Path(os.path.realpath(folder)))
    os.rename(folder, doomed)
    _remove(doomed)


@contextlib.contextmanager
def aside(folder: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> Iterator[None]:
    """Move a folder out of the way of its successor, which is made in this block, and put it back where that fails.

    Args:
        folder: may be missing.
        own: says of a name in the folder that it is this program's; what else lies there is handed on.
        is_whole: says of the successor that it can take the old one's place.
    """
    kept = _temporary(Path(os.path.realpath(folder)), "before")
    with _held(kept, wait=True):
        if folder.exists():
            os.rename(folder, kept)
        try:
            yield
        finally:
            _settle(kept, own, is_whole)


def settle(folder: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> None:
    """Finish what `aside` could not, because its process died; arguments as there."""
    for kept in _leftovers(Path(os.path.realpath(folder)), "before"):
        with contextlib.suppress(OSError), _held(kept) as mine:
            if mine:
                _settle(kept, own, is_whole)


def _settle(kept: Path, own: Callable[[str], bool], is_whole: Callable[[Path], object]) -> None:
    folder = _owner(kept)
    if not kept.exists():
        return
    if not is_whole(folder):
        if folder.exists():
            remove(folder)
        os.rename(kept, folder)
        return
    for name in os.listdir(kept):
        if not own(name) and not os.path.lexists(folder / name):
            os.rename(kept / name, folder / name)
    remove(kept)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in a folder."""
    for old in _leftovers(folder / "*", "old"):
        _recover(_owner(old))
    _sweep(folder / "*")


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write one file: a reader sees the old contents or the new, never a part.

    Raises:
        UserError: the file can't be written.
    """
    path = Path(os.path.realpath(path))
    with _storage_errors(path):
        _sweep(path)
        temporary = _temporary(path)
        with _held(temporary, wait=True):
            try:
                _write(temporary, data.encode() if isinstance(data, str) else data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def storage_error(error: BaseException, path: object) -> UserError | None:
    """Return the line for a full, read-only or forbidden disk, or None for any other error.

    Args:
        error: what was raised; libraries hide the system's error in a cause, or in the text (safetensors).
        path: named where the error names none.
    """
    cause: BaseException | None = error
    while cause is not None:
        hidden = re.search(r"\(os error (\d+)\)", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(hidden[1]) if hidden else None
        if number in _STORAGE:
            name = getattr(cause, "filename", None)
            return UserError(
                f"{path if name is None else os.fsdecode(name)}: {os.strerror(number)}; {_STORAGE[number]}"
            )
        cause = cause.__cause__
    return None


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = storage_error(error, path)
        if told is None:
            raise
        raise told from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder} is a file, not a folder; choose another --run or --checkpoints") from None
    except FileNotFoundError:
        raise UserError(f"{folder} can't be made; choose another --checkpoints") from None


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those that are left empty go again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    _make_folder(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise UserError(f"{target} exists; pass --overwrite to replace it, or choose another --run")
    if not (target / MANIFEST).is_file():
        raise UserError(f"{target} has no {MANIFEST}, so it is not replaced; move it away, or choose another --run")


def _source(target: Path, folder: Path) -> dict[str, str]:
    folder = Path(os.path.realpath(folder))
    return {
        "path": Path(os.path.relpath(folder, target)).as_posix(),
        "manifest_sha256": sha256(folder / MANIFEST),
    }


def _flush_files(folder: Path) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = []
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            with open(path, "rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
            relative = path.relative_to(folder).as_posix()
            files.append({"path": relative, "bytes": path.stat().st_size, "sha256": sha256(path)})
        _sync_folder(Path(parent))
    return sorted(files, key=lambda entry: entry["path"])


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems know no fsync of folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace_folder(draft: Path, target: Path) -> None:
    """Put `draft` in the place of `target`; what stood there is left under a temporary name."""
    if not os.path.lexists(target):
        os.rename(draft, target)
    elif not _exchange(draft, target):
        old = _temporary(target, "old")
        with _held(old, wait=True):
            os.rename(target, old)
            os.rename(draft, target)
            _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can (Linux): the name is never without a folder."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return False
    return renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0


def _recover(target: Path) -> None:
    """Put the old artefact back where a replacement was killed between its two renames."""
    for _ in range(100):
        replaced = [] if os.path.lexists(target) else _leftovers(target, "old")
        if not replaced:
            return
        for old in replaced:
            with contextlib.suppress(OSError), _held(old) as mine:
                if mine and not os.path.lexists(target):
                    os.rename(old, target)
        time.sleep(0.01)  # its writer lives and is about to put the new one there


def _sweep(target: Path) -> None:
    """Remove what dead processes left beside `target`, and what they left of it."""
    everything = target.with_name("*")
    for path in _leftovers(everything, "tmp") + _leftovers(target, "old") + _leftovers(everything, "lock"):
        with contextlib.suppress(OSError), _held(path) as mine:
            if mine and path.suffix != ".lock":  # which goes with the hold on it
                _remove(path)


def _temporary(target: Path, suffix: str = "tmp") -> Path:
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.{suffix}"


def _leftovers(target: Path, suffix: str) -> list[Path]:
    name = ".+" if target.name == "*" else re.escape(target.name)
    pattern = re.compile(rf"\.{name}\.\d+-[0-9a-f]{{8}}\.{suffix}")
    try:
        names = os.listdir(target.parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [target.parent / name for name in sorted(names) if pattern.fullmatch(name)]


def _owner(temporary: Path) -> Path:
    """Return what a temporary name stands for."""
    return temporary.with_name(temporary.name[1:].rsplit(".", 2)[0])


@contextlib.contextmanager
def _held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Mark a temporary file or folder as in use by a living process, by a lock file beside it.

    Yields:
        False where another process holds it, unless this one may `wait`.
    """
    lock = path.with_suffix(".lock")
    descriptor = _locked(lock)
    while descriptor is None and wait:
        time.sleep(0.01)
        descriptor = _locked(lock)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        _release(descriptor, lock)


def _locked(path: Path) -> int | None:
    """Return the locked descriptor of the file that stands at `path` now; None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _LOCKED.add(descriptor)
        try:
            taken = filelock.lock_descriptor(descriptor, blocking=False)
            if taken and path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)
        if not taken:
            return None


def _release(descriptor: int, path: Path) -> None:
    """Remove a lock file and give up the lock, in an order in which no other process takes what is removed."""
    if os.name == "nt":  # where nobody can remove what is open
        _close(descriptor)
    with contextlib.suppress(PermissionError):
        path.unlink(missing_ok=True)
    if os.name != "nt":
        _close(descriptor)


def _close(descriptor: int) -> None:
    _LOCKED.discard(descriptor)
    os.close(descriptor)


def _release_in_child() -> None:
    """Let no forked worker keep a lock beyond its parent's death."""
    while _LOCKED:
        os.close(_LOCKED.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _acquire(path: Path) -> int:
    """Return the locked descriptor of a run's lock file."""
    while True:
        _make_folder(path.parent)
        try:
            descriptor = _locked(path)
        except FileNotFoundError:  # the last holder has just removed its folder
            continue
        if descriptor is not None:
            return descriptor
        holder = ""
        with contextlib.suppress(OSError):  # Windows lets nobody read what is locked
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
        raise UserError(
            f"{path.parent} is in use by process {holder or 'unknown'}; wait until it ends, or choose another --run"
        )


def _identity(folder: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.stat(folder)
        return status.st_ino, status.st_ctime_ns
    return None


def _read_whole(folder: Path, stage: str, verify: bool, remedy: str | None) -> dict[str, Any]:
    anew = remedy or f"run python {stage}.py --overwrite to make it anew"
    with _storage_errors(folder):
        _recover(folder)
        try:
            content = (folder / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if folder.is_dir():
                default = f"move it away and run python {stage}.py"
                raise UserError(f"{folder} has no {MANIFEST}; {remedy or default}") from None
            raise UserError(f"{folder}: no such folder; run python {stage}.py first") from None
    manifest = _parse_manifest(content, folder / MANIFEST, stage, anew)
    for entry in manifest["files"]:
        problem = _file_problem(folder, entry, verify)
        if problem:
            raise UserError(f"{folder}: {problem}; {anew}")
    if manifest["sha256"] != _own_digest(manifest):
        raise UserError(f"{folder / MANIFEST} has changed; {anew}")
    return manifest


def _parse_manifest(content: bytes, path: Path, stage: str, anew: str) -> dict[str, Any]:
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


def _own_digest(manifest: Mapping[str, object]) -> str:
    """Return the sha256 of all that a manifest says but this."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _file_problem(folder: Path, entry: Any, verify: bool) -> str | None:
    name = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not isinstance(entry.get("sha256"), str) or type(entry.get("bytes")) is not int:
        return f"{MANIFEST} has a wrong entry in 'files'"
    relative = PurePosixPath(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or "\0" in name:
        return f"{MANIFEST} names {name!r}, which is outside"
    try:
        status = os.stat(folder / relative)
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is not a file"
        if status.st_size != entry["bytes"]:
            return f"{name} has {status.st_size} bytes instead of {entry['bytes']}"
        if verify and sha256(folder / relative) != entry["sha256"]:
            return f"{name} has changed"
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "can't be read"
        return f"{name} {reason}"
    return None


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the libraries that decide results; None of one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def git_rev() -> str | None:
    """Return the commit of this program, or None where it is not a git checkout of its own."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=True)
        top, commit = done.stdout.decode().splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return commit if Path(top) == root else None


def peak_memory_mb() -> float:
    """Return the most main memory that this process has held so far, in MiB."""
    return round(_peak_bytes() / (1 << 20), 1)


def _peak_bytes() -> int:
    found = psutil.Process().memory_info()
    if hasattr(found, "peak_wset"):  # Windows
        return int(found.peak_wset)
    try:
        import resource
    except ImportError:
        return int(found.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1 << 10)
