"""PPO checkpoints: everything that an exact resume needs, written and read, and which of them are kept."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from detox.model import devices
from detox.model.policy import LoraFactors, save_adapter, trainable
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.stage import artifacts, folders, notes, paths
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

if TYPE_CHECKING:
    import config


STAGE = "training_ppo"
_NAME = re.compile(r"step-(\d{4,})")

# Settings that may differ when a run goes on; all others decide what the numbers are.
_FREE = {"overwrite", "checkpoints", "run", "device", "threads", "ppo.updates", "save.every", "save.keep"}
_FREE |= {"ppo.max_ref_kl", "ppo.on_collapse", "report_to", "plan", "plan_budget_gb"}


def name(update: int) -> str:
    """Return the folder name of the checkpoint after `update` updates."""
    return f"step-{update:04d}"


def numbers(folder: Path) -> list[int]:
    """Return the update counts of the checkpoints in a run's `ppo` folder, in order."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def last(folder: Path) -> Path | None:
    """Return the newest checkpoint in a run's `ppo` folder, or None."""
    there = numbers(folder)
    return folder / name(there[-1]) if there else None


def is_name(name: str) -> bool:
    """Return whether a checkpoint's folder can have this name."""
    return _NAME.fullmatch(name) is not None


def near(folder: Path) -> list[Path]:
    """Return the checkpoints in a `ppo` folder, a run or a folder of runs, whichever `folder` is."""
    for pattern in (".", "ppo", "*/ppo", "*/*/ppo"):
        series = [folder] if pattern == "." else sorted(folder.glob(pattern))
        there = [ppo / name(number) for ppo in series for number in numbers(ppo)]
        there = [checkpoint for checkpoint in there if (checkpoint / artifacts.MANIFEST).exists()]
        if there:
            return there
    return []


def successor(folder: Path, overwrite: bool) -> AbstractContextManager[None]:
    """Return the context in which a run begins anew: the old one is kept aside until the new has a checkpoint.

    Args:
        folder: a run's `ppo` folder.
        overwrite: else the run goes on, and nothing is moved.
    """
    return folders.aside(folder, _is_own, is_whole=last) if overwrite else nullcontext()


def find(folder: Path, overwrite: bool) -> Path | None:
    """Return the checkpoint to go on from, if there is one, once the leavings of dead processes are gone."""
    settle(folder)
    return None if overwrite else last(folder)


def settle(folder: Path) -> None:
    """Finish what a `successor` could not, because its process died, and remove what dead processes left."""
    folders.settle(folder, _is_own, is_whole=last)
    folders.sweep(folder)


def _is_own(name: str) -> bool:
    return is_name(name) or name in ("metrics.jsonl", "training.png", "tensorboard")


def save(
    folder: Path,
    trainer: Seq2SeqPPOTrainer,
    settings: config.PPOTraining,
    *,
    supervised: LoraFactors,
    progress: Mapping[str, Any],
    inputs: Mapping[str, Path],
    weights: Mapping[str, str],
) -> None:
    """Publish a complete checkpoint.

    Args:
        folder: `.../ppo/step-NNNN`.
        trainer: its parameters, optimizer, controller, moments and counters are written.
        supervised: factors of the adapter below the policy, for the export.
        progress: further JSON-able state of the training script.
        inputs: artefacts that the run reads.
        weights: what tells the weights of the models that the run reads from others, by the models' names.
    """
    device = str(trainer.engine.device)
    with artifacts.publish(folder, stage=STAGE, settings=settings, device=device, inputs=inputs) as draft:
        draft.counts["updates"] = trainer.updates_done
        draft.notes.update({"working_folder": os.getcwd()}, **notes.for_manifest())
        save_adapter(trainer.policy, supervised, settings.model.base, settings.model.revision, draft.path / "adapter")
        parameters = {key: value.detach().cpu().contiguous() for key, value in trainable(trainer.policy).items()}
        head = {key: value for key, value in parameters.items() if key.startswith("v_head.")}
        save_file(head, draft.path / "value_head.safetensors")
        lora = {key: value for key, value in parameters.items() if key not in head}
        save_file(lora, draft.path / "ppo_lora.safetensors")
        save_file(_optimizer_tensors(trainer), draft.path / "optimizer.safetensors")
        save_file(_rng_tensors(), draft.path / "rng.safetensors")
        if trainer.critic is not None:
            save_file(trainer.critic.tensors(), draft.path / "critic.safetensors")
        state = {
            "updates_done": trainer.updates_done,
            "ran_on": ran_on(trainer),
            "skipped_in_a_row": trainer.skipped_in_a_row,
            "rollout_logprobs_serve": trainer.rollout_logprobs_serve,
            "rollout_size": trainer.rollout_size,
            "microbatch_size": trainer.microbatch_size,
            "kl_controller": trainer.kl_ctl.state_dict(),
            "score_moments": trainer.score_moments.state_dict(),
            "usual_variance": trainer.usual_variance,
            "step_size": trainer.step_size.state_dict() if trainer.step_size else None,
            "python_rng": random.getstate(),
            "progress": dict(progress),
            "weights": dict(weights),
        }
        (draft.path / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def restore(folder: Path, trainer: Seq2SeqPPOTrainer) -> dict[str, Any]:
    """Put a trainer in the state that `save` wrote, every random generator included; return the `progress`.

    Raises:
        UserError: the checkpoint does not fit the model, or is not what `save` writes.
    """
    try:
        return _restore(folder, trainer)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 120)
        raise UserError(f"{folder} can't be restored ({reason}); {_remedy(folder)}") from None


