"""The preset of a run, for a stage whose user names none: that of its last checkpoint, else of its data. No torch."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from detox.stage import commands, manifest, notes
from detox.stage.errors import UserError
from detox.stage.figures import lookup

if TYPE_CHECKING:
    import config


def words(settings: config.Stage, named: Set[str]) -> list[str]:
    """Return what to type for the preset to be the run's, which is told to the user too.

    Another base is told only: a value of the user's own in `config.py` counts.

    Args:
        settings: of a stage, with what is usual where nothing else is said.
        named: flags that the user has set.
    """
    prepared = Path(settings.checkpoints) / settings.run_name / "prepared"
    trained = commands.results("training_ppo.py", settings)
    folder, done = (trained[-1].parent, "trained") if trained else (prepared, "prepared")
    begun = lookup(manifest.glance(folder), "config")
    preset, base = lookup(begun, "preset"), lookup(begun, "model", "base")
    try:
        usual = settings.of_preset(preset)
    except UserError:
        return []
    takes = preset != settings.preset and "--preset" not in named
    model = getattr(usual if takes else settings, "model", None)
    if base and model is not None and base != model.base and "--model.base" not in named:
        notes.tell(f"{folder} was {done} for --model.base {base}, and this is {model.base}")
    if not takes:
        return []
    notes.tell(f"--preset {preset}, as {folder} was {done}")
    return ["--preset", preset]
