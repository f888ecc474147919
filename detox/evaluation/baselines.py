"""What PPO has to beat: the reference, its best of some samples by reward, and a filter of bad words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detox.evaluation.examples import Line, Records, column, samples


def best_of(lines: Sequence[Line], count: int) -> Records:
    """Return, for each dialogue, the highest reward among the reference's first `count` samples."""
    pools = [line["before"]["samples"] + line["before"]["noise"] for line in lines]
    return [[max(pool[:count], key=lambda record: record["reward"])] for pool in pools]


def against(runs: Sequence[Sequence[Line]], count: int) -> dict[str, Any]:
    """Return the table of all of them, and a sentence where PPO does not beat the second."""
    rival, lines = f"best-of-{count} by reward", runs[0]
    chosen: Mapping[str, Sequence[Records]] = {
        "reference": [samples(lines, "before")],
        rival: [best_of(lines, count)],
        "bad-word filter": [samples(lines, "before", "filtered")],
        "PPO": [samples(one, "after") for one in runs],
    }
    table = {
        name: {
            "toxicity_mean": float(np.mean([column(records, "toxicity") for records in each])),
            "toxicity_std": float(np.mean([column(records, "toxicity").std() for records in each])),
            "judge_mean": float(np.mean([column(records, "judge") for records in each])),
            "rougeL": float(np.mean([column(records, "rougeL") for records in each])),
            "length": float(np.mean([len(r["summary"].split()) for records in each for row in records for r in row])),
        }
        for name, each in chosen.items()
    }
    ours, its = table["PPO"]["toxicity_mean"], table[rival]["toxicity_mean"]
    if ours < its:
        return {"baselines": table}
    note = f"PPO does not beat {rival}: mean toxicity {ours:.4f} against {its:.4f}, for {count} summaries"
    return {"baselines": table, "baseline_note": f"{note} a dialogue and no training."}
