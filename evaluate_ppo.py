"""Stage 3: is the summarizer civil now, and is it still a summarizer?

Compares PPO checkpoints with the reference they started from, on held-out dialogues under the same seeds; writes
checkpoints/<run>/evaluation/<checkpoint>. The reference's part is computed once and kept beside it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from detox import cli

if TYPE_CHECKING:
    import torch

    from detox.engine import Engine
    from detox.evaluation import Line, Records, Results
    from detox.models import Classifier

Scorer = Callable[[list[str]], list[float]]

STAGE = "evaluate_ppo"
_DECIDING = ("seed", "split", "engine", "dtype", "toxicity", "judge", "evaluation")
_REFERENCE = "reference.json"


@dataclass(frozen=True)
class Case:
    """One checkpoint to evaluate, the run that it is of, and where its evaluation goes."""

    name: str
    checkpoint: Path
    run: Path
    training: config.PPOTraining
    target: Path


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


def main(settings: config.EvaluationStage) -> int:
    if settings.select is not None:
        settings = replace(settings, split="validation")
    cases = find(settings)
    with locked(cases):
        todo = [case for case in cases if not is_finished(settings, case)]
        known: dict[str, dict[str, Any]] = {}
        for case in todo:
            evaluate(settings, case, known)
        return conclude(settings, cases)


# ------------------------------------------------------------------------------------------ before any work


def find(settings: config.EvaluationStage) -> list[Case]:
    """Find the checkpoints, whole and of one model.

    Raises:
        UserError: one is missing, damaged or of another model, or two would be written to the same place.
    """
    from detox import artifacts, checkpoint
    from detox.errors import UserError

    own = Path(settings.checkpoints) / settings.run_name
    folders = [Path(name) for name in settings.checkpoint]
    if not folders:
        folders = [own / "ppo" / checkpoint.name(number) for number in checkpoint.numbers(own / "ppo")]
        if not folders:
            again = cli.command("training_ppo.py", settings)
            raise UserError(f"{own / 'ppo'} holds no checkpoint; run {again} first, or pass --checkpoint")
        folders = folders if settings.select is not None else folders[-1:]
    cases = []
    for folder in folders:
        training = checkpoint.settings_of(artifacts.read_manifest(folder, checkpoint.STAGE))
        place = Path(os.path.abspath(folder))
        run = _shown(place.parent.parent) if place.parent.name == "ppo" else own
        name = place.name + ("" if settings.split == "test" else f"-{settings.split}")
        cases.append(Case(f"{run.name}/{place.name}", folder, run, training, run / "evaluation" / name))
    if len({case.target for case in cases}) < len(cases):
        raise UserError("--checkpoint: two of these have the same run and name; name each one once")
    if len({_start(case) for case in cases}) > 1:
        raise UserError("--checkpoint: these start from different models; evaluate them one at a time")
    if len({case.name for case in cases}) < len(cases):  # runs of the same name in different folders
        cases = [replace(case, name=str(case.checkpoint)) for case in cases]
    return cases


def _shown(path: Path) -> Path:
    """Return a path as short as it can be shown."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _start(case: Case) -> config.Model:
    """Return what training started from; a run's own supervised adapter counts as the same in every run."""
    model = case.training.model
    own = os.path.abspath(model.adapter) == os.path.abspath(case.run / "lora")
    return replace(model, adapter="auto") if own else model


@contextlib.contextmanager
def locked(cases: list[Case]) -> Iterator[None]:
    """Keep other processes from writing to the same evaluations; training may go on."""
    from detox import artifacts

    with contextlib.ExitStack() as stack:
        for folder in sorted({case.target.parent for case in cases}):
            stack.enter_context(artifacts.lock(folder))
        yield


