"""Stage 3: is the summarizer civil now, and is it still a summarizer?

Compares PPO checkpoints with the reference they started from, on held-out dialogues under the same seeds; writes
checkpoints/<run>/evaluation/<checkpoint>. The reference's part is computed once and kept beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import config
from detox import cli

if TYPE_CHECKING:
    import torch

    from detox.engine import Engine
    from detox.evaluation import Records

STAGE = "evaluate_ppo"


class Task(NamedTuple):
    """What is evaluated, and on what."""

    run: Path
    checkpoints: list[Path]
    training: config.PPOTraining
    split: dict[str, list[Any]]
    queries: list[torch.Tensor]
    tokenizer: Any
    device: torch.device


class Scorers(NamedTuple):
    """From texts to numbers."""

    toxicity: Callable[[list[str]], list[float]]
    judge: Callable[[list[str]], list[float]]
    reward: Callable[[list[str]], list[float]]


def main(settings: config.EvaluationStage) -> int:
    from detox import artifacts

    run = Path(settings.checkpoints) / settings.run_name
    with artifacts.lock(run):
        return evaluate(settings, run)


def evaluate(settings: config.EvaluationStage, run: Path) -> int:
    from detox import evaluation, report

    if settings.select is not None:
        settings = replace(settings, split="validation")
    task = find(settings, run)
    finished = [read_finished(settings, task, folder) for folder in task.checkpoints]
    if not all(finished):
        scorers = load_scorers(settings, task)
        after = [run_policy(settings, task, folder, scorers) for folder in task.checkpoints]
        before = run_reference(settings, task, after, scorers)
        finished = []
        for folder, records in zip(task.checkpoints, after):
            found = measure(settings, task, folder, before, records, scorers)
            finished.append(found)
    for folder, found in zip(task.checkpoints, finished):
        print(f"\n{folder}")
        print(report.table(found))
        print(f"report: {target(settings, task, folder) / 'report.html'}")
    return 0


def find(settings: config.EvaluationStage, run: Path) -> Task:
    """Find the checkpoints and the dialogues, checked before any weight is loaded."""
    import torch

    from detox import artifacts, checkpoint, data, models
    from detox.errors import UserError

    folders = [Path(name) for name in settings.checkpoint]
    if not folders:
        there = [run / "ppo" / checkpoint.name(number) for number in checkpoint.numbers(run / "ppo")]
        if not there:
            raise UserError(f"{run / 'ppo'} holds no checkpoint; run training_ppo.py first, or pass --checkpoint")
        folders = there if settings.select is not None else there[-1:]
    manifests = [artifacts.read_manifest(folder, checkpoint.STAGE) for folder in folders]
    trainings = [checkpoint.settings_of(manifest) for manifest in manifests]
    if any(training.model != trainings[0].model for training in trainings):
        raise UserError("--checkpoint: these start from different models; evaluate them one at a time")

    models.quiet()
    models.set_threads(settings.threads)
    device = models.choose_device(settings.device)
    model = trainings[0].model
    tokenizer = models.load_tokenizer(model.base, model.revision)
    prepared = folders[0].resolve().parent.parent / "prepared" if settings.checkpoint else run / "prepared"
    split = data.load_prepared(prepared, data.tokenizer_fingerprint(tokenizer))[settings.split]
    split = split[: min(len(split), settings.evaluation.examples or len(split))]
    queries = [torch.tensor(ids) for ids in split["input_ids"]]
    return Task(run, folders, trainings[0], split, queries, tokenizer, device)


def load_scorers(settings: config.EvaluationStage, task: Task) -> Scorers:
    """Load the toxicity measurement, the judge and the reward model; one that serves twice is loaded once."""
    from detox import models, toxicity
    from detox.reward import RewardModel

    measured, reward = settings.toxicity, task.training.reward
    classifier = models.load_classifier(measured.model, measured.revision, measured.label)
    judge = models.load_classifier(settings.judge.model, settings.judge.revision, settings.judge.label)
    if (reward.model, reward.revision) == (measured.model, measured.revision):
        rewarding = classifier.with_label(reward.label)
    else:
        rewarding = models.load_classifier(reward.model, reward.revision, reward.label)
    measurement, judging = (toxicity.load_toxicity(c, task.device) for c in (classifier, judge))
    model = RewardModel(rewarding, "logit", reward.batch_size, task.device)
    return Scorers(
        lambda texts: measurement.compute(predictions=texts, toxic_label=measured.label)["toxicity"],
        lambda texts: judging.compute(predictions=texts, toxic_label=settings.judge.label)["toxicity"],
        lambda texts: model.score(texts).tolist(),
    )


def load_engine(settings: config.EvaluationStage, task: Task, adapter: str) -> Engine:
    """Load the base with an adapter, or `none`."""
    from detox import models
    from detox.engine import choose_dtype, make_engine

    model = task.training.model
    base = models.load_summarizer(model.base, model.revision, choose_dtype(settings.dtype, task.device))
    revision = model.adapter_revision if adapter == model.adapter else None
    adapted = base if adapter == "none" else models.load_adapter(base, adapter, revision)
    return make_engine(settings.engine, adapted.to(task.device))


def summarize(settings: config.EvaluationStage, task: Task, engine: Engine, title: str, **draw: Any) -> Records:
    from detox import evaluation

    return evaluation.summarize(
        engine,
        task.tokenizer,
        task.queries,
        evaluation.Draw(**draw),
        settings.evaluation,
        seed=settings.seed,
        title=title,
    )


def run_policy(settings: config.EvaluationStage, task: Task, folder: Path, scorers: Scorers) -> dict[str, Records]:
    """Let one checkpoint summarize every dialogue."""
    from detox import evaluation

    engine = load_engine(settings, task, str(folder / "adapter"))
    records = {
        "samples": summarize(settings, task, engine, f"{folder.name}, sampled", stop=settings.evaluation.samples),
        "greedy": summarize(settings, task, engine, f"{folder.name}, greedy", greedy=True),
    }
    evaluation.score(list(records.values()), *scorers, task.split["summaries"])
    return records


def run_reference(
    settings: config.EvaluationStage, task: Task, after: list[dict[str, Records]], scorers: Scorers
) -> dict[str, Records]:
    """Let the reference say how likely it finds the policies' summaries, and summarize, unless that is kept already."""
    from detox import artifacts, bad_words, evaluation

    engine = load_engine(settings, task, task.training.model.adapter)
    for records in after:
        for name, group in records.items():
            title = f"reference on {name}"
            evaluation.teacher_force(engine, task.queries, group, settings.evaluation, title=title)
    kept = task.run / "evaluation" / f"reference-{reference_key(settings, task, engine)}"
    if kept.exists():
        artifacts.read_manifest(kept, STAGE)
        return json.loads((kept / "reference.json").read_text(encoding="utf-8"))
    k = settings.evaluation.samples
    records = {
        "samples": summarize(settings, task, engine, "reference, sampled", stop=k),
        "noise": summarize(settings, task, engine, "reference, other seeds", start=k, stop=2 * k),
        "greedy": summarize(settings, task, engine, "reference, greedy", greedy=True),
    }
    if settings.evaluation.best_of:
        banned = bad_words.banned_sequences(task.tokenizer, bad_words.load(settings.evaluation.bad_words))
        records["filtered"] = summarize(settings, task, engine, "reference, filtered", stop=k, banned=banned)
    evaluation.score(list(records.values()), *scorers, task.split["summaries"])
    with artifacts.publish(kept, stage=STAGE, settings=settings, device=str(task.device)) as draft:
        (draft.path / "reference.json").write_text(json.dumps(records) + "\n", encoding="utf-8")
    return records


