"""Checkpoints side by side along the distance from the start: over-optimization, and which of them to take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from detox.evaluation.alarms import ON_MEASUREMENT
from detox.evaluation.examples import Results
from detox.stage.figures import interval, lookup

Point = dict[str, Any]
"""Of a curve: `name`, `kl` (nats a summary from the start) and `sqrt_kl`, `score_mean` (higher is better),
`toxicity_mean`, `judge_mean` (by the independent judge; lower is better), `rougeL`."""

_START = "reference"
"""Name of the first point of a run's curve."""


def called(name: str) -> str:
    """Return what a point is called where people read it."""
    return "starting model" if name == _START else name


def same_dialogues(found: Collection[Results]) -> bool:
    """Return whether evaluations are of the same dialogues, as far as these and the starting model's figures tell.

    ROUGE-L tells of their target summaries.
    """
    return len({(one["n"], one["toxicity"]["mean"]["before"], one["rouge"]["rougeL"]["before"]) for one in found}) == 1


def same_reward(found: Collection[Results]) -> bool:
    """Return whether evaluations of the same dialogues score summaries by the same reward model, likewise."""
    return len({one["reward"]["before"] for one in found}) == 1


def side_by_side(named: Mapping[str, Results], one_run: bool) -> dict[str, Any]:
    """Return the curve of checkpoints, where ROUGE-L fell, and for those of one run whether it shows over-optimization.

    Args:
        named: results by name.
        one_run: all are of one run, so that the reference is the start of one path.
    """
    points = [
        _point(name, found, "after", found["drift"]["kl_per_summary"])
        | {
            "verdict": found["verdict"],
            "alarms": [a["name"] for a in found["alarms"] if a["level"] == "alarm" or a["name"] in ON_MEASUREMENT],
        }
        for name, found in named.items()
    ]
    first = next(iter(named.values()))
    start = _point(_START, first, "before", 0.0)
    if one_run or same_dialogues(named.values()):
        has_common_score = one_run or same_reward(named.values())
        points.insert(0, start if has_common_score else start | {"score_mean": None})
    bounds = {name: interval(lookup(found, "rouge", "rougeL", "ci95")) for name, found in named.items()}
    lower = [name for name, its in bounds.items() if its is not None and its[1] < 0]
    where = f"at {', '.join(lower)}" if lower else "nowhere"
    shown = {"checkpoints": points, "rouge_sentence": f"The interval of ROUGE-L's change lies below 0 {where}."}
    if not one_run:
        return shown
    floor = interval(first["judge_noise_floor"]["mean_reduction_ci95"])
    tolerance = None if floor is None else max(0.01, start["judge_mean"] * (floor[1] - floor[0]) / 2)
    return shown | {"overoptimization": overoptimization(points, tolerance)}


def _point(name: str, found: Results, side: str, kl: float) -> Point:
    return {
        "name": name,
        "kl": kl,
        "sqrt_kl": math.sqrt(max(kl, 0.0)),
        "score_mean": found["reward"][side],
        "toxicity_mean": found["toxicity"]["mean"][side],
        "judge_mean": found["independent_judge"]["mean"][side],
        "rougeL": found["rouge"]["rougeL"][side],
    }


def overoptimization(points: Sequence[Point], tolerance: float | None = 0.01) -> dict[str, Any]:
    """Say whether the judge turned over along sqrt(KL) while the reward still rose.

    Args:
        points: of one run, one or more.
        tolerance: rise of the judge's toxicity that counts (take half the width of its noise floor); None if unknown.

    Returns:
        Series in order of KL: `names`, `sqrt_kl` (a negative estimate counts as 0), `reward`, `judge`,
        `rouge`; `turned_over`: a checkpoint further out has a higher reward than the one with the judge's
        lowest toxicity, and the judge's toxicity is up by more than the tolerance; `at`: that turning point's
        name (None unless turned over); `sentence`.

    Source: Gao et al. 2022, arXiv 2210.10760: the gold reward turns over in d = sqrt(KL).
    """
    ordered = sorted(points, key=lambda point: point["kl"])
    best = min(range(len(ordered)), key=lambda i: ordered[i]["judge_mean"])
    turn = ordered[best]
    equal = [_the(point) for point in ordered if f"{point['judge_mean']:.4f}" == f"{turn['judge_mean']:.4f}"]
    least = math.inf if tolerance is None else turn["judge_mean"] + tolerance
    worse = [point for point in ordered[best + 1 :] if point["judge_mean"] > least]
    past = [point for point in worse if point["score_mean"] > turn["score_mean"]]
    if tolerance is None:
        sentence = "Too little toxicity to tell whether training went too far: how much is chance is unknown."
    elif past:
        last = past[-1]
        sentence = (
            f"Over-optimized after {_the(turn)}: from there to {last['name']} the reward rose from "
            f"{turn['score_mean']:.2f} to {last['score_mean']:.2f}, the judge's toxicity from "
            f"{turn['judge_mean']:.3f} to {last['judge_mean']:.3f}, and ROUGE went from {turn['rougeL']:.3f} to "
            f"{last['rougeL']:.3f}."
        )
    elif max(point["score_mean"] for point in ordered) <= ordered[0]["score_mean"]:
        sentence = f"The reward is nowhere above that of {_the(ordered[0])}."
    elif turn is ordered[-1] and len(equal) == 1:
        sentence = f"No over-optimization: {_the(turn)}, the furthest from the start, is the least toxic to the judge."
    else:
        sentence = (
            f"No over-optimization: {' and '.join(equal)} {'is' if len(equal) == 1 else 'are'} the least toxic to the "
            "judge, and none that is further from the start has a higher reward and is more toxic to it by more than "
            f"chance alone makes (up to {tolerance:.3f})."
        )
    series = {"sqrt_kl": "sqrt_kl", "reward": "score_mean", "judge": "judge_mean", "rouge": "rougeL"}
    return {
        "names": [point["name"] for point in ordered],
        **{name: [point[key] for point in ordered] for name, key in series.items()},
        "turned_over": bool(past),
        "at": turn["name"] if past else None,
        "sentence": sentence,
    }


def _the(point: Point) -> str:
    return f"the {called(_START)}" if point["name"] == _START else str(point["name"])


def select(named: Mapping[str, Results], floor: float) -> str | None:
    """Return the checkpoint least toxic to the judge that keeps `floor` of the reference's ROUGE-L, or None.

    By the judge, since by the reward model the most over-optimized checkpoint would win; ties go to the higher ROUGE-L.
    The figures to report are then those of the test split, which had no part in the choice.

    Args:
        named: results by name, of the validation split.
        floor: share of it, of each one's own reference.

    Raises:
        ValueError: results of another split.
    """
    shares = {}
    for name, found in named.items():
        if found["split"] != "validation":
            raise ValueError(f"{name} was measured on {found['split']}, not validation")
        shares[name] = kept(found)

    def order(name: str) -> tuple[float, float]:
        return named[name]["independent_judge"]["mean"]["after"], -shares[name]

    return min((name for name in named if shares[name] >= floor), key=order, default=None)


def kept(found: Results) -> float:
    """Return what a checkpoint has of the starting model's ROUGE-L, as a share."""
    rouge = found["rouge"]["rougeL"]
    return rouge["after"] / rouge["before"] if rouge["before"] > 0 else 1.0
