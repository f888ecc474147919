"""A checkpoint handed on: its adapter merged into a plain model with model card, in a folder, on the hub, or both."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detox.evaluation.checkpoints import Case, check_same_data, check_unchanged, unchanged
from detox.evaluation.examples import Results
from detox.evaluation.folders import data_as_trained, has_other_data
from detox.model import loading, policy
from detox.report import hub_push, model_card, plain_model
from detox.stage import artifacts, manifest, paths
from detox.stage.errors import UserError
from detox.stage.figures import lookup

if TYPE_CHECKING:
    import config


STAGE = "export"
_STAGES = ("data_preparation", "training_lora", "training_ppo", "evaluate_ppo", STAGE)
_PLACES = ("prepared", "lora", "ppo", "evaluation")
"""Where the stages write in a run."""
_LONGEST_NAME = 200
"""Bytes; what is written first has a longer one."""


def check(settings: config.EvaluationStage, case: Case) -> None:
    """Refuse early what can't be written at the end.

    Raises:
        UserError: the prompt of the checkpoint is not known any more; the folder exists and may not be replaced; or the
            hub is out of reach, takes no token, or has a model under that name.
    """
    flag = "--export" if settings.export is not None else "--push-to-hub"
    if (settings.export is not None or settings.push_to_hub is not None) and has_other_data(case):
        raise UserError(
            f"{flag}: {case.run / 'prepared'}, which has the prompt, is not what {case.name} was trained on; "
            f"{data_as_trained(settings, case)}, or train on what there is"
        )
    if settings.export is not None:
        _check_folder(Path(settings.export), settings.overwrite)
    if settings.push_to_hub is not None:
        hub_push.check(settings.push_to_hub, settings.overwrite)


def export(settings: config.EvaluationStage, case: Case, found: Results) -> None:
    """Write the model of a checkpoint to a folder, to the hub, or to both, as the settings ask, and say where it is.

    Args:
        settings: of the stage.
        case: the checkpoint.
        found: its results.

    Raises:
        UserError: as `check`; or prepared data or models are gone.
    """
    if settings.export is None and settings.push_to_hub is None:
        return
    loading.quiet()
    check_unchanged(case)
    with contextlib.ExitStack() as stack:
        if settings.export is not None:
            folder = Path(settings.export)
            inputs = {"checkpoint": case.checkpoint, "evaluation": case.target}
            with artifacts.publish(
                folder, stage=STAGE, settings=settings, overwrite=settings.overwrite, inputs=inputs
            ) as draft:
                write(draft.path, settings, case, found)
            print(f"exported: {folder}")
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write(folder, settings, case, found)
        if settings.push_to_hub is not None:
            try:
                print(f"pushed: {hub_push.push(folder, settings.push_to_hub)}")
            except UserError as error:
                otherwise = "" if settings.export is None else f", without --export: {folder} is whole"
                raise UserError(f"{error}{otherwise}") from None


def write(folder: Path, settings: config.EvaluationStage, case: Case, found: Results) -> None:
    """Write the files of an export into an empty folder."""
    training = case.training
    prepared = artifacts.read_manifest(case.run / "prepared", "data_preparation", verify=False, reader=training)
    check_same_data(case)
    base = case.training.model
    adapter = dataclasses.replace(base, adapter=str(case.checkpoint / "adapter"), adapter_revision=None)
    with unchanged(case):
        merged, _ = policy.load_start(adapter)
    plain_model.save(merged, folder, base, prepared["config"]["data"]["prompt"], settings.evaluation.max_new_tokens)
    plain_model.check(merged, folder)
    card = model_card.text(settings, case, found, prepared)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_folder(folder: Path, overwrite: bool) -> None:
    place = Path(os.path.realpath(folder))
    for above in place.parents:
        if _stage(above) in _STAGES:
            raise UserError(
                f"--export={folder}: lies inside {paths.shown(above)}, which is whole as it is; choose a folder outside"
            )
    if os.path.lexists(folder) and _stage(folder) != STAGE:
        raise UserError(f"--export={folder}: exists and is no earlier export, so it stays; choose another folder")
    for above in (place, *place.parents):
        if above.name in _PLACES and any(_is_made(above.with_name(name)) for name in _PLACES):
            raise UserError(
                f"--export={folder}: {paths.shown(above)} is where a stage of the run writes; choose a folder outside"
            )
    if not os.path.lexists(folder):
        there = next(above for above in place.parents if os.path.lexists(above))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--export={folder}: {paths.shown(there)} is no folder that can be written; choose another")
        if len(os.fsencode(place.name)) > _LONGEST_NAME:
            raise UserError(f"--export={folder}: a name of more than {_LONGEST_NAME} bytes; choose a shorter one")
        return
    if not overwrite:
        raise UserError(f"--export={folder}: exists; pass --overwrite to replace it, or choose another folder")


def _is_made(folder: Path) -> bool:
    """Return whether a stage of a run has made this folder, or something in it."""
    return _stage(folder) in _STAGES[:-1] or any(_stage(inside) in _STAGES[:-1] for inside in folder.glob("*/"))


def _stage(folder: Path) -> object:
    """Return the stage that a folder's manifest names, None where there is none."""
    return lookup(manifest.glance(folder), "stage")