def _restore(folder: Path, trainer: Seq2SeqPPOTrainer) -> dict[str, Any]:
    state = _read_state(folder)
    saved = {**load_file(folder / "ppo_lora.safetensors"), **load_file(folder / "value_head.safetensors")}
    parameters = trainable(trainer.policy)
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in parameters.items()}:
        raise UserError(f"{folder} is of another model or LoRA shape; use its settings, or another --run")
    with torch.no_grad():
        for key, value in saved.items():
            parameters[key].copy_(value)
    _load_optimizer(trainer, load_file(folder / "optimizer.safetensors"))
    trainer.updates_done = state["updates_done"]
    trainer.skipped_in_a_row = state["skipped_in_a_row"]
    if state.get("ran_on") == ran_on(trainer):  # what was found out of a device says nothing of another
        trainer.rollout_logprobs_serve = state["rollout_logprobs_serve"]
        trainer.rollout_size = state["rollout_size"]
        trainer.microbatch_size = min(trainer.microbatch_size, state["microbatch_size"])
    trainer.kl_ctl.load_state_dict(state["kl_controller"])
    trainer.score_moments.load_state_dict(state["score_moments"])
    trainer.usual_variance = state["usual_variance"]
    if trainer.step_size is not None:
        trainer.step_size.load_state_dict(state["step_size"])
    if trainer.critic is not None:
        trainer.critic.load_tensors(load_file(folder / "critic.safetensors"))
    version, internal, gauss = state["python_rng"]
    random.setstate((version, tuple(internal), gauss))
    _load_rng(load_file(folder / "rng.safetensors"))
    progress = state["progress"]
    if type(progress["position"]) is not int or not all(line["update"] for line in progress["metrics"]):
        raise ValueError("no progress")
    return progress


def ran_on(trainer: Seq2SeqPPOTrainer) -> dict[str, Any]:
    """Return what the settings of device, dtype, engine and threads came to."""
    engine = trainer.engine
    dtype = str(engine.head_weight.dtype).removeprefix("torch.")
    device = str(engine.device) if engine.device.type == "cuda" else engine.device.type
    return {"device": device, "dtype": dtype, "engine": engine.name, "threads": torch.get_num_threads()}


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
    begun = {} if folder is None else _read_state(folder).get("ran_on", {})
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
        raise UserError(f"{folder}: state.json does not say on what device it was made; {_remedy(folder)}") from None
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


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: state.json can't be read ({error}); {_remedy(folder)}") from None
    if not isinstance(state, dict):
        raise UserError(f"{folder}: state.json is not a JSON object; {_remedy(folder)}")
    return state


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a whole checkpoint.

    Raises:
        UserError: it is not whole; the checkpoint before it may be.
    """
    manifest = artifacts.read_manifest(folder, STAGE, remedy=_remedy(folder))
    entries = manifest["inputs"].values()
    if type(manifest["counts"].get("updates")) is not int or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{folder}: {artifacts.MANIFEST} describes no checkpoint; {_remedy(folder)}")
    return manifest


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics of the update that a checkpoint was saved after; empty where it has none."""
    lines = _read_state(folder).get("progress", {}).get("metrics") or [{}]
    return dict(lines[-1])


