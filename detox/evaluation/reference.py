"""The reference's part of an evaluation: computed once, and kept by what decides it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detox.evaluation import folders, scorers
from detox.evaluation.checkpoints import Case
from detox.evaluation.summaries import Draw
from detox.evaluation.task import Task
from detox.model.engine import Engine
from detox.scoring.rouge import OVERLAPS
from detox.stage import manifest

if TYPE_CHECKING:
    import config


_FILE = "reference.json"


def run(case: Case, task: Task, engine: Engine, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the reference's summaries, scored, and the toxicity of the dialogues, from disk if kept.

    Args:
        case: the checkpoint that is evaluated.
        task: what there is to do.
        engine: the reference.
        known: such parts by key, as this process has read or made them; takes this one.

    Returns:
        `records` by draw, and `dialogue_toxicity`.
    """
    settings = task.settings.evaluation
    k = settings.samples
    draws = {"samples": Draw(stop=k), "noise": Draw(start=k, stop=2 * k), "greedy": Draw(greedy=True)}
    if settings.best_of:
        draws["filtered"] = Draw(stop=k, banned=task.banned)
    key = task.processes.on_main(lambda: _key(task, engine, draws))
    if key in known:
        return known[key]
    folder = case.target.parent / f"reference-{key}"
    kept = None if task.settings.overwrite else task.processes.on_main(lambda: _read(task.settings, case, folder.name))
    if kept is not None:
        known[key] = kept
        return kept
    records = task.summarize(engine, draws, "starting model")
    task.score(list(records.values()))
    heat = scorers.rate(task.split["dialogue"], task.scorers["toxicity"], task.processes)
    known[key] = {"records": records, "dialogue_toxicity": heat}
    task.processes.on_main(lambda: _keep(task, folder, known[key]))
    return known[key]


def _read(settings: config.EvaluationStage, case: Case, name: str) -> dict[str, Any] | None:
    """Return the reference's part as the run, or another one beside it, has kept it."""
    own = case.target.parent / name
    for folder in (own, *sorted(case.run.parent.glob(f"*/evaluation/{name}"))):
        if folder.exists():
            folders.read_manifest(settings, case, folder)
            return json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return None


def _keep(task: Task, target: Path, part: dict[str, Any]) -> None:
    with folders.publish(task.settings, target, {}, str(task.device)) as folder:
        (folder / _FILE).write_text(json.dumps(part) + "\n", encoding="utf-8")


def _key(task: Task, engine: Engine, draws: Mapping[str, Draw]) -> str:
    """Return a digest of what decides the reference's part: weights, classifiers, dialogues, draws."""
    digest = hashlib.blake2b(digest_size=6)
    what = {
        "schema_version": manifest.SCHEMA_VERSION,
        "engine": engine.describe(),
        "device": task.device.type,
        "seed": task.settings.seed,
        "max_new_tokens": task.settings.evaluation.max_new_tokens,
        "overlaps": OVERLAPS,
        "bert_score": task.settings.evaluation.bert_score,
        "draws": {name: asdict(draw) for name, draw in draws.items()},
        "labels": {role: classifier.label_id for role, classifier in task.classifiers.items()},
        "dialogues": [task.split[column] for column in ("dialogue", "input_ids", "summaries")],
    }
    digest.update(json.dumps(what, sort_keys=True).encode())
    for model in (
        engine.peft or engine.base,
        *(classifier.model for classifier in task.classifiers.values()),
    ):
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
