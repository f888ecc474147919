"""The preset that a run's data were prepared with, for a stage whose user names none. No torch."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.stage import notes
from detox.stage.artifacts import MANIFEST
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


def words(settings: config.Stage, named: Set[str]) -> list[str]:
    """Return what to type for the preset to be that of the run's data, which is told to the user too.

    Another base is told only: a value of the user's own in `config.py` counts.

    Args:
        settings: of a stage, with what is usual where nothing else is said.
        named: flags that the user has set.
    """
    folder = Path(settings.checkpoints) / settings.run_name / "prepared"
    try:
        prepared: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())["config"]
        preset, base = prepared["preset"], prepared.get("model", {}).get("base")
        usual = settings.of_preset(preset)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        return []
    takes = preset != settings.preset and "--preset" not in named
    model = getattr(usual if takes else settings, "model", None)
    if base and model is not None and base != model.base and "--model.base" not in named:
        notes.tell(f"{folder} was prepared for --model.base {base}, and this is {model.base}")
    if not takes:
        return []
    notes.tell(f"--preset {preset}, as {folder} was prepared")
    return ["--preset", preset]