def reference_key(settings: config.EvaluationStage, task: Task, engine: Engine) -> str:
    """Return a digest of all that decides the reference's part: weights of the adapter, dialogues, settings."""
    from detox import models
    from detox.policy import lora_factors

    digest = hashlib.sha256()
    what = {
        "base": [task.training.model.base, models.resolved_revision(engine.base)],
        "reward": asdict(task.training.reward),
        "settings": {
            key: value
            for key, value in asdict(settings).items()
            if key in ("seed", "split", "toxicity", "judge", "evaluation", "engine", "dtype")
        },
    }
    digest.update(json.dumps(what, sort_keys=True).encode())
    for query, references in zip(task.queries, task.split["summaries"]):
        digest.update(json.dumps([query.tolist(), references]).encode())
    if engine.peft is not None:
        for name, factors in sorted(lora_factors(engine.peft).items()):
            digest.update(name.encode())
            for factor in factors:
                digest.update(factor.numpy().tobytes())
    return digest.hexdigest()[:12]


def measure(
    settings: config.EvaluationStage,
    task: Task,
    folder: Path,
    before: dict[str, Records],
    after: dict[str, Records],
    scorers: Scorers,
) -> dict[str, Any]:
    """Turn the summaries of one checkpoint into results, report and examples on disk; return the results."""
    import numpy as np

    from detox import artifacts, evaluation, plots, quality, report

    dialogues, lengths = task.split["dialogue"], np.array([len(query) for query in task.queries])
    heat = np.array(scorers.toxicity(dialogues))
    found = evaluation.results(before, after, dialogues, heat, lengths, settings)
    found |= {
        "run": task.run.name,
        "checkpoint": folder.name,
        "models": {
            "base": task.training.model.base,
            "adapter": task.training.model.adapter,
            "reward": task.training.reward.model,
            "judge": settings.judge.model,
        },
    }
    lines = evaluation.examples(task.split, before, after, quality.slices(dialogues, heat, lengths))
    place = target(settings, task, folder)
    with artifacts.publish(
        place,
        stage=STAGE,
        settings=settings,
        device=str(task.device),
        overwrite=settings.overwrite,
        inputs={"checkpoint": folder},
    ) as draft:
        draft.counts["examples"] = len(lines)
        write = {
            "results.json": json.dumps(found, indent=2) + "\n",
            "examples.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
            "report.md": report.markdown(found, lines),
            "report.html": report.html(found, lines),
        }
        for name, text in write.items():
            (draft.path / name).write_text(text, encoding="utf-8")
        plots.plots(found, lines, draft.path)
    return found


def target(settings: config.EvaluationStage, task: Task, folder: Path) -> Path:
    suffix = "" if settings.split == "test" else f"-{settings.split}"
    return task.run / "evaluation" / f"{folder.name}{suffix}"


def read_finished(settings: config.EvaluationStage, task: Task, folder: Path) -> dict[str, Any] | None:
    """Return the results of an earlier evaluation of this very checkpoint with these very settings, or None."""
    from detox import artifacts

    place = target(settings, task, folder)
    if settings.overwrite or not place.exists():
        return None
    manifest = artifacts.read_manifest(place, STAGE)
    same = {key: value for key, value in manifest["config"].items() if key in ("seed", "toxicity", "judge", "evaluation")}
    now = json.loads(json.dumps({key: asdict(settings)[key] for key in same}))
    checkpoint_hash = artifacts.sha256(folder / artifacts.MANIFEST)
    if same != now or manifest["inputs"]["checkpoint"]["manifest_sha256"] != checkpoint_hash:
        return None
    return json.loads((place / "results.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(cli.run(config.EvaluationStage, main, description=__doc__))
