"""Which checkpoints a run has: names, the newest, those that are kept.

--overwrite sets the run's `ppo` folder aside, and removes what training wrote there once the new run has a checkpoint.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from detox.stage import folders, manifest

STEP = re.compile(r"step-(\d{4,})")
"""Name of a checkpoint's folder, with the updates that it was saved after."""


def name(update: int) -> str:
    """Return the folder name of the checkpoint after `update` updates."""
    return f"step-{update:04d}"


def is_name(name: str) -> bool:
    """Return whether a checkpoint's folder can have this name."""
    return STEP.fullmatch(name) is not None


def numbers(folder: Path) -> list[int]:
    """Return the update counts of the checkpoints in a run's `ppo` folder, in order."""
    return [int(path.name.removeprefix("step-")) for path in steps(folder)]


def steps(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's `ppo` folder, in order."""
    there = folder.iterdir() if folder.is_dir() else []
    numbered = [(int(match[1]), path) for path in there if (match := STEP.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(numbered)]


def last(folder: Path) -> Path | None:
    """Return the newest checkpoint in a run's `ppo` folder, or None."""
    there = numbers(folder)
    return folder / name(there[-1]) if there else None


def near(folder: Path) -> list[Path]:
    """Return the checkpoints in a `ppo` folder, a run or a folder of runs, whichever `folder` is."""
    for pattern in (".", "ppo", "*/ppo", "*/*/ppo"):
        series = [folder] if pattern == "." else sorted(folder.glob(pattern))
        there = [ppo / name(number) for ppo in series for number in numbers(ppo)]
        there = [checkpoint for checkpoint in there if (checkpoint / manifest.NAME).exists()]
        if there:
            return there
    return []


def find(folder: Path, overwrite: bool) -> Path | None:
    """Return the checkpoint to go on from, if there is one, once the leavings of dead processes are gone."""
    settle(folder)
    return None if overwrite else last(folder)


def successor(folder: Path, overwrite: bool) -> AbstractContextManager[None]:
    """Return the context in which a run begins anew: the old one is kept aside until the new has a checkpoint.

    Args:
        folder: a run's `ppo` folder.
        overwrite: else the run goes on, and nothing is moved.
    """
    return folders.aside(folder, _is_own, is_whole=last) if overwrite else nullcontext()


def settle(folder: Path) -> None:
    """Finish what a `successor` could not, because its process died, and remove what dead processes left."""
    folders.settle(folder, _is_own, is_whole=last)
    folders.sweep(folder)


def restore(path: Path) -> None:
    """Put a run back, as `settle` does, of which `path` is a part that has gone aside."""
    if not path.exists():
        for above in Path(os.path.abspath(path)).parents:
            if above.name == "ppo":
                settle(above)


def _is_own(name: str) -> bool:
    return is_name(name) or name in ("metrics.jsonl", "training.png", "tensorboard")


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove old checkpoints until `keep` are left; never the best and never the last."""
    there = numbers(folder)
    removable = [number for number in there[:-1] if number != best]
    for number in removable[: max(0, len(there) - keep)]:
        folders.remove(folder / name(number))


def remedy(folder: Path) -> str:
    """Return what to do about a damaged checkpoint; to start over would put the others away."""
    match = STEP.fullmatch(folder.name)
    if match is None:
        return "name a folder that training_ppo.py has written"
    before = [number for number in numbers(folder.parent) if number < int(match[1])]
    where = f"from {name(before[-1])}" if before else "from the beginning"
    return f"move the folder {folder} away, and training_ppo.py goes on {where}"
