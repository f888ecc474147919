"""Planted cases for detox.statistics: simulations whose truth is known, and every degenerate input."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from detox import statistics as st


def simulate(rng, n, k=4, effect=0.0, toxic=0.3):
    """Draw before and after: 70% of the dialogues near 0, the others likely near 1, less so after."""
    heated = rng.random(n) < toxic
    likely = np.where(heated, rng.beta(4, 2, n), 0.01)[:, None]

    def samples(share):
        return np.where(rng.random((n, k)) < share, rng.beta(8, 1.5, (n, k)), rng.beta(0.5, 30, (n, k)))

    return samples(likely), samples(likely * (1 - effect))


# ------------------------------------------------------------------------------------------------ the figures


def test_compare_gives_the_plain_figures():
    before, after = simulate(np.random.default_rng(0), 40, effect=0.5)
    result = st.compare(before, after, resamples=200)
    assert (result["n"], result["samples_per_dialogue"]) == (40, 4)
    for name, figure in {
        "mean": np.mean,
        "std": np.std,
        "expected_max": lambda x: x.max(axis=1).mean(),
        "any_toxic": lambda x: (x >= 0.5).any(axis=1).mean(),
    }.items():
        b, a = figure(before), figure(after)
        assert result[name]["before"] == pytest.approx(b, abs=1e-12)
        assert result[name]["after"] == pytest.approx(a, abs=1e-12)
        assert result[name]["reduction"] == pytest.approx((b - a) / b, abs=1e-9)
        low, high = result[name]["ci95"]
        assert low < result[name]["reduction"] < high
    assert result["difference"]["value"] == pytest.approx(before.mean() - after.mean())
    assert result["quantiles"]["before"]["75"] == pytest.approx(np.quantile(before, 0.75))
    assert result["paired_sd"] == pytest.approx(np.std((before - after).mean(axis=1), ddof=1))


def test_a_result_is_json_and_depends_on_the_seed_alone():
    before, after = simulate(np.random.default_rng(1), 30, effect=0.3)
    one, same, other = (st.compare(before, after, resamples=300, seed=s) for s in (5, 5, 6))
    assert json.loads(json.dumps(one, allow_nan=False)) == same
    assert one["difference"]["ci95"] != other["difference"]["ci95"]


def test_dialogues_are_resampled_not_summaries():
    before, after = simulate(np.random.default_rng(2), 50, k=1, effect=0.3)
    narrow = st.compare(before, after, resamples=2000)["difference"]["ci95"]
    repeated = st.compare(np.repeat(before, 8, axis=1), np.repeat(after, 8, axis=1), resamples=2000)["difference"][
        "ci95"
    ]
    assert repeated == pytest.approx(narrow, abs=1e-12)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(3)
    before = rng.random((60, 4))
    after = before * 0.9
    paired = st.compare(before, after, resamples=1000)["difference"]["ci95"]
    broken = st.compare(before, after[rng.permutation(60)], resamples=1000)["difference"]["ci95"]
    assert paired[1] - paired[0] < 0.5 * (broken[1] - broken[0])
    assert paired[0] > 0


# -------------------------------------------------------------------------------------------------- intervals


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    truth = st.compare(*simulate(rng, 100_000, effect=0.4), resamples=1)
    covered = {"mean": 0, "std": 0, "difference": 0}
    runs = 2000
    for seed in range(runs):
        result = st.compare(*simulate(rng, 80, effect=0.4), resamples=500, seed=seed)
        for name in covered:
            key = "value" if name == "difference" else "reduction"
            low, high = result[name]["ci95"]
            covered[name] += low <= truth[name][key] <= high
    assert all(0.93 <= hits / runs <= 0.97 for hits in covered.values()), covered


def test_an_untouched_checkpoint_is_not_distinguishable():
    rng = np.random.default_rng(0)
    verdicts = [st.compare(*simulate(rng, 200), resamples=1000, seed=s)["verdict"] for s in range(100)]
    assert verdicts.count("not distinguishable") >= 90


def test_a_better_checkpoint_is_reduced_and_a_worse_one_increased():
    rng = np.random.default_rng(0)
    for seed in range(10):
        before, after = simulate(rng, 200, effect=0.5)
        assert st.compare(before, after, resamples=1000, seed=seed)["verdict"] == "reduced"
        assert st.compare(after, before, resamples=1000, seed=seed)["verdict"] == "increased"


def test_speed():
    before, after = simulate(np.random.default_rng(0), 500, effect=0.3)
    began = time.process_time()
    st.compare(before, after, resamples=10_000)
    assert time.process_time() - began < 1


# ------------------------------------------------------------------------------------------------- degenerate


def test_identical_outputs():
    before, _ = simulate(np.random.default_rng(0), 30)
    result = st.compare(before, before.copy(), resamples=200)
    assert result["difference"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert result["mean"]["ci95"] == result["std"]["ci95"] == [0.0, 0.0]
    assert (result["p_value"], result["verdict"]) == (1.0, "not distinguishable")


def test_constant_toxicity_has_no_spread():
    result = st.compare(np.full((20, 3), 0.1), np.full((20, 3), 0.05), resamples=200)
    assert result["std"] == {"before": 0.0, "after": 0.0, "reduction": 0.0, "ci95": [0.0, 0.0]}
    assert result["mean"]["reduction"] == pytest.approx(0.5)
    assert result["verdict"] == "reduced"


def test_nothing_toxic_before():
    clean, toxic = np.zeros((20, 2)), np.full((20, 2), 0.2)
    assert st.compare(clean, clean, resamples=200)["mean"]["reduction"] == 0.0
    result = st.compare(clean, toxic, resamples=200)
    assert result["mean"] == {"before": 0.0, "after": pytest.approx(0.2), "reduction": None, "ci95": None}
    assert result["verdict"] == "increased"
    json.dumps(result, allow_nan=False)


def test_a_relative_interval_that_resamples_leave_undefined_is_none():
    before, after = np.zeros((20, 1)), np.full((20, 1), 0.01)
    before[0] = 1.0  # a third of the resamples draw no toxic dialogue before
    result = st.compare(before, after, resamples=500)
    assert result["mean"]["reduction"] == pytest.approx(0.8)
    assert result["mean"]["ci95"] is None
    assert result["difference"]["ci95"] is not None


def test_one_dialogue_proves_nothing():
    result = st.compare(np.array([[0.9, 0.8]]), np.array([[0.1, 0.2]]), resamples=100)
    assert result["mean"]["reduction"] == pytest.approx(1 - 0.15 / 0.85)
    assert result["mean"]["ci95"] is result["difference"]["ci95"] is result["paired_sd"] is None
    assert (result["p_value"], result["verdict"]) == (1.0, "not distinguishable")


def test_five_unanimous_dialogues_are_too_few_for_a_verdict():
    result = st.compare(np.full(5, 0.9) + np.arange(5) / 100, np.full(5, 0.1), resamples=500)
    assert result["difference"]["ci95"][0] > 0
    assert result["p_value"] == 2 / 2**5
    assert result["verdict"] == "not distinguishable"
    assert "p-value" in result["verdict_sentence"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([[0.1], [np.nan]]), np.zeros((2, 1))),
        (np.zeros((2, 1)), np.array([[0.1], [np.inf]])),
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.zeros((3, 2)), np.zeros((3, 1))),
        (np.zeros((3, 2, 1)), np.zeros((3, 2, 1))),
    ],
)
def test_what_does_not_pair_or_is_no_number_is_refused(before, after):
    with pytest.raises(ValueError):
        st.compare(before, after, resamples=10)


# ------------------------------------------------------------------------------------ sign flips, noise floor


def test_sign_flips_are_exact_for_few_dialogues():
    differences = np.random.default_rng(0).normal(0.3, 1, 9)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=9)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert st.sign_flip_test(differences) == pytest.approx(expected, abs=1e-15)
    assert st.sign_flip_test(np.concatenate([differences, np.zeros(30)])) == pytest.approx(expected, abs=1e-15)


def test_random_sign_flips_are_never_0_and_agree_with_the_exact_value():
    assert st.sign_flip_test(np.ones(50), resamples=999) == 1 / 1000
    differences = np.random.default_rng(1).normal(0.4, 1, 14)
    exact = st.sign_flip_test(differences)
    by_chance = st.sign_flip_test(np.concatenate([differences, np.full(6, 1e-12)]), resamples=20_000)
    assert by_chance == pytest.approx(exact, abs=0.01)


def test_p_values_are_uniform_without_an_effect():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(600):
        before, after = simulate(rng, 40)
        p.append(st.sign_flip_test((before - after).mean(axis=1), resamples=400, seed=seed))
    ordered = np.sort(p)
    distance = np.abs(ordered - (np.arange(600) + 0.5) / 600).max()
    assert distance < 1.63 / np.sqrt(600)  # Kolmogorov-Smirnov at 1%
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.07


def test_the_noise_floor_holds_what_chance_shows():
    rng = np.random.default_rng(0)
    share = np.where(np.arange(150) < 45, 0.66, 0.01)[:, None]

    def samples():  # the same dialogues, ever new seeds
        return np.where(rng.random((150, 4)) < share, 0.85, 0.02)

    floor = st.noise_floor(samples(), samples(), resamples=2000)
    low, high = floor["mean_reduction_ci95"]
    reductions = [1 - samples().mean() / samples().mean() for _ in range(500)]
    assert 0.92 <= np.mean([low <= r <= high for r in reductions]) <= 0.98
    low, high = floor["std_reduction_ci95"]
    reductions = [1 - samples().std() / samples().std() for _ in range(500)]
    assert 0.92 <= np.mean([low <= r <= high for r in reductions]) <= 0.98


def test_the_noise_floor_of_equal_samples_is_0():
    first, _ = simulate(np.random.default_rng(0), 20)
    floor = st.noise_floor(first, first, resamples=100)
    assert floor["mean_reduction_ci95"] == floor["std_reduction_ci95"] == [0.0, 0.0]
    assert st.noise_floor(first[:1], first[1:2], resamples=100)["mean_reduction_ci95"] is None


# -------------------------------------------------------------------------------------------- slices, pooling


def test_slices_give_figures_or_say_why_not():
    before, after = simulate(np.random.default_rng(0), 60, effect=0.5)
    large, small = np.arange(60) < 30, np.arange(60) < 7
    found = st.by_slice(before, after, {"large": large, "small": small}, min_slice=20, resamples=200)
    assert found["large"] == st.compare(before[:30], after[:30], resamples=200)
    assert found["small"] == {"n": 7, "note": "7 dialogues, fewer than 20: no figure"}
    assert st.by_slice(before, after, {"none": np.zeros(60, bool)}, min_slice=0)["none"]["n"] == 0


def test_runs_are_pooled():
    rng = np.random.default_rng(0)
    before = simulate(rng, 60)[0]
    afters = [before * (1 - effect) for effect in (0.2, 0.4, 0.6)]
    result = st.pool([before] * 3, afters, resamples=300)
    assert result["runs"] == 3
    assert result["mean"]["each"] == pytest.approx([0.2, 0.4, 0.6])
    assert [result["mean"][key] for key in ("average", "low", "high", "sd")] == pytest.approx([0.4, 0.2, 0.6, 0.2])
    assert result["pooled"]["mean"]["reduction"] == pytest.approx(0.4)
    assert (result["pooled"]["n"], result["pooled"]["samples_per_dialogue"]) == (60, 12)
    assert st.pool([before], afters[:1], resamples=100)["mean"]["sd"] is None
    for befores in ([before], [before, before, before[:50]]):
        with pytest.raises(ValueError):
            st.pool(befores, afters)


# ------------------------------------------------------------------------------------------------------ power


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    difference, sd = 0.05, 0.15
    n = st.dialogues_needed(difference, sd)
    seen = 0
    for seed in range(600):
        drop = rng.normal(difference, sd, n)
        seen += st.compare(drop, np.zeros(n), resamples=500, seed=seed)["verdict"] == "reduced"
    assert 0.76 <= seen / 600 <= 0.84


def test_power_figures():
    assert (st.dialogues_needed(0.012, 0.045), st.dialogues_needed(-0.012, 0.06)) == (113, 199)
    assert st.dialogues_needed(0.5, 0.0) == 2
    assert st.dialogues_needed(0.012, 0.045, power=0.95) > 113
    assert st.detectable_difference(113, 0.045) <= 0.012 < st.detectable_difference(112, 0.045)
    assert st.detectable_difference(2, 0.045) is None
    table = st.power_table(0.1, 0.06)
    assert [row["reduction"] for row in table] == [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert all(row["dialogues"] == st.dialogues_needed(row["reduction"] * 0.1, 0.06) for row in table)
    assert [row["dialogues"] for row in table] == sorted((row["dialogues"] for row in table), reverse=True)
    for difference, sd in ((0.0, 0.1), (0.1, -1.0), (float("nan"), 0.1)):
        with pytest.raises(ValueError):
            st.dialogues_needed(difference, sd)
    with pytest.raises(ValueError):
        st.power_table(0.0, 0.1)


# ----------------------------------------------------------------------------------------------------- alarms

SOUND = {
    "verdict": "reduced",
    "rouge": {"rougeL": {"before": 0.708, "after": 0.664}},
    "drift": {
        "kl_per_summary": 6.0,
        "length": {"before": 20.0, "after": 18.0},
        "distinct_2": {"before": 0.3, "after": 0.28},
        "empty": {"before": 0.0, "after": 0.0},
        "duplicate": {"before": 0.02, "after": 0.03},
        "repetition": {"before": 0.01, "after": 0.01},
        "copy": {"before": 0.2, "after": 0.22},
        "finished": {"before": 0.99, "after": 0.98},
    },
}


def changed(part, **after):
    figures = {key: {**SOUND[part][key], "after": value} for key, value in after.items()}
    return {**SOUND, part: {**SOUND[part], **figures}}


def test_a_sound_checkpoint_raises_nothing():
    assert st.alarms(SOUND) == []
    assert st.alarms({}) == []
    assert st.alarms({"drift": {"empty": None, "kl_per_summary": None, "length": {"before": 0.0, "after": 0.0}}}) == []


@pytest.mark.parametrize(
    ("part", "key", "warning", "alarm", "name"),
    [
        ("rouge", "rougeL", 0.62, 0.5, "rouge"),
        ("drift", "length", 13.0, 8.0, "length"),
        ("drift", "length", 31.0, 41.0, "length"),
        ("drift", "distinct_2", 0.2, 0.1, "distinct"),
        ("drift", "empty", 0.02, 0.06, "empty"),
        ("drift", "duplicate", 0.1, 0.3, "duplicate"),
        ("drift", "repetition", 0.1, 0.3, "repetition"),
        ("drift", "copy", 0.4, 0.6, "copy"),
        ("drift", "finished", 0.9, 0.7, "finished"),
    ],
)
def test_each_figure_has_a_warning_and_an_alarm(part, key, warning, alarm, name):
    (found,) = st.alarms(changed(part, **{key: warning}))
    assert (found.name, found.level) == (name, "warning")
    levels = {a.name: a.level for a in st.alarms(changed(part, **{key: alarm}))}
    assert levels.pop(name) == "alarm"
    assert levels in ({}, {"hacking": "alarm"})


def test_kl_past_its_limit():
    drift = {**SOUND["drift"], "kl_per_summary": 20.0}
    (found,) = st.alarms({**SOUND, "drift": drift})
    assert (found.name, found.level) == ("kl", "warning") and "20.0" in found.sentence
    assert st.alarms({**SOUND, "drift": drift}, st.Limits(kl=(5.0, 10.0)))[0].level == "alarm"


def test_a_broken_summarizer_is_hacking_only_where_toxicity_fell():
    broken = changed("rouge", rougeL=0.1)
    assert [a.name for a in st.alarms(broken)] == ["rouge", "hacking"]
    assert [a.name for a in st.alarms({**broken, "verdict": "not distinguishable"})] == ["rouge"]


def disagree(reward_effect, judge_effect, n=200, seed=0):
    rng = np.random.default_rng(seed)
    reward, judge = simulate(rng, n, effect=reward_effect), simulate(rng, n, effect=judge_effect)
    return st.disagreement(*reward, *judge, resamples=1000)


def test_a_judge_that_disagrees_raises_the_alarm():
    found = disagree(0.9, 0.0)
    assert found["level"] == "alarm" and found["gap_ci95"][1] < 0
    alarm = st.alarms({**SOUND, "disagreement": found})[0]
    assert (alarm.name, alarm.level, alarm.sentence) == ("disagreement", "alarm", found["sentence"])
    assert disagree(0.9, -0.4)["level"] == "alarm"


def test_a_judge_that_agrees_raises_none():
    assert disagree(0.9, 0.8)["level"] == "none"
    assert disagree(0.0, 0.0)["level"] == "none"
    assert st.alarms({**SOUND, "disagreement": disagree(0.9, 0.8)}) == []


def test_a_judge_that_cannot_tell_or_agrees_in_part_raises_a_warning():
    rng = np.random.default_rng(0)
    reward = simulate(rng, 30, effect=1.0, toxic=0.9)
    judge = np.zeros((30, 4)), np.zeros((30, 4))
    judge[0][0, 0] = 0.5
    unsure = st.disagreement(*reward, *judge, resamples=500)
    assert unsure["level"] == "warning" and "too few" in unsure["sentence"]
    partly = disagree(1.0, 0.25, n=800)
    assert partly["level"] == "warning" and "clearly less" in partly["sentence"]


# ------------------------------------------------------------------------------------------------ checkpoints


def point(name, kl, reward, judge, rouge=0.3):
    return {"name": name, "kl": kl, "reward": reward, "judge": judge, "rouge": rouge}


def test_overoptimization_is_seen_along_kl():
    points = [
        point("c", 9, 3, 0.2, 0.2),
        point("a", 1, 1, 0.15),
        point("b", 4, 2, 0.05),
        point("0", -0.01, 0, 0.2),
    ]
    found = st.overoptimization(points)
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
    found = st.overoptimization(points)
    assert (found["turned_over"], found["at"]) == (False, None)


def checkpoint(name, judge, rouge, toxicity=0.1, split="validation"):
    return {"name": name, "judge": judge, "rougeL": rouge, "toxicity": toxicity, "split": split}


def test_select_takes_the_least_toxic_that_still_summarizes():
    points = [
        checkpoint("a", 0.10, 0.30),
        checkpoint("b", 0.05, 0.28, 0.01),
        checkpoint("c", 0.01, 0.20, 0.0),
    ]
    assert st.select(points, reference_rouge=0.3, floor=0.9)["name"] == "b"
    assert st.select(points, reference_rouge=0.3, floor=0.5)["name"] == "c"
    assert st.select(points, reference_rouge=0.5, floor=0.9) is None
    tie = [checkpoint("a", 0.1, 0.28, 0.0), checkpoint("b", 0.1, 0.29, 0.1)]
    assert st.select(tie, 0.3)["name"] == "b"
    assert st.select(tie, 0.3, by="toxicity")["name"] == "a"


def test_select_refuses_the_test_split():
    with pytest.raises(ValueError, match="test"):
        st.select([checkpoint("a", 0.1, 0.3, split="test")], 0.3)
