"""A PPO checkpoint: all that an exact resume needs, written and restored."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from detox.model.policy import LoraFactors, save_adapter, trainable
from detox.ppo.checkpoint_record import STAGE, read_state
from detox.ppo.state import TrainingState
from detox.stage import artifacts, notes
from detox.stage.checkpoint_folders import remedy
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


def save(
    folder: Path,
    trainer: TrainingState,
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


def restore(folder: Path, trainer: TrainingState) -> dict[str, Any]:
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
        raise UserError(f"{folder} can't be restored ({reason}); {remedy(folder)}") from None


def _restore(folder: Path, trainer: TrainingState) -> dict[str, Any]:
    state = read_state(folder)
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


def ran_on(trainer: TrainingState) -> dict[str, Any]:
    """Return what the settings of device, dtype, engine and threads came to."""
    engine = trainer.engine
    dtype = str(engine.head_weight.dtype).removeprefix("torch.")
    device = str(engine.device) if engine.device.type == "cuda" else engine.device.type
    return {"device": device, "dtype": dtype, "engine": engine.name, "threads": torch.get_num_threads()}


def _optimizer_tensors(trainer: TrainingState) -> dict[str, Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, entries in state.items()
        for key, value in entries.items()
    }


def _load_optimizer(trainer: TrainingState, tensors: Mapping[str, Tensor]) -> None:
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
