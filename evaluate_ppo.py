"""Stage 3: is the summarizer civil now, and is it still a summarizer?

Compares PPO checkpoints with the reference they started from, on held-out dialogues under the same seeds;
writes checkpoints/<run>/evaluation/<checkpoint>. The reference's part is computed once and kept beside it.
--export and --push-to-hub pass a checkpoint on as a plain model; --ask tries both models on one dialogue.
Under `accelerate launch` or `torchrun` several processes share the work; what they write is the same, if each has as
many threads (--threads) as the single one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from detox import cli

if TYPE_CHECKING:
    import torch

    from detox.cases import Case
    from detox.engine import Engine
    from detox.evaluation import Line, Records, Results
    from detox.models import Classifier
    from detox.parallel import Processes

Scorer = Callable[[list[str]], list[float]]

STAGE = "evaluate_ppo"
_REFERENCE = "reference.json"


@dataclass(frozen=True)
class Task:
    """What both models have to do, and what marks it."""

    split: Mapping[str, list[Any]]
    queries: list[torch.Tensor]
    tokenizer: Any
    banned: tuple[tuple[int, ...], ...]
    classifiers: Mapping[str, Classifier]
    scorers: Mapping[str, Scorer]
    device: torch.device
    processes: Processes


def main(settings: config.EvaluationStage) -> None:
    from detox import export, parallel
    from detox.cases import find, is_finished, locked

    processes = parallel.start(settings.device)
    if settings.select is not None:
        settings = replace(settings, split="validation")
    cases = processes.on_main(lambda: find(settings))
    if settings.ask is not None:
        return processes.on_main(lambda: ask(settings, cases[0]))
    processes.on_main(lambda: export.check(settings))
    with processes.within(lambda: locked(cases)):
        todo = processes.on_main(lambda: [case for case in cases if not is_finished(settings, case)])
        known: dict[str, dict[str, Any]] = {}
        for case in todo:
            evaluate(settings, case, known, processes)
        processes.on_main(lambda: conclude(settings, cases))


# ------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    settings: config.EvaluationStage, case: Case, known: dict[str, dict[str, Any]], processes: Processes
) -> None:
    """Evaluate one checkpoint and write it down.

    Args:
        settings: of the stage.
        case: the checkpoint.
        known: the reference's part by key, as this process has read or made it.
        processes: share the work; the main one writes.
    """
    from detox import evaluation
    from detox.cases import inputs

    task = prepare(settings, case, processes)
    with processes.within(lambda: publish(settings, case.target, inputs(case), str(task.device))) as folder:
        k = settings.evaluation.samples
        draws = {"samples": evaluation.Draw(stop=k), "greedy": evaluation.Draw(greedy=True)}
        policy = load_engine(settings, case, str(case.checkpoint / "adapter"), task.device)
        after = summarize(settings, task, policy, draws, case.name)
        del policy
        reference = load_engine(settings, case, case.training.model.adapter, task.device)
        groups, title = list(after.values()), f"{case.name} as the reference sees it"
        evaluation.teacher_force(reference, task.queries, groups, settings.evaluation, title=title, processes=processes)
        score(settings, task, groups)
        before = run_reference(settings, case, task, reference, known)
        if processes.is_main:
            lines = evaluation.examples(task.split, before["records"], after, before["dialogue_toxicity"])
            write(folder, evaluation.results(lines, settings) | provenance(settings, case, reference), lines)


def prepare(settings: config.EvaluationStage, case: Case, processes: Processes) -> Task:
    """Load tokenizer, dialogues and classifiers: small things first, so that errors come early."""
    import torch

    from detox import bad_words, data, models
    from detox.cases import check_start
    from detox.errors import UserError

    models.quiet()
    models.set_threads(settings.threads)
    device = models.choose_device(settings.device)
    processes.on_main(lambda: check_start(case))
    base = case.training.model
    tokenizer = models.load_tokenizer(base.base, base.revision)
    models.check_tokens("--evaluation.max-new-tokens", settings.evaluation.max_new_tokens, base.base, base.revision)
    words = bad_words.load(settings.evaluation.bad_words) if settings.evaluation.best_of else []
    split = data.load_prepared(case.run / "prepared", data.tokenizer_fingerprint(tokenizer))[settings.split]
    split = split[: min(len(split), settings.evaluation.examples or len(split))]
    if not split["id"]:
        raise UserError(f"{case.run / 'prepared'} has no {settings.split} dialogues; prepare data that has some")
    queries = [torch.tensor(ids) for ids in split["input_ids"]]
    classifiers, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    banned = bad_words.banned_sequences(tokenizer, words)
    return Task(split, queries, tokenizer, banned, classifiers, scorers, device, processes)


@functools.lru_cache(maxsize=1)
def load_scorers(
    measured: config.Toxicity, judge: config.Judge, reward: config.Reward, device: torch.device
) -> tuple[dict[str, Classifier], dict[str, Scorer]]:
    """Load toxicity measurement, judge and reward model; one that serves twice is loaded once."""
    from detox import models, toxicity
    from detox.reward import RewardModel

    loaded: dict[tuple[str, str | None], Classifier] = {}
    classifiers = {}
    for role, wanted in (("toxicity", measured), ("judge", judge), ("reward", reward)):
        source = wanted.model, wanted.revision
        if source not in loaded:
            loaded[source] = models.load_classifier(*source, wanted.label)
        classifiers[role] = loaded[source].with_label(wanted.label)

    def probability(role: str, label: str) -> Scorer:
        measurement = toxicity.load_toxicity(classifiers[role], device)
        return lambda texts: measurement.compute(predictions=texts, toxic_label=label)["toxicity"]

    logit = RewardModel(classifiers["reward"], "logit", reward.batch_size, device)
    return classifiers, {
        "toxicity": probability("toxicity", measured.label),
        "judge": probability("judge", judge.label),
        "reward": lambda texts: logit.score(texts).tolist(),
    }


def load_engine(settings: config.EvaluationStage, case: Case, adapter: str, device: torch.device) -> Engine:
    """Load the base with an adapter, or `none`."""
    from detox import models
    from detox.engine import choose_dtype, make_engine

    model = case.training.model
    base = models.load_summarizer(model.base, model.revision, choose_dtype(settings.dtype, device))
    revision = model.adapter_revision if adapter == model.adapter else None
    adapted = base if adapter == "none" else models.load_adapter(base, adapter, revision)
    return make_engine(settings.engine, adapted.to(device))


def summarize(
    settings: config.EvaluationStage, task: Task, engine: Engine, draws: Mapping[str, Any], title: str
) -> dict[str, Records]:
    from detox import evaluation

    return evaluation.summarize(
        engine,
        task.tokenizer,
        task.queries,
        draws,
        settings.evaluation,
        seed=settings.seed,
        title=title,
        processes=task.processes,
    )


def score(settings: config.EvaluationStage, task: Task, groups: list[Records]) -> None:
    from detox import evaluation

    evaluation.score(groups, task.scorers, task.split["summaries"], settings.evaluation.bert_score, task.processes)


def run_reference(
    settings: config.EvaluationStage,
    case: Case,
    task: Task,
    engine: Engine,
    known: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the reference's summaries, scored, and the toxicity of the dialogues, from disk if kept."""
    from detox import evaluation

    k = settings.evaluation.samples
    draws = {
        "samples": evaluation.Draw(stop=k),
        "noise": evaluation.Draw(start=k, stop=2 * k),
        "greedy": evaluation.Draw(greedy=True),
    }
    if settings.evaluation.best_of:
        draws["filtered"] = evaluation.Draw(stop=k, banned=task.banned)
    key = task.processes.on_main(lambda: reference_key(settings, task, engine, draws))
    if key in known:
        return known[key]
    folder = case.target.parent / f"reference-{key}"
    kept = None if settings.overwrite else task.processes.on_main(lambda: read_reference(case, folder.name))
    if kept is not None:
        known[key] = kept
        return kept
    records = summarize(settings, task, engine, draws, "reference")
    score(settings, task, list(records.values()))
    heat = evaluation.rate(task.split["dialogue"], task.scorers["toxicity"], task.processes)
    known[key] = {"records": records, "dialogue_toxicity": heat}
    task.processes.on_main(lambda: keep_reference(settings, task, folder, known[key]))
    return known[key]


