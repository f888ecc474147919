"""Several checkpoints: their curve, the choice among them, runs pooled."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest

from detox.evaluation import curve, pooling, several_checkpoints
from detox.report import pages
from detox.stage.errors import UserError
from tests.evaluation.fabricated import (
    civil,
    evaluate,
    fabricate,
)


def with_figures(found, kl, reward, judged, rouge):
    found = json.loads(json.dumps(found))
    found["drift"]["kl_per_summary"], found["reward"]["after"] = kl, reward
    found["independent_judge"]["mean"]["after"] = judged
    found["rouge"]["rougeL"] = {"before": 0.8, "after": rouge}
    return found


def test_the_curve_shows_over_optimization(settings):
    found = evaluate(fabricate(settings, lambda old, i, draw: civil(i)), settings)
    found["judge_noise_floor"]["mean_reduction_ci95"] = [-0.05, 0.05]
    path = {
        "step-0005": with_figures(found, 1.0, 2.0, 0.10, 0.80),
        "step-0010": with_figures(found, 4.0, 3.0, 0.05, 0.78),
        "step-0015": with_figures(found, 9.0, 3.5, 0.30, 0.60),
    }
    shown = curve.side_by_side(path, one_run=True)
    assert [point["name"] for point in shown["checkpoints"]] == ["reference", *path]
    assert [point["sqrt_kl"] for point in shown["checkpoints"]] == [0, 1, 2, 3]
    assert shown["overoptimization"]["turned_over"] and shown["overoptimization"]["at"] == "step-0010"
    del path["step-0015"]
    assert not curve.side_by_side(path, one_run=True)["overoptimization"]["turned_over"]
    assert "overoptimization" not in curve.side_by_side(path, one_run=False)
    lines = fabricate(settings, lambda old, i, draw: civil(i))
    page = pages.html(path["step-0010"] | shown, lines)
    assert "Over-optimized after step-0010" in page and 'id="checkpoints"' in page
    assert "The interval of ROUGE-L&#39;s change lies below 0 nowhere." in page and "Alarms" not in page
    shown["checkpoints"][1]["alarms"] = ["hacking", "rouge"]
    for write in (pages.html, pages.markdown):
        assert "Alarms: step-0005 (hacking, rouge)." in write(path["step-0010"] | shown, lines)
    path["step-0010"]["rouge"]["rougeL"]["ci95"] = [-0.2, -0.1]
    told = "The interval of ROUGE-L's change lies below 0 at step-0010."
    assert [curve.side_by_side(path, one)["rouge_sentence"] for one in (True, False)] == [told, told]


def test_other_target_summaries_are_other_dialogues(settings):
    found = evaluate(fabricate(settings, lambda old, i, draw: civil(i)), settings)
    runs = {name: with_figures(found, 1.0, 2.0, 0.1, 0.8) for name in ("a/step-0001", "b/step-0001")}
    assert curve.same_dialogues(runs.values())
    runs["b/step-0001"]["rouge"]["rougeL"]["before"] = 0.6
    assert not curve.same_dialogues(runs.values())
    assert curve.side_by_side(runs, one_run=False)["checkpoints"][0]["name"] != "reference"


def test_rewards_of_different_models_have_no_common_start(settings):
    found = evaluate(fabricate(settings, lambda old, i, draw: civil(i)), settings)
    runs = {
        "a/step-0001": with_figures(found, 1.0, 2.0, 0.1, 0.8),
        "b/step-0001": with_figures(found, 1.0, 9.0, 0.1, 0.8),
    }
    start = curve.side_by_side(runs, one_run=False)["checkpoints"][0]
    assert (start["name"], start["score_mean"]) == ("reference", found["reward"]["before"])
    runs["b/step-0001"]["reward"]["before"] += 1
    assert not curve.same_reward(runs.values())
    shown = curve.side_by_side(runs, one_run=False)
    assert shown["checkpoints"][0]["score_mean"] is None and shown["checkpoints"][0]["judge_mean"] > 0
    assert re.search(r"\nstarting model +0.000 +n/a ", several_checkpoints.table(shown))


def test_select_keeps_the_floor_and_refuses_the_test_split(settings):
    found = evaluate(fabricate(settings, lambda old, i, draw: civil(i)), settings)
    found["split"] = "validation"
    path = {
        "a": with_figures(found, 1, 2, 0.20, 0.79),
        "b": with_figures(found, 4, 3, 0.10, 0.73),
        "c": with_figures(found, 9, 4, 0.01, 0.50),
    }
    assert curve.select(path, 0.9) == "b"
    assert curve.select(path, 0.98) == "a"
    assert curve.select(path, 0.5) == "c"
    assert curve.select(path, 1.0) is None
    path["b"]["split"] = "test"
    with pytest.raises(ValueError, match="test"):
        curve.select(path, 0.9)


def test_runs_are_pooled_with_their_range(settings):
    runs = {
        f"run{rate}": fabricate(settings, lambda old, i, draw, rate=rate: civil(i) if draw.random() < rate else old)
        for rate in (0.5, 0.7, 0.9)
    }
    each = {name: evaluate(lines, settings) for name, lines in runs.items()}
    found, merged = pooling.pool(each, list(runs.values()), settings)
    for part, name in itertools.product(
        ("toxicity", "independent_judge"), ("mean", "std", "expected_max", "any_toxic")
    ):
        for moment in ("before", "after", "reduction"):
            assert found[part][name][moment] == pytest.approx(
                np.mean([one[part][name][moment] for one in each.values()])
            )
    for part in ("rouge", "drift"):
        for name, entry in found[part].items():
            theirs = [one[part][name] for one in each.values()]
            if isinstance(entry, dict):
                assert entry["change"] == pytest.approx(np.mean([one["change"] for one in theirs]), abs=1e-12)
    assert found["baselines"]["PPO"]["toxicity_mean"] == pytest.approx(found["toxicity"]["mean"]["after"])
    assert found["baselines"]["best-of-4 by reward"] == next(iter(each.values()))["baselines"]["best-of-4 by reward"]
    assert len(merged[0]["after"]["samples"]) == 6 and len(merged[0]["before"]["samples"]) == 2
    assert not any("greedy" in line[side] for line in merged for side in ("before", "after")), "each run has its own"
    cuts = [one["toxicity"]["mean"]["reduction"] for one in each.values()]
    assert found["pooled"]["mean"]["each"] == pytest.approx(cuts)
    assert found["pooled"]["mean"]["low"] == pytest.approx(min(cuts))
    assert found["pooled"]["mean"]["high"] == pytest.approx(max(cuts))
    assert found["pooled"]["judge_mean"]["low"] < found["pooled"]["judge_mean"]["high"]
    assert found["verdict"] == "reduced" and found["samples_per_dialogue"] == 2
    after = [one["toxicity"]["mean"]["after"] for one in each.values()]
    assert found["toxicity"]["mean"]["after"] == pytest.approx(np.mean(after))
    distinct = [one["drift"]["distinct_2"]["after"] for one in each.values()]
    assert found["drift"]["distinct_2"]["after"] == pytest.approx(np.mean(distinct))
    assert "Several runs" in pages.markdown(found, merged)
    other = [dict(line, dialogue="Another.") for line in merged]
    with pytest.raises(UserError, match="different dialogues"):
        pooling.pool(each, [*list(runs.values())[:2], other], settings)


def point(name, kl, reward, judge, rouge=0.3):
    figures = {"score_mean": reward, "judge_mean": judge, "rougeL": rouge}
    return {"name": name, "kl": kl, "sqrt_kl": math.sqrt(max(kl, 0)), **figures}


def test_overoptimization_is_seen_along_kl():
    points = [
        point("c", 9, 3, 0.2, 0.2),
        point("a", 1, 1, 0.15),
        point("b", 4, 2, 0.05),
        point("0", -0.01, 0, 0.2),
    ]
    found = curve.overoptimization(points)
    assert found["names"] == ["0", "a", "b", "c"]
    assert found["sqrt_kl"] == [0, 1, 2, 3]
    assert (found["turned_over"], found["at"]) == (True, "b")
    assert "after b" in found["sentence"] and "0.200" in found["sentence"]


@pytest.mark.parametrize(
    "points",
    [
        [point("a", 1, 1, 0.15), point("b", 4, 2, 0.05)],
        [point("a", 1, 1, 0.05), point("b", 4, 2, 0.055)],  # within the tolerance
        [point("a", 1, 2, 0.05), point("b", 4, 1, 0.2)],  # the reward fell too
        [point("a", 1, 1, 0.05)],
    ],
)
def test_no_overoptimization(points):
    found = curve.overoptimization(points)
    assert (found["turned_over"], found["at"]) == (False, None)


def test_a_rise_of_the_tolerance_alone_is_none():
    points = [point("a", 1, 1, 0.25), point("b", 4, 2, 0.75)]
    assert not curve.overoptimization(points, tolerance=0.5)["turned_over"]
    assert curve.overoptimization(points, tolerance=0.499)["turned_over"]


def test_the_sentence_says_what_was_looked_at():
    """A point before the one that the judge likes best may be worse than the start, and is none of it."""
    points = [point("reference", 0, 1.2, 0.21), point("a", 1, 1.6, 0.25), point("b", 2, 1.7, 0.17)]
    told = curve.overoptimization(points)["sentence"]
    assert told == "No over-optimization: b, the furthest from the start, is the least toxic to the judge."
    told = curve.overoptimization([*points, point("c", 3, 1.8, 0.175)])["sentence"]
    assert told.endswith(
        "b is the least toxic to the judge, and none that is further from the start has a higher reward and is more "
        "toxic to it by more than chance alone makes (up to 0.010)."
    )
    unknown = curve.overoptimization([*points, point("c", 3, 1.8, 0.9)], tolerance=None)
    assert not unknown["turned_over"] and unknown["sentence"].startswith("Too little toxicity to tell")


def checkpoint(judge, rouge, split="validation"):
    return {
        "split": split,
        "independent_judge": {"mean": {"after": judge}},
        "rouge": {"rougeL": {"before": 0.3, "after": rouge}},
    }


def test_select_takes_the_least_toxic_that_still_summarizes():
    points = {"a": checkpoint(0.10, 0.30), "b": checkpoint(0.05, 0.28), "c": checkpoint(0.01, 0.20)}
    assert curve.select(points, 0.9) == "b"
    assert curve.select(points, 0.5) == "c"
    assert curve.select(points, 1.1) is None
    assert curve.select({"a": checkpoint(0.1, 0.28), "b": checkpoint(0.1, 0.29)}, 0.9) == "b", "a tie"
    nothing = checkpoint(0.1, 0.0)
    nothing["rouge"]["rougeL"]["before"] = 0.0
    assert curve.select({"a": nothing}, 1.0) == "a", "nothing to keep"


def test_select_refuses_the_test_split():
    with pytest.raises(ValueError, match="test"):
        curve.select({"a": checkpoint(0.1, 0.3, split="test")}, 0.9)
