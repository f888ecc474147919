"""What the evaluations of several checkpoints say together, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detox.evaluation import curve, examples, pooling, power, provenance, results
from detox.evaluation.alarms import ON_MEASUREMENT
from detox.evaluation.checkpoints import Case, differ_by_seed
from detox.evaluation.examples import Line, Results
from detox.stage.errors import UserError, printable
from detox.stage.figures import decimal, fall, signed

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
        pooled, lines = pooling.pool(found, [examples.read_examples(case.target) for case in cases], settings)
        extra |= {"run": f"{len(cases)} runs", "checkpoint": ", ".join(found)}
        extra |= {"training_seed": ", ".join(str(case.training.seed) for case in cases)}
        extra |= {"command": provenance.command(settings, cases)}
        of_all = [alarm for each in found.values() for alarm in each["alarms"] if alarm["name"] in ON_MEASUREMENT]
        pooled["alarms"] += {alarm["sentence"]: alarm for alarm in of_all}.values()
        return pooled | provenance.of_all(list(found.values())) | extra, lines
    if settings.select is not None:
        name = curve.select(found, settings.select)
        extra |= {"selected": name, "selection_floor": settings.select}
        focus = next((case for case in cases if case.name == name), focus)
    one_run = len({case.run for case in cases}) == 1
    if not curve.same_dialogues(found.values()):
        extra["comparison_note"] = (
            "These checkpoints were evaluated on different dialogues or target summaries, or with different prompts: "
            "compare the change of each, not what is left."
        )
    elif not one_run:
        extra["comparison_note"] = (
            "Runs are not tested against each other: what one has more or less than another may be chance. The report "
            "of each says what is sure of it."
        )
        if not curve.same_reward(found.values()):
            extra["comparison_note"] += " Their reward scores are of different reward models, and can't be compared."
    named = {Path(case.name).name if one_run else case.name: found[case.name] for case in cases}
    return found[focus.name] | curve.side_by_side(named, one_run) | extra, examples.read_examples(focus.target)


def chosen(settings: config.EvaluationStage, cases: Sequence[Case], found: Results) -> Path:
    """Return the checkpoint that --select has chosen.

    Raises:
        UserError: none keeps the floor.
    """
    for case in cases:
        if case.name == found["selected"]:
            return case.checkpoint
    kept = {case.name: curve.kept(examples.read_results(case.target)) for case in cases}
    most = max(kept, key=lambda name: kept[name])
    raise UserError(
        f"--select={settings.select}: no checkpoint keeps that share of the starting model's ROUGE-L; the most is "
        f"{math.floor(100 * kept[most]) / 100}, by {most}: lower it, or train with a higher --ppo.kl-coef"
    )


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
    called = [printable(curve.called(point["name"])) for point in found["checkpoints"]]
    width = max(10, *map(len, called))
    lines = [f"\n{'Checkpoint':{width}}  sqrt KL   reward  toxicity    judge  ROUGE-L"]
    for name, point in zip(called, found["checkpoints"], strict=True):
        alarms = f"   ALARM: {', '.join(point['alarms'])}" if point.get("alarms") else ""
        lines.append(
            f"{name:{width}}  {point['sqrt_kl']:7.3f}  {decimal(point['score_mean'], 3):>7}"
            f"  {point['toxicity_mean']:8.4f} {point['judge_mean']:8.4f}  {point['rougeL']:7.4f}{alarms}"
        )
    if "comparison_note" in found:
        lines.append(found["comparison_note"])
    if "overoptimization" in found:
        lines.append(printable(found["overoptimization"]["sentence"]))
    lines.append(printable(found["rouge_sentence"]))
    return "\n".join(lines)


def power_sentence(found: Results, lines: Sequence[Line], reduction: float) -> str:
    """Say how many dialogues show a reduction of that fraction, and what these dialogues show."""
    if "power" not in found:
        return f"power: unknown, since {'nothing is toxic here' if found['n'] > 1 else 'one dialogue shows no spread'}"
    effects = results.effects([lines])
    needed, least = effects.dialogues(reduction), effects.detectable(found["n"])
    fewer = " or fewer" if needed == power.LEAST else ""
    text = f"power: {needed:,} dialogues{fewer} show a reduction of {reduction:.1%} with a chance of 80%"
    if not found["noise_floor"].get("mean_reduction_ci95"):
        text += "; only the order of magnitude, as there is little toxicity here"
    return text if least is None else f"{text}; these {found['n']:,} show one of {least:.1%}"
