"""An artefact to try things on, and how to look at it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import config
from detox.stage import artifacts

ROOT = Path(artifacts.__file__).resolve().parents[2]
SETTINGS = config.preset(config.Preparation, "demo")


def publish(target: Path, text: str = "contents", overwrite: bool = False) -> Path:
    with artifacts.publish(target, stage="data_preparation", settings=SETTINGS, overwrite=overwrite) as draft:
        (draft.path / "train").mkdir()
        (draft.path / "train" / "data.txt").write_text(text)
        (draft.path / "info.txt").write_text("about the data")
    return target


def read(folder: Path, **options: bool) -> dict:
    return artifacts.read_manifest(folder, "data_preparation", **options)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its contents; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def run_python(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60, **options})
