"""Runs that differ by seed alone, taken together: their figures, how far they lie apart, their examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from detox.evaluation import results, two_models
from detox.evaluation.examples import Line, Results
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


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
            "--checkpoint: these runs have different dialogues, so they can't be pooled; evaluate them one at a time, "
            "or prepare the same data for all"
        )
    found = results.results(runs, settings)
    toxicity, judge = (two_models.over_runs(*results.pair(runs, key)) for key in ("toxicity", "judge"))
    found["pooled"] = {**toxicity, "judge_mean": judge["mean"], "judge_std": judge["std"], "names": list(named)}
    return found, [_merge(same) for same in zip(*runs, strict=True)]


def _merge(same: Sequence[Line]) -> Line:
    """Return one line for a dialogue of several runs: the sampled summaries of all. A greedy one is each run's own."""
    sampled = [record for line in same for record in line["after"]["samples"]]
    before = {name: records for name, records in same[0]["before"].items() if name != "greedy"}
    return {**same[0], "before": before, "after": {"samples": sampled}}
