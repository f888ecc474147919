"""The stages as commands of an installed package: `detox-prepare`, `detox-lora`, `detox-train`, `detox-evaluate`."""

from __future__ import annotations

import runpy
import sys
from functools import partial
from pathlib import Path

from detox.stage import commands

INSTALLED = Path(__file__).parent / "scripts"
"""Where the scripts and `config.py` lie in an installed package; in a checkout they stand at its root."""
COMMANDS = {
    "data_preparation.py": "detox-prepare",
    "training_lora.py": "detox-lora",
    "training_ppo.py": "detox-train",
    "evaluate_ppo.py": "detox-evaluate",
}


def _run(script: str) -> None:
    """Run a script as Python would: its folder is the first in which modules are looked for."""
    folder = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[1]
    commands.installed.update(COMMANDS)
    sys.path.insert(0, str(folder))
    runpy.run_path(str(folder / script), run_name="__main__")


prepare = partial(_run, "data_preparation.py")
lora = partial(_run, "training_lora.py")
train = partial(_run, "training_ppo.py")
evaluate = partial(_run, "evaluate_ppo.py")
