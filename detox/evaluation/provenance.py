"""Which models, settings and programs the figures are of; the commands that give them again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from detox.evaluation import folders
from detox.evaluation.checkpoints import Case
from detox.evaluation.examples import Results
from detox.evaluation.task import Task
from detox.model.engine import Engine
from detox.ppo import checkpoint_record
from detox.stage import commands, notes

if TYPE_CHECKING:
    import config


_PROGRAMS = ("torch", "transformers", "peft", "trl")


def provenance(task: Task, case: Case, engine: Engine) -> dict[str, Any]:
    """Return what the figures are of.

    Args:
        task: of the evaluation.
        case: the checkpoint.
        engine: what ran the models.
    """
    settings, training = task.settings, case.training
    return {
        "run": case.run.name,
        "checkpoint": case.checkpoint.name,
        "training_seed": training.seed,
        "models": {
            "base": training.model.base,
            "adapter": training.model.adapter,
            "reward": training.reward.model,
            "toxicity": settings.toxicity.model,
            "judge": settings.judge.model,
        },
        "training": _training(case),
        "engine": engine.describe(),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in _PROGRAMS},
        "unknown": task.unknown,
        **notes.for_manifest(),
        "command": command(settings, [case]),
    }


def command(settings: config.EvaluationStage, cases: Sequence[Case]) -> str:
    """Return what to type for checkpoints to be evaluated again as they were."""
    checkpoints = (str(case.checkpoint) for case in cases)
    decided = commands.changed(settings, folders.decides)
    return commands.command("evaluate_ppo.py", settings, "--checkpoint", *checkpoints, *decided)


def of_all(each: Sequence[Results]) -> Results:
    """Return of several runs' results what says how they came about, as far as that is the same for all."""
    names = ("models", "engine", "threads", "versions", "unknown", "pickles")
    named = [{name: one[name] for name in names if name in one} for one in each]
    return _same(named) | {"training": _same([one["training"] for one in each])}


def _same(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries that all have alike."""
    first, *others = each
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}


def _training(case: Case) -> dict[str, Any]:
    """Return how the checkpoint came about; `scored_summaries` counts those of the warm-up too."""
    ppo, manifest = case.training.ppo, checkpoint_record.read_manifest(case.checkpoint)
    found = {
        "updates": manifest["counts"]["updates"],
        "batch_size": ppo.batch_size,
        "samples_per_dialogue": ppo.samples_per_dialogue,
        "scored_summaries": checkpoint_record.read_metrics(case.checkpoint).get("objective/scored_summaries"),
        "advantages": ppo.advantages,
        "learning_rate": None if ppo.schedule == "kl" else ppo.learning_rate,
        "step_kl": ppo.step_kl if ppo.schedule == "kl" else None,
        "kl_coef": ppo.kl_coef,
        "trained": manifest["created_utc"],
        "commit": manifest["git_rev"],
        "command": commands.again("training_ppo.py", case.training, without=("--report-to",)),
    }
    return {key: value for key, value in found.items() if value is not None}