def is_finished(settings: config.EvaluationStage, case: Case) -> bool:
    """Return whether this very checkpoint was evaluated with these very settings.

    Raises:
        UserError: it was evaluated with other settings, or was another one, and may not be replaced.
    """
    from detox import artifacts
    from detox.errors import UserError

    if settings.overwrite or not case.target.exists():
        return False
    manifest = artifacts.read_manifest(case.target, STAGE)
    before, now = _deciding(manifest["config"]), _deciding(json.loads(json.dumps(asdict(settings))))
    changed = [
        f"--{key.replace('_', '-')} was {before.get(key)}, now {value}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    for name, folder in _inputs(case).items():
        recorded = manifest["inputs"].get(name, {}).get("manifest_sha256")
        if (folder / artifacts.MANIFEST).exists() and recorded != artifacts.sha256(folder / artifacts.MANIFEST):
            changed.append(f"{folder} has changed")
    if changed:
        raise UserError(f"{case.target} exists ({', '.join(changed)}); pass --overwrite to replace it")
    return True


def _inputs(case: Case) -> dict[str, Path]:
    return {"checkpoint": case.checkpoint, "prepared": case.run / "prepared"}


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the figures, by flag; the batch size is none of them."""
    flat: dict[str, Any] = {}
    for key in _DECIDING:
        value = values.get(key)
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    flat.pop("evaluation.batch_size", None)
    return flat


# ---------------------------------------------------------------------------------------------- evaluation


def evaluate(settings: config.EvaluationStage, case: Case, known: dict[str, dict[str, Any]]) -> None:
    """Evaluate one checkpoint and write it down.

    Args:
        settings: of the stage.
        case: the checkpoint.
        known: the reference's part by key, as this process has read or made it.
    """
    from detox import evaluation

    task = prepare(settings, case)
    with publish(settings, case.target, _inputs(case), str(task.device)) as folder:
        k = settings.evaluation.samples
        draws = {"samples": evaluation.Draw(stop=k), "greedy": evaluation.Draw(greedy=True)}
        policy = load_engine(settings, case, str(case.checkpoint / "adapter"), task.device)
        after = summarize(settings, task, policy, draws, case.name)
        del policy
        reference = load_engine(settings, case, case.training.model.adapter, task.device)
        groups, title = list(after.values()), f"{case.name} as the reference sees it"
        evaluation.teacher_force(reference, task.queries, groups, settings.evaluation, title=title)
        score(settings, task, groups)
        before = run_reference(settings, case, task, reference, known)
        lines = evaluation.examples(task.split, before["records"], after, before["dialogue_toxicity"])
        write(folder, evaluation.results(lines, settings) | provenance(settings, case, reference), lines)


def prepare(settings: config.EvaluationStage, case: Case) -> Task:
    """Load the tokenizer, the dialogues and the classifiers: small things first, so that errors come early."""
    import torch

    from detox import bad_words, data, models
    from detox.errors import UserError

    models.quiet()
    models.set_threads(settings.threads)
    device = models.choose_device(settings.device)
    base = case.training.model
    tokenizer = models.load_tokenizer(base.base, base.revision)
    words = bad_words.load(settings.evaluation.bad_words) if settings.evaluation.best_of else []
    split = data.load_prepared(case.run / "prepared", data.tokenizer_fingerprint(tokenizer))[settings.split]
    split = split[: min(len(split), settings.evaluation.examples or len(split))]
    if not split["id"]:
        raise UserError(f"{case.run / 'prepared'} has no {settings.split} dialogues; prepare data that has some")
    queries = [torch.tensor(ids) for ids in split["input_ids"]]
    classifiers, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    banned = bad_words.banned_sequences(tokenizer, words)
    return Task(split, queries, tokenizer, banned, classifiers, scorers, device)


@functools.lru_cache(maxsize=1)
def load_scorers(
    measured: config.Toxicity, judge: config.Judge, reward: config.Reward, device: torch.device
) -> tuple[dict[str, Classifier], dict[str, Scorer]]:
    """Load the toxicity measurement, the judge and the reward model; a model that serves twice is loaded once."""
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
        engine, task.tokenizer, task.queries, draws, settings.evaluation, seed=settings.seed, title=title
    )


def score(settings: config.EvaluationStage, task: Task, groups: list[Records]) -> None:
    from detox import evaluation

    evaluation.score(groups, task.scorers, task.split["summaries"], settings.evaluation.bert_score)


def run_reference(
    settings: config.EvaluationStage,
    case: Case,
    task: Task,
    engine: Engine,
    known: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the reference's summaries, scored, and the toxicity of the dialogues, from disk where they are kept."""
    from detox import artifacts, evaluation

    k = settings.evaluation.samples
    draws = {
        "samples": evaluation.Draw(stop=k),
        "noise": evaluation.Draw(start=k, stop=2 * k),
        "greedy": evaluation.Draw(greedy=True),
    }
    if settings.evaluation.best_of:
        draws["filtered"] = evaluation.Draw(stop=k, banned=task.banned)
    key = reference_key(settings, task, engine, draws)
    if key in known:
        return known[key]
    kept = case.target.parent / f"reference-{key}"
    there = [kept, *sorted(case.run.parent.glob(f"*/evaluation/{kept.name}"))]  # of another run, it is as good
    found = next((folder for folder in there if folder.exists()), None)
    if found is not None and not settings.overwrite:
        artifacts.read_manifest(found, STAGE)
        known[key] = json.loads((found / _REFERENCE).read_text(encoding="utf-8"))
        return known[key]
    records = summarize(settings, task, engine, draws, "reference")
    score(settings, task, list(records.values()))
    known[key] = {"records": records, "dialogue_toxicity": task.scorers["toxicity"](task.split["dialogue"])}
    with publish(settings, kept, {}, str(task.device)) as folder:
        (folder / _REFERENCE).write_text(json.dumps(known[key]) + "\n", encoding="utf-8")
    return known[key]


def reference_key(
    settings: config.EvaluationStage, task: Task, engine: Engine, draws: Mapping[str, Any]
) -> str:
    """Return a digest of the contents that decide the reference's part: weights, classifiers, dialogues, draws."""
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
    for model in (engine.peft or engine.base, *(classifier.model for classifier in task.classifiers.values())):
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
def publish(
    settings: config.EvaluationStage, target: Path, inputs: Mapping[str, Path], device: str
) -> Iterator[Path]:
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


# -------------------------------------------------------------------------------------------- what came out


def conclude(settings: config.EvaluationStage, cases: list[Case]) -> int:
    """Print what the evaluations on disk say, and compare them where there are several; return the exit code."""
    from detox import report

    results = {case.name: read_results(case.target) for case in cases}
    shown, place = results[cases[-1].name], cases[-1].target
    if len(cases) > 1 or settings.select is not None:
        shown, place = compare(settings, cases, results)
        print(comparison_table(shown))
    print(f"\n{place.name}: {shown['checkpoint']} of {shown['run']}, {shown['n']} dialogues ({shown['split']})\n")
    print(report.table(shown))
    if settings.power is not None:
        print(power_sentence(shown, settings.power))
    print(f"report: {place / 'report.html'}")
    return settle(settings, cases, shown)


def read_results(folder: Path) -> Results:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def read_lines(folder: Path) -> list[Line]:
    with open(folder / "examples.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def compare(
    settings: config.EvaluationStage, cases: list[Case], results: Mapping[str, Results]
) -> tuple[Results, Path]:
    """Pool runs that differ by seed alone, put other checkpoints side by side; write a report of its own."""
    from detox import evaluation

    inputs = {case.name: case.target for case in cases}
    lines: list[Line]
    if differ_by_seed(cases) and settings.select is None:
        found, lines = evaluation.pool(results, [read_lines(case.target) for case in cases], settings)
        found = results[cases[-1].name] | found
        found |= {"run": f"{len(cases)} runs", "checkpoint": ", ".join(results)}
        found |= {"training_seed": ", ".join(str(case.training.seed) for case in cases)}
    else:
        chosen = cases[-1]
        extra: dict[str, Any] = {"compared": ", ".join(results)}
        if settings.select is not None:
            name = evaluation.select(results, settings.select)
            chosen = next((case for case in cases if case.name == name), chosen)
            extra |= {"selected": name, "selection_floor": settings.select}
        one_run = len({case.run for case in cases}) == 1
        short = {case.checkpoint.name if one_run else case.name: results[case.name] for case in cases}
        found = results[chosen.name] | evaluation.side_by_side(short, one_run) | extra
        lines = read_lines(chosen.target)
    content = json.dumps([found, *results.values()], sort_keys=True).encode()
    suffix = "" if settings.split == "test" else f"-{settings.split}"
    key = hashlib.blake2b(content, digest_size=4).hexdigest()
    place = cases[0].target.parent / f"comparison{suffix}-{key}"
    if settings.overwrite or not place.exists():
        with publish(settings, place, inputs, "cpu") as folder:
            write(folder, found, lines)
    return found, place


def differ_by_seed(cases: list[Case]) -> bool:
    """Return whether these are runs of the same settings under different seeds, one checkpoint each."""
    free = dict(run=None, checkpoints="", seed=0, overwrite=False, device="auto", threads=None)
    same = {
        (replace(case.training, **free, save=config.Checkpoints(), model=_start(case)), case.checkpoint.name)
        for case in cases
    }
    seeds, runs = {case.training.seed for case in cases}, {case.run for case in cases}
    return len(same) == 1 and len(seeds) == len(runs) == len(cases) > 1


def comparison_table(found: Results) -> str:
    """Return a line a checkpoint, or a line a run that was pooled."""
    from detox.errors import printable

    pooled = found.get("pooled")
    if pooled is not None:
        lines = [f"\n{'Reduction over runs':24}{'average':>9}{'lowest':>9}{'highest':>9}{'std':>8}"]
        names = {"mean": "mean toxicity", "std": "std toxicity", "judge_mean": "mean, judge", "judge_std": "std, judge"}
        for key, name in names.items():
            cells = [pooled[key][part] for part in ("average", "low", "high", "sd")]
            shown = ["n/a" if cell is None else f"{cell:+.1%}" for cell in cells]
            lines.append(f"{name:24}{shown[0]:>9}{shown[1]:>9}{shown[2]:>9}{shown[3].lstrip('+'):>8}")
        return "\n".join(lines)
    width = max(10, *(len(point["name"]) for point in found["checkpoints"]))
    lines = [f"\n{'Checkpoint':{width}}  sqrt KL   reward  toxicity    judge  ROUGE-L"]
    for point in found["checkpoints"]:
        alarms = f"   ALARM: {', '.join(point['alarms'])}" if point.get("alarms") else ""
        lines.append(
            f"{printable(point['name']):{width}}  {point['sqrt_kl']:7.3f}  {point['score_mean']:7.3f}"
            f"  {point['toxicity_mean']:8.4f} {point['judge_mean']:8.4f}  {point['rougeL']:7.4f}{alarms}"
        )
    if "overoptimization" in found:
        lines.append(printable(found["overoptimization"]["sentence"]))
    return "\n".join(lines)


def power_sentence(found: Results, reduction: float) -> str:
    """Say how many dialogues show a reduction of that fraction, and what these dialogues show."""
    from detox import statistics

    mean, spread = found["toxicity"]["mean"]["before"], found["toxicity"]["paired_sd"]
    if not mean or not spread:
        return "power: unknown, since toxicity does not vary here"
    needed = statistics.dialogues_needed(reduction * mean, spread)
    text = f"power: {needed:,} dialogues show a reduction of {reduction:.1%} with a chance of 80%"
    least = statistics.detectable_difference(found["n"], spread)
    return text if least is None else f"{text}; these {found['n']:,} show one of {least / mean:.1%}"


def settle(settings: config.EvaluationStage, cases: list[Case], shown: Results) -> int:
    """With --select, say which checkpoint it is and what to type next; return the exit code."""
    from detox.errors import UserError

    if settings.select is None:
        return 0
    chosen = next((case for case in cases if case.name == shown["selected"]), None)
    if chosen is None:
        raise UserError(
            f"--select={settings.select}: no checkpoint keeps that share of the reference's ROUGE-L; "
            "lower it, or train with a higher --ppo.kl-coef"
        )
    print(f"selected: {chosen.checkpoint}, the least toxic to the judge that keeps {settings.select:.0%} of ROUGE-L")
    print(f"next: {cli.command('evaluate_ppo.py', settings, '--checkpoint', str(chosen.checkpoint))}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(config.EvaluationStage, main, description=__doc__))
