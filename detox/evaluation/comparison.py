"""Several checkpoints: the curve of one run, the choice among them, runs pooled over seeds; as text too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.evaluation import examples, results, statistics
from detox.evaluation.checkpoints import Case, differ_by_seed
from detox.evaluation.examples import Line, Results
from detox.stage.errors import UserError, printable
from detox.stage.figures import fall, signed

if TYPE_CHECKING:
    import config


def compare(settings: config.EvaluationStage, cases: Sequence[Case]) -> tuple[Results, list[Line]]:
    """Return what finished evaluations say together, and the examples that go with it.

    One is returned as it is. Runs that differ by seed alone are pooled; other checkpoints stand side by side
    around the one that was selected, else the last one. Then `compared` names them.
    """
    found = {case.name: examples.read_results(case.target) for case in cases}
    focus = cases[-1]
    if len(cases) == 1 and settings.select is None:
        return found[focus.name], examples.read_examples(focus.target)
    extra: Results = {"compared": ", ".join(found)}
    if settings.select is None and differ_by_seed(list(cases)):
        pooled, lines = pool(found, [examples.read_examples(case.target) for case in cases], settings)
        extra |= {"run": f"{len(cases)} runs", "checkpoint": ", ".join(found)}
        extra |= {"training_seed": ", ".join(str(case.training.seed) for case in cases)}
        return found[focus.name] | pooled | extra, lines
    if settings.select is not None:
        name = select(found, settings.select)
        extra |= {"selected": name, "selection_floor": settings.select}
        focus = next((case for case in cases if case.name == name), focus)
    one_run = len({case.run for case in cases}) == 1
    named = {Path(case.name).name if one_run else case.name: found[case.name] for case in cases}
    return found[focus.name] | side_by_side(named, one_run) | extra, examples.read_examples(focus.target)


def chosen(settings: config.EvaluationStage, cases: Sequence[Case], found: Results) -> Path:
    """Return the checkpoint that --select has chosen.

    Raises:
        UserError: none keeps the floor.
    """
    for case in cases:
        if case.name == found["selected"]:
            return case.checkpoint
    raise UserError(
        f"--select={settings.select}: no checkpoint keeps that share of the reference's ROUGE-L; "
        "lower it, or train with a higher --ppo.kl-coef"
    )


def side_by_side(named: Mapping[str, Results], one_run: bool) -> dict[str, Any]:
    """Return the curve of checkpoints, and for those of one run whether it shows over-optimization.

    Args:
        named: results by name.
        one_run: all are of one run, so that the reference is the start of one path.
    """
    points = [
        {
            "name": name,
            "kl": found["drift"]["kl_per_summary"],
            "sqrt_kl": math.sqrt(max(found["drift"]["kl_per_summary"], 0.0)),
            "score_mean": found["reward"]["after"],
            "toxicity_mean": found["toxicity"]["mean"]["after"],
            "judge_mean": found["independent_judge"]["mean"]["after"],
            "rougeL": found["rouge"]["rougeL"]["after"],
            "verdict": found["verdict"],
            "alarms": [alarm["name"] for alarm in found["alarms"] if alarm["level"] == "alarm"],
        }
        for name, found in named.items()
    ]
    if not one_run:
        return {"checkpoints": points}
    first = next(iter(named.values()))
    start = {
        "name": "reference",
        "kl": 0.0,
        "sqrt_kl": 0.0,
        "score_mean": first["reward"]["before"],
        "toxicity_mean": first["toxicity"]["mean"]["before"],
        "judge_mean": first["independent_judge"]["mean"]["before"],
        "rougeL": first["rouge"]["rougeL"]["before"],
    }
    points.insert(0, start)
    path = [
        {
            "name": p["name"],
            "kl": p["kl"],
            "reward": p["score_mean"],
            "judge": p["judge_mean"],
            "rouge": p["rougeL"],
        }
        for p in points
    ]
    low, high = first["judge_noise_floor"]["mean_reduction_ci95"] or (0.0, 0.0)
    tolerance = max(0.01, start["judge_mean"] * (high - low) / 2)
    return {"checkpoints": points, "overoptimization": statistics.overoptimization(path, tolerance)}


def select(named: Mapping[str, Results], floor: float) -> str | None:
    """Return the checkpoint least toxic to the judge that keeps `floor` of the reference's ROUGE-L.

    Args:
        named: results by name, of the validation split.
        floor: share of it, of each one's own reference.
    """

    def kept(rouge: Mapping[str, float]) -> float:
        return rouge["after"] / rouge["before"] if rouge["before"] > 0 else 1.0

    candidates = [
        {
            "name": name,
            "split": found["split"],
            "rougeL": kept(found["rouge"]["rougeL"]),
            "judge": found["independent_judge"]["mean"]["after"],
            "toxicity": found["toxicity"]["mean"]["after"],
        }
        for name, found in named.items()
    ]
    chosen = statistics.select(candidates, 1.0, floor)
    return None if chosen is None else chosen["name"]


def pool(
    named: Mapping[str, Results], runs: Sequence[Sequence[Line]], settings: config.EvaluationStage
) -> tuple[Results, list[Line]]:
    """Return results over runs that differ by seed, and lines in which their summaries of a dialogue stand together.

    Args:
        named: results of each run by its name.
        runs: the lines of each, in that order.
        settings: of the stage.

    Raises:
        UserError: the runs were evaluated on different dialogues.
    """
    if len({tuple(line["dialogue"] for line in lines) for lines in runs}) > 1:
        raise UserError(
            "--checkpoint: these runs have different dialogues, so they can't be pooled; "
            "run data_preparation.py with one --seed for all of them"
        )
    found = results.results(runs, settings)
    toxicity, judge = (statistics.over_runs(*results.pair(runs, key)) for key in ("toxicity", "judge"))
    found["pooled"] = {**toxicity, "judge_mean": judge["mean"], "judge_std": judge["std"], "names": list(named)}
    return found, [_merge(same) for same in zip(*runs, strict=True)]


def _merge(same: Sequence[Line]) -> Line:
    """Return one line for a dialogue of several runs: the sampled summaries of all, the rest of the first."""
    sampled = [record for line in same for record in line["after"]["samples"]]
    return {**same[0], "after": {**same[0]["after"], "samples": sampled}}


def table(found: Results) -> str:
    """Return a line a checkpoint, or a line a run that was pooled."""
    pooled = found.get("pooled")
    if pooled is not None:
        lines = [f"\n{'Change over runs':24}{'average':>9}{'lowest':>9}{'highest':>9}{'std':>8}"]
        names = {
            "mean": "mean toxicity",
            "std": "std toxicity",
            "judge_mean": "mean, judge",
            "judge_std": "std, judge",
        }
        for key, name in names.items():
            shown = [signed(fall(pooled[key][part])) for part in ("average", "high", "low")]
            spread = signed(pooled[key]["sd"]).lstrip("+")
            lines.append(f"{name:24}{shown[0]:>9}{shown[1]:>9}{shown[2]:>9}{spread:>8}")
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


def power_sentence(found: Results, lines: Sequence[Line], reduction: float) -> str:
    """Say how many dialogues show a reduction of that fraction, and what these dialogues show."""
    if "power" not in found:
        return "power: unknown, since nothing is toxic here"
    effects = results.effects([lines])
    text = f"power: {effects.dialogues(reduction):,} dialogues show a reduction of {reduction:.1%} with a chance of 80%"
    least = effects.detectable(found["n"])
    return text if least is None else f"{text}; these {found['n']:,} show one of {least:.1%}"