def read_weights(folder: Path) -> dict[str, str]:
    """Return what told the weights of the models that a run reads from others, by their names, as `save` got it.

    Raises:
        UserError: the checkpoint does not say it.
    """
    found = _read_state(folder).get("weights")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{folder}: state.json does not say which weights it is of; {_remedy(folder)}")
    return found


def _remedy(folder: Path) -> str:
    """Return what to do about a damaged checkpoint; to start over would put the others away."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        return "name a folder that training_ppo.py has written"
    before = [number for number in numbers(folder.parent) if number < int(match[1])]
    where = f"from {name(before[-1])}" if before else "from the beginning"
    return f"move the folder {folder} away, and training_ppo.py goes on {where}"


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


def _build(kind: Any, values: Any) -> Any:
    nested = {field.name: field.type for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}  # JSON has none
    return kind(**{key: _build(nested[key], value) if key in nested else value for key, value in given.items()})


def check(
    folder: Path, settings: config.PPOTraining, inputs: Mapping[str, Path], weights: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest of a checkpoint that a run with these settings, inputs and weights may go on from.

    Raises:
        UserError: the checkpoint is not whole, or was made with other settings, inputs or weights: each is named.
    """
    manifest = read_manifest(folder)
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    before, after = _flatten(manifest["config"]), _flatten(now)
    roots = working_folders(folder, manifest)
    changed = [
        f"--{key.replace('_', '-')} was {before.get(key)!r}, now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if key not in _FREE and not _is_same(before.get(key), after.get(key), roots)
    ]
    if changed:
        raise UserError(
            f"{folder} was made with other settings: {', '.join(changed)}; use its own, another --run, or --overwrite"
        )
    for key, path in inputs.items():
        recorded = manifest["inputs"].get(key, {}).get("manifest_sha256")
        if recorded != sha256(path / artifacts.MANIFEST):
            raise UserError(
                f"{path} has changed since {folder} was made; start over with --overwrite, or another --run"
            )
    recorded = _read_state(folder).get("weights")
    known = recorded if isinstance(recorded, dict) else {}
    for model, now in weights.items():
        if now not in (value for name, value in known.items() if _is_same(name, model, roots)):
            raise UserError(
                f"{model} has other weights or code than when {folder} was made; put the old back (pin the revision of "
                "a hub model), or start over with --overwrite or another --run"
            )
    return manifest


def working_folders(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the folders that a checkpoint's relative names may be of: where training ran, as far as can be told."""
    where = Path(os.path.abspath(folder))
    made = PurePath(str(manifest["config"].get("checkpoints", "")))
    depth = len(made.parts) + 3  # <checkpoints>/<run>/ppo/step-NNNN
    around = [] if made.is_absolute() or ".." in made.parts else [*where.parents][depth - 1 : depth]
    noted = manifest.get("notes", {}).get("working_folder")
    return [*around, *([Path(noted)] if isinstance(noted, str) else [])]


def _is_same(one: Any, other: Any, roots: Sequence[Path]) -> bool:
    """Return whether two settings are the same, or name the same folder, seen from here or from where training ran."""
    if one == other:
        return True
    return isinstance(one, str) and any(paths.same(str(root / one), other) for root in (Path(), *roots))


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove old checkpoints until `keep` are left; never the best and never the last."""
    there = numbers(folder)
    removable = [number for number in there[:-1] if number != best]
    for number in removable[: max(0, len(there) - keep)]:
        folders.remove(folder / name(number))


def _optimizer_tensors(trainer: Seq2SeqPPOTrainer) -> dict[str, Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, entries in state.items()
        for key, value in entries.items()
    }


def _load_optimizer(trainer: Seq2SeqPPOTrainer, tensors: Mapping[str, Tensor]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, field = key.split(".", 1)
        entries.setdefault(int(index), {})[field] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _rng_tensors() -> dict[str, Tensor]:
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    rest = [numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]]
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(rest, dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return tensors


def _load_rng(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, cached = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    cuda = [tensors[key] for key in sorted(tensors) if key.startswith("cuda.")]
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
