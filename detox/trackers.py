"""The metrics of a run in TensorBoard or Weights & Biases, through Accelerate's trackers."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

import config
from detox.errors import UserError

PROJECT = "detox-ppo"


def check(settings: config.PPOTraining) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        UserError: its package is missing.
    """
    if settings.report_to != "none" and importlib.util.find_spec(settings.report_to) is None:
        raise UserError(
            f"--report-to={settings.report_to}: needs `pip install {settings.report_to}`; or leave it out, "
            "metrics.jsonl and training.png are written anyway"
        )


@contextmanager
def tracker(settings: config.PPOTraining, folder: Path, updates_done: int) -> Iterator[GeneralTracker | None]:
    """Give the tracker of the settings, or None; what it was told is flushed at the end.

    Args:
        settings: `report_to` names it; all settings are recorded as its hyperparameters.
        folder: TensorBoard's events go to `tensorboard/` in it.
        updates_done: a run that goes on replaces what it had reported beyond them.
    """
    if settings.report_to == "none":
        yield None
        return
    if settings.report_to == "tensorboard":
        made = TensorBoardTracker("tensorboard", folder, purge_step=updates_done + 1)
    else:
        made = WandBTracker(PROJECT, name=f"{settings.run_name}-seed-{settings.seed}")
    made.start()
    made.store_init_configuration(_flat(dataclasses.asdict(settings)))
    try:
        yield made
    finally:
        made.finish()


def report(made: GeneralTracker | None, entry: Mapping[str, Any]) -> None:
    """Tell a tracker the numbers of one line of metrics.jsonl."""
    if made is not None:
        numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and key != "update"}
        made.log(numbers, step=entry["update"])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
