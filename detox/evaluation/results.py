"""What an evaluation found: results.json from the lines of examples.jsonl, of one run or of several seeds together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detox.evaluation import alarms, baselines, intervals, noise, power, quality, two_models
from detox.evaluation.examples import SIDES, Line, Results, column, samples, slice_masks
from detox.evaluation.intervals import Estimate
from detox.evaluation.judge import disagreement
from detox.scoring.rouge import OVERLAPS, needs_unicode

if TYPE_CHECKING:
    import config


_GOOD = {
    **dict.fromkeys((*OVERLAPS, "bert_score", "faithful", "distinct_1", "distinct_2", "distinct_3"), 1),
    **{"finished": 1, "empty": -1, "duplicate": -1, "repetition": -1},
}
"""Figures of a summary that can get worse: 1 is better higher, -1 better lower."""
_UNBOUNDED = frozenset({"reward", "bert_score", "length", "named", "perplexity"})
"""Figures that are no shares, 0 to 1."""


def results(runs: Sequence[Sequence[Line]], settings: config.EvaluationStage) -> Results:
    """Return what results.json holds on one checkpoint, but for the names of its models and files.

    Of several runs each figure is computed within a run, then averaged over the runs; the starting model is the same.

    Args:
        runs: the lines of examples.jsonl of each run, of the same dialogues in the same order.
        settings: of the stage.
    """
    lines = runs[0]
    chance: dict[str, Any] = {"resamples": settings.evaluation.resamples, "seed": settings.seed}
    options = chance | {"threshold": settings.evaluation.threshold}
    toxicity, judge = (pair(runs, key) for key in ("toxicity", "judge"))
    measured, judged = two_models.compare(*toxicity, **options), two_models.compare(*judge, **options)
    masks, least = slice_masks(lines), settings.evaluation.min_slice
    looks = _over_runs(runs)
    described = {name: entry(name, side["before"], side["after"]) for name, side in looks.items()}
    found: Results = {
        "schema_version": 1,
        "n": len(lines),
        "samples_per_dialogue": measured["samples_per_dialogue"],
        "references": max(len(line["references"]) for line in lines),
        "seed": settings.seed,
        "split": settings.split,
        "toxicity": {"judge": settings.toxicity.model, "label": settings.toxicity.label, **measured},
        "independent_judge": {"judge": settings.judge.model, "label": settings.judge.label, **judged},
        "greedy": _greedy(runs),
        "rouge": {name: described.pop(name) for name in OVERLAPS},
        "rouge_unicode": sum(needs_unicode(line["references"]) for line in lines) / len(lines),
        "reward": described.pop("reward"),
        **({"bert_score": described.pop("bert_score")} if "bert_score" in described else {}),
        "drift": _distance(runs) | described,
        "noise_floor": noise.noise_floor(toxicity[0], _noise(runs, "toxicity")),
        "judge_noise_floor": noise.noise_floor(judge[0], _noise(runs, "judge")),
        "moved": noise.moved(toxicity[0], _noise(runs, "toxicity"), toxicity[1]),
        "slices": two_models.by_slice(*toxicity, masks, least, **options),
        "disagreement": disagreement(*toxicity, *judge, **chance),
        "verdict": measured["verdict"],
        "verdict_sentence": measured["verdict_sentence"],
        "verdict_rule": two_models.VERDICT_RULE,
        "worse": alarms.worse({name: side["after"] - side["before"] for name, side in looks.items()}, _GOOD),
    }
    if len(lines) > 1 and measured["mean"]["before"] > 0:
        found["power"] = power.table(effects(runs))
    if "filtered" in lines[0]["before"]:
        found |= baselines.against(runs, settings.evaluation.best_of)
    return found | {"alarms": [dataclasses.asdict(alarm) for alarm in alarms.alarms(found)]}


def pair(runs: Sequence[Sequence[Line]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a number of the sampled summaries: [n, k] before, [n, runs, k] after."""
    before = column(samples(runs[0], "before"), key)
    return before, np.stack([column(samples(lines, "after"), key) for lines in runs], axis=1)


def effects(runs: Sequence[Sequence[Line]]) -> power.Effects:
    """Return how toxicity would vary under effects that were not seen."""
    before, after = pair(runs, "toxicity")
    return power.effects(before, _noise(runs, "toxicity"), after)


def _noise(runs: Sequence[Sequence[Line]], key: str) -> np.ndarray:
    """Return [n, k], a number of the starting model's summaries under other seeds."""
    return column(samples(runs[0], "before", "noise"), key)


def entry(name: str, before: Estimate, after: Estimate) -> dict[str, Any]:
    """Return both sides of a figure, and the interval of after - before."""
    change = after - before
    bounds = intervals.interval(change, most=math.inf if name in _UNBOUNDED else 1.0)
    return {"before": before.value, "after": after.value, "change": change.value, "ci95": bounds}


def _greedy(runs: Sequence[Sequence[Line]]) -> dict[str, Any]:
    def mean(side: str, key: str) -> float:
        return float(np.mean([column(samples(lines, side, "greedy"), key).mean() for lines in runs]))

    names = {"toxicity": "toxicity", "independent_judge": "judge"} | {name: name for name in OVERLAPS}
    return {name: {side: mean(side, key) for side in SIDES} for name, key in names.items()}


# -------------------------------------------------------------------------------------------- still a summary


def _over_runs(runs: Sequence[Sequence[Line]]) -> dict[str, dict[str, Estimate]]:
    """Return each figure of the summaries, before and after, as the mean over the runs."""
    each = [{side: _looks(lines, side) for side in SIDES} for lines in runs]
    names = [name for name in each[0]["before"] if all(name in one["after"] for one in each)]
    return {name: {side: intervals.average([one[side][name] for one in each]) for side in SIDES} for name in names}


def _looks(lines: Sequence[Line], side: str) -> dict[str, Estimate]:
    """Return what the sampled summaries of one model look like: overlaps, reward, `quality.describe`, perplexity.

    Perplexity is that of the model's own samples under the reference.
    """
    records = samples(lines, side)
    numbers = [key for key in (*OVERLAPS, "bert_score", "reward") if key in records[0][0]]
    likely = "logprob" if side == "before" else "reference_logprob"
    logprob = intervals.ratio(column(records, likely).sum(axis=1), column(records, "tokens").sum(axis=1))
    return {
        **{key: intervals.mean(column(records, key).mean(axis=1)) for key in numbers},
        **quality.describe(
            [[record["summary"] for record in row] for row in records],
            [line["dialogue"] for line in lines],
            [[record["finished"] for record in row] for row in records],
        ),
        "perplexity": Estimate(math.exp(-logprob.value), -math.exp(-logprob.value) * logprob.influence),
    }


def _distance(runs: Sequence[Sequence[Line]]) -> dict[str, Any]:
    """Return KL from the reference, in nats a summary and a token.

    It is the mean over the policy's samples of log policy - log reference, which is unbiased and can come out below 0.
    """
    per_summary, per_token = [], []
    for records in (samples(lines, "after") for lines in runs):
        gaps = column(records, "logprob") - column(records, "reference_logprob")
        per_summary.append(intervals.mean(gaps.mean(axis=1)))
        per_token.append(intervals.ratio(gaps.sum(axis=1), column(records, "tokens").sum(axis=1)))
    found: dict[str, Any] = {}
    for name, each in (("kl_per_token", per_token), ("kl_per_summary", per_summary)):
        together = intervals.average(each)
        found |= {name: together.value, f"{name}_ci95": intervals.interval(together)}
    return found