def read_reference(case: Case, name: str) -> dict[str, Any] | None:
    """Return the reference's part as the run, or another one beside it, has kept it."""
    from detox import artifacts

    own = case.target.parent / name
    for folder in (own, *sorted(case.run.parent.glob(f"*/evaluation/{name}"))):
        if folder.exists():
            artifacts.read_manifest(folder, STAGE)
            return json.loads((folder / _REFERENCE).read_text(encoding="utf-8"))
    return None


def keep_reference(settings: config.EvaluationStage, task: Task, target: Path, part: dict[str, Any]) -> None:
    with publish(settings, target, {}, str(task.device)) as folder:
        (folder / _REFERENCE).write_text(json.dumps(part) + "\n", encoding="utf-8")


def reference_key(settings: config.EvaluationStage, task: Task, engine: Engine, draws: Mapping[str, Any]) -> str:
    """Return a digest of what decides the reference's part: weights, classifiers, dialogues, draws."""
    import torch

    from detox import artifacts

    digest = hashlib.blake2b(digest_size=6)
    what = {
        "schema_version": artifacts.SCHEMA_VERSION,
        "engine": engine.describe(),
        "device": task.device.type,
        "seed": settings.seed,
        "max_new_tokens": settings.evaluation.max_new_tokens,
        "bert_score": settings.evaluation.bert_score,
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


def provenance(settings: config.EvaluationStage, case: Case, engine: Engine) -> dict[str, Any]:
    """Return which models and programs the figures are of."""
    training = case.training
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
        "engine": engine.describe(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "trl")},
    }


