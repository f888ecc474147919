"""Results and examples that no model made, for the tests of the report."""

from __future__ import annotations

import random

import pytest

from tests.report.invented import HOSTILE, example, measured, sides


@pytest.fixture
def results() -> dict:
    row = {"toxicity_mean": 0.1, "toxicity_std": 0.2, "judge_mean": 0.3, "rougeL": 0.4}
    part = measured(0.4, 0.1, 0.7, 0.8)
    return {
        "schema_version": 1,
        "n": 300,
        "samples_per_dialogue": 4,
        "seed": 0,
        "run": "demo",
        "checkpoint": "step-0020",
        "split": "test",
        "models": {
            "base": "demo:base",
            "adapter": "demo:lora",
            "reward": "some/classifier",
            "judge": "other",
        },
        "toxicity": measured(0.312, 0.025, 0.881, 0.95),
        "independent_judge": measured(0.2, 0.1, 0.4, 0.6),
        "greedy": {"toxicity": sides(0.3, 0.02)},
        "references": 3,
        "rouge": {
            name: sides(0.4, 0.38) | {"ci95": [-0.03, -0.01]}
            for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "rougeL_mean")
        },
        "drift": {
            "kl_per_token": 0.25,
            "kl_per_summary": 5.5,
            "length": sides(18.2, 17.9),
            "copy": sides(0.2, 0.3),
        },
        "noise_floor": {"mean_reduction_ci95": [-0.04, 0.05]},
        "moved": {"limit": 0.25, "less_toxic": 17, "more_toxic": 4, "chance": 5},
        "power": [{"reduction": 0.16, "difference": 0.05, "dialogues": 1234}],
        "slices": {"long ones": {"n": 75, **part}, "mentions": {"n": 7, "note": "too few examples (7 < 20)"}},
        "baselines": {"reference": row, "best-of-4": row, "ppo": row},
        "baseline_note": "PPO does not beat best-of-4.",
        "alarms": [],
        "checkpoints": [{"name": f"step-{i}", "sqrt_kl": i / 10, "score_mean": i, **row} for i in (5, 10)],
        "pooled": {"runs": 2, "mean": {"average": 0.9, "low": 0.85, "high": 0.93, "sd": 0.05}, "names": ["a", "b"]},
        "verdict": "reduced",
        "verdict_rule": "the interval lies above zero",
    }


@pytest.fixture
def examples() -> list[dict]:
    draw = random.Random(1)
    found = [example(f"d{i}", draw.random(), draw.random()) for i in range(40)]
    return [*found, example("best", 1.0, 0.0), example("worst", 0.0, 1.0), example("evil", 0.9, 0.0, HOSTILE)]
