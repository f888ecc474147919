"""What a checkpoint says of itself: manifest, settings, weights, metrics, and where its names are of."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from detox.stage import artifacts, checkpoint_folders, commands, folders, storage
from detox.stage.checkpoint_folders import remedy
from detox.stage.errors import UserError
from detox.stage.figures import lookup
from detox.stage.manifest import NAME, glance, is_as_written, parse

if TYPE_CHECKING:
    import config


STAGE = "training_ppo"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a whole checkpoint.

    Raises:
        UserError: it is not whole; the checkpoint before it may be.
    """
    manifest = artifacts.read_manifest(folder, STAGE, remedy=remedy(folder))
    entries = manifest["inputs"].values()
    if type(manifest["counts"].get("updates")) is not int or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{folder}: {artifacts.MANIFEST} describes no checkpoint; {remedy(folder)}")
    its_name, own = checkpoint_folders.name(manifest["counts"]["updates"]), Path(os.path.abspath(folder)).name
    if checkpoint_folders.is_name(own) and own != its_name:
        raise UserError(f"{folder}: was {its_name} when it was saved; rename it so, or move it away")
    return manifest


def read_state(folder: Path) -> dict[str, Any]:
    """Return what `checkpoint.save` wrote as JSON.

    Raises:
        UserError: it can't be read.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: state.json can't be read ({error}); {remedy(folder)}") from None
    if not isinstance(state, dict):
        raise UserError(f"{folder}: state.json is not a JSON object; {remedy(folder)}")
    return state


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of the update that a checkpoint was saved after; empty where it has none."""
    lines = read_state(folder).get("progress", {}).get("metrics") or [{}]
    return dict(lines[-1])


def read_weights(folder: Path) -> dict[str, str]:
    """Return what told the weights of the models that a run reads from others, by their names, as `save` got it.

    Raises:
        UserError: the checkpoint does not say it.
    """
    found = read_state(folder).get("weights")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{folder}: state.json does not say which weights it is of; {remedy(folder)}")
    return found


def settings_of(manifest: Mapping[str, Any], kind: type[config.PPOTraining]) -> config.PPOTraining:
    """Return the settings that a checkpoint was made with.

    Raises:
        UserError: they are not settings that this program knows.
    """
    try:
        settings = _build(kind, manifest["config"])
        settings.validate()
        return settings
    except (TypeError, AttributeError, ValueError, UserError) as error:
        raise UserError(f"the checkpoint's manifest holds settings of another version ({error}); train anew") from None


def as_prepared(recorded: Mapping[str, Any], stages: Mapping[str, Any], run: Path, is_whole: bool = True) -> str:
    """Say what to do for the data of a run to be as a checkpoint was trained on; not how, where it does not say.

    Args:
        recorded: of the data, among the inputs in its manifest.
        stages: classes of settings by script.
        run: folder of the run, wherever it was when the checkpoint was made.
        is_whole: what the run has is whole, so that it is of another source if its settings are the same.
    """
    script, anew = "data_preparation.py", "make it as it was"
    try:
        settings = commands.of_run(_build(stages[script], recorded["config"]), run)
        command = commands.again(script, settings, "--overwrite")
        if is_whole and _decides_data(recorded["config"]) == _decides_data(lookup(glance(run / "prepared"), "config")):
            source = f"--data.dataset {settings.data.dataset} or the tokenizer has changed"
            return f"put its source back as it was ({source}), then {anew} ({command})"
        return f"{anew} ({command})"
    except (KeyError, TypeError, AttributeError, ValueError, UserError):
        return anew


def check_prepared(recorded: Mapping[str, Any], stages: Mapping[str, Any], run: Path) -> None:
    """Demand that a run has prepared data that can say what they are; arguments as in `as_prepared`.

    Raises:
        UserError: it has none any more, or their manifest is damaged; says how they are made as they were.
    """
    folder = run / "prepared"
    folders.recover(folder)
    if not recorded:
        return
    anew = as_prepared(recorded, stages, run, is_whole=False)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; {anew}")
    path = folder / NAME
    if path.is_file():
        with storage.told(path):
            found = parse(path.read_bytes(), path, "data_preparation", anew)
        if not is_as_written(found):
            raise UserError(f"{path} has changed; {anew}")


def _decides_data(recorded: Any) -> dict[str, Any]:
    """Return the recorded settings, by name, that decide what data preparation makes of its source."""
    free = ("preset", "run", "checkpoints", "overwrite", "data.workers")
    return {key: value for key, value in flatten(recorded or {}).items() if key not in free}


def _build(kind: Any, values: Any) -> Any:
    nested = {field.name: field.type for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}  # JSON has none
    return kind(**{key: _build(nested[key], value) if key in nested else value for key, value in given.items()})


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by names such as `ppo.kl_coef`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def working_folders(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the folders that a checkpoint's relative names may be of: where training ran, as far as can be told."""
    where = Path(os.path.abspath(folder))
    made = PurePath(str(manifest["config"].get("checkpoints", "")))
    depth = len(made.parts) + 3  # <checkpoints>/<run>/ppo/step-NNNN
    around = [] if made.is_absolute() or ".." in made.parts else [*where.parents][depth - 1 : depth]
    noted = manifest.get("notes", {}).get("working_folder")
    return [*around, *([Path(noted)] if isinstance(noted, str) else [])]