@contextlib.contextmanager
def publish(settings: config.EvaluationStage, target: Path, inputs: Mapping[str, Path], device: str) -> Iterator[Path]:
    """Yield the folder that takes the files of an artefact of this stage."""
    from detox import artifacts

    with artifacts.publish(
        target, stage=STAGE, settings=settings, device=device, overwrite=settings.overwrite, inputs=inputs
    ) as draft:
        yield draft.path


def write(folder: Path, found: Results, lines: list[Line]) -> None:
    """Write results, examples and the report in its forms."""
    from detox import plots, report

    texts = {
        "results.json": json.dumps(found, indent=2) + "\n",
        "examples.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "report.md": report.markdown(found, lines),
        "report.html": report.html(found, lines),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    plots.plots(found, lines, folder)


# ---------------------------------------------------------------------------------------------- what came out


def conclude(settings: config.EvaluationStage, cases: list[Case]) -> None:
    """Print what the evaluations on disk say, and compare them where there are several."""
    from detox import comparison, export, report

    found, lines = comparison.compare(settings, cases)
    place = cases[-1].target
    if "compared" in found:
        print(comparison.table(found))
        content = hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=4).hexdigest()
        place = cases[0].target.with_name(f"comparison{cases[0].suffix}-{content}")
        if settings.overwrite or not place.exists():
            with publish(settings, place, {case.name: case.target for case in cases}, "cpu") as folder:
                write(folder, found, lines)
    print(f"\n{found['checkpoint']} of {found['run']}, {found['n']} dialogues ({found['split']})\n")
    print(report.table(found))
    if settings.power is not None:
        print(comparison.power_sentence(found, settings.power))
    print(f"report: {place / 'report.html'}")
    export.export(settings, cases[0], found)
    if settings.select is not None:
        chosen = comparison.chosen(settings, cases, found)
        print(f"selected: {chosen}, the least toxic to the judge that keeps {settings.select:.0%} of ROUGE-L")
        print(f"next: {cli.command('evaluate_ppo.py', settings, '--checkpoint', str(chosen))}")


# ------------------------------------------------------------------------------------------ a dialogue of one's own


def ask(settings: config.EvaluationStage, case: Case) -> None:
    """Print what the reference and the checkpoint make of one dialogue, greedily, and how toxic it is."""
    from detox import models
    from detox.ask import side_by_side, summarize_greedily, to_query
    from detox.cases import check_start

    models.quiet()
    models.set_threads(settings.threads)
    device = models.choose_device(settings.device)
    check_start(case)
    start = case.training.model
    tokenizer = models.load_tokenizer(start.base, start.revision)
    query = to_query(settings.ask, case.run / "prepared", tokenizer)
    _, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    columns = {}
    for title, adapter in ("Before", start.adapter), (f"After: {case.name}", str(case.checkpoint / "adapter")):
        engine = load_engine(settings, case, adapter, device)
        summary = summarize_greedily(engine, tokenizer, query, settings.evaluation.max_new_tokens)
        columns[title] = summary, {name: scorers[name]([summary])[0] for name in ("toxicity", "judge")}
    print(side_by_side(columns))


if __name__ == "__main__":
    sys.exit(cli.run(config.EvaluationStage, main, description=__doc__))
