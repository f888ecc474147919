"""The metrics of a run in TensorBoard or Weights & Biases, through Accelerate's trackers.

They are a copy: whatever fails in them, training goes on and metrics.jsonl has all.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from detox.ppo.checkpoint_record import flatten
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


PROJECT = "detox-ppo"


def check(settings: config.PPOTraining) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        UserError: its package is missing.
    """
    if settings.report_to == "none":
        return
    package = importlib.util.find_spec(settings.report_to)
    if package is None or package.origin is None:  # a folder, such as ./wandb
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

    Raises:
        UserError: it can't start: nobody is logged in, no network, no folder that can be written.
    """
    if settings.report_to == "none":
        yield None
        return
    try:
        made = _start(settings, folder, updates_done)
    except Exception as error:  # whatever a service or a disk answers
        login = "log in with `wandb login` or set WANDB_MODE=offline" if settings.report_to == "wandb" else "mend that"
        raise UserError(
            f"--report-to={settings.report_to}: can't start ({_reason(error)}); {login}, or leave it out, "
            "metrics.jsonl and training.png are written anyway"
        ) from None
    try:
        yield made
    finally:
        _try(made.finish)


def _start(settings: config.PPOTraining, folder: Path, updates_done: int) -> GeneralTracker:
    if settings.report_to == "tensorboard":
        made: GeneralTracker = TensorBoardTracker("tensorboard", folder, purge_step=updates_done + 1)
    else:
        made = WandBTracker(PROJECT, name=f"{settings.run_name}-seed-{settings.seed}")
    made.start()
    flat = flatten(dataclasses.asdict(settings))
    plain = (bool, int, float, str)
    made.store_init_configuration(
        {key: value if isinstance(value, plain) else str(value) for key, value in flat.items()}
    )
    return made


def report(made: GeneralTracker | None, entry: Mapping[str, Any]) -> None:
    """Tell a tracker the numbers of one line of metrics.jsonl."""
    if made is not None:
        numbers = {key: value for key, value in entry.items() if isinstance(value, (int, float)) and key != "update"}
        _try(lambda: made.log(numbers, step=entry["update"]))


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        print(f"warning: the tracker fails ({_reason(error)}); metrics.jsonl has everything", file=sys.stderr)


def _reason(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", 160)
