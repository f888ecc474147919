"""May a run go on from a checkpoint, and with which settings: those that it was made with, or it is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.model import devices
from detox.ppo.checkpoint_record import as_prepared, flatten, read_manifest, read_state, working_folders
from detox.stage import artifacts, paths
from detox.stage.checkpoint_folders import remedy
from detox.stage.errors import UserError
from detox.stage.manifest import content_of

if TYPE_CHECKING:
    import config

# Settings that may differ when a run goes on; the others decide what the numbers are, if only their last bits.
_FREE = {"overwrite", "checkpoints", "run", "device", "threads", "ppo.updates", "save.every", "save.keep"}
_FREE |= {"ppo.max_ref_kl", "ppo.on_collapse", "report_to", "plan", "plan_budget_gb"}


def check(
    folder: Path, settings: config.PPOTraining, inputs: Mapping[str, Path], weights: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest of a checkpoint that a run with these settings, inputs and weights may go on from.

    Raises:
        UserError: the checkpoint is not whole, or was made with other settings, inputs or weights: each is named.
    """
    manifest = read_manifest(folder)
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    before, after = flatten(manifest["config"]), flatten(now)
    roots = working_folders(folder, manifest)
    own_adapter = "lora" in inputs and "lora" in manifest["inputs"]
    free = _FREE | ({"model.adapter"} if own_adapter else set())  # its content is among the inputs
    changed = [
        f"--{key.replace('_', '-')} was {before.get(key)!r}, now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if key not in free and not _is_same(before.get(key), after.get(key), roots)
    ]
    if changed:
        raise UserError(
            f"{folder} was made with other settings: {', '.join(changed)}; "
            f"use its own (--config {folder / artifacts.MANIFEST}), another --run, or --overwrite"
        )
    for key, path in inputs.items():
        recorded = manifest["inputs"].get(key, {})
        if recorded.get("content_sha256") != content_of(path):
            advice = f"{as_prepared(recorded, settings.stages(), path.parent)}, " if key == "prepared" else ""
            raise UserError(
                f"{path} has changed since {folder} was made; {advice}start over with --overwrite, or name another "
                "--run"
            )
    weights_then = read_state(folder).get("weights")
    known = weights_then if isinstance(weights_then, dict) else {}
    for model, now in weights.items():
        if own_adapter and model == settings.model.adapter:
            continue
        if now not in (value for name, value in known.items() if _is_same(name, model, roots)):
            raise UserError(
                f"{model} has other weights or code than when {folder} was made; put the old back (pin the revision of "
                "a hub model), or start over with --overwrite or another --run"
            )
    return manifest


def _is_same(one: Any, other: Any, roots: Sequence[Path]) -> bool:
    """Return whether two settings are the same, or name the same folder, seen from here or from where training ran."""
    if one == other:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_same(a, b, roots) for a, b in zip(one, other))
    if isinstance(one, str) and isinstance(other, str) and ".py:" in one and ".py:" in other:  # a function of a reward
        (file, _, function), (its, _, its_function) = one.rpartition(":"), other.rpartition(":")
        return function == its_function and _is_same(file, its, roots)
    return isinstance(one, str) and any(paths.same(str(root / one), other) for root in (Path(), *roots))


def as_begun(settings: config.PPOTraining, folder: Path | None, sharded: bool = False) -> config.PPOTraining:
    """Return the settings with what `auto` came to when the run began, so that it goes on as it began.

    A device that is named is taken, and one that is gone is replaced; dtype and engine stay in any case, since they
    decide what the numbers are.

    Args:
        settings: of the stage.
        folder: the checkpoint that the run goes on from, or None where it begins.
        sharded: weights are to be sharded, which leaves no choice of the engine.

    Raises:
        UserError: the checkpoint says it in a way that this program does not know.
    """
    begun = {} if folder is None else read_state(folder).get("ran_on", {})
    try:
        settled = dataclasses.replace(
            settings,
            device=_device_as_begun(begun["device"]) if begun and settings.device == "auto" else settings.device,
            dtype=begun.get("dtype", "auto") if settings.dtype == "auto" else settings.dtype,
            engine=begun.get("engine", "auto") if settings.engine == "auto" and not sharded else settings.engine,
            threads=begun.get("threads") if settings.threads is None else settings.threads,
        )
        settled.validate()
    except (TypeError, KeyError, AttributeError, UserError):
        if folder is None:
            raise
        raise UserError(f"{folder}: state.json does not say on what device it was made; {remedy(folder)}") from None
    return settled


def _device_as_begun(name: str) -> str:
    name = name.partition(":")[0] if "LOCAL_RANK" in os.environ else name  # each process takes its own
    try:
        devices.choose(name)
    except UserError:
        what = "it goes on without it, in the same dtype and through the same engine"
        print(f"this run began on {name}, which is not on this machine: {what}", file=sys.stderr)
        return "auto"
    return name
