"""One writer a run: the lock of its folder, which names the process that holds it. No torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from detox.stage import folders, lock_file, storage
from detox.stage.errors import UserError


@contextlib.contextmanager
def hold(run_folder: Path) -> Iterator[None]:
    """Keep every other process from writing to a run; the folder is made where it is missing.

    What was made for the lock alone goes with it.

    Raises:
        UserError: another process, which is named, holds the lock; or the folder can't be written.
    """
    run_folder = Path(os.path.abspath(run_folder))
    path = run_folder / ".lock"
    with storage.told(path), folders.made(run_folder), contextlib.ExitStack() as stack:
        descriptor = None
        while descriptor is None:
            folders.make(run_folder)
            with contextlib.suppress(FileNotFoundError):  # the last holder has just removed its folder or its lock
                descriptor = stack.enter_context(lock_file.held(path))
                if descriptor is None:
                    _refuse(path)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        folders.sweep(run_folder)
        yield


def _refuse(path: Path) -> NoReturn:
    try:
        holder = path.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError:  # Windows lets nobody read what is locked
        holder = ""
    raise UserError(
        f"{path.parent} is in use by process {holder or 'unknown'}; wait until it ends, or choose another --run"
    )
