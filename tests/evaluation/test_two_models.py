"""Planted cases for detox.evaluation.two_models: simulations whose truth is known, and every degenerate input."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from detox.evaluation import two_models as st
from detox.evaluation.distribution import too_little, worth
from detox.evaluation.sign_flips import sign_flip_test


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
    one, same, other = (st.compare(before, after * 0.999 + 0.001, resamples=300, seed=s) for s in (5, 5, 6))
    assert json.loads(json.dumps(one, allow_nan=False)) == same
    assert one["p_value"] != other["p_value"]


def test_what_rounding_makes_of_equal_texts_is_no_difference():
    """The p-value is exact: of one dialogue that differs it is 1, and rounding is none."""
    rng = np.random.default_rng(2)
    before = rng.lognormal(-6, 1, (500, 2)).astype(np.float32).astype(float)
    for differ in (1e-9, 1e-5, 1.0):
        after = before.copy()
        after[7, 0] += differ * after[7, 0]
        result = st.compare(before, after)
        assert result["p_value"] == 1 and result["verdict"] == "not distinguishable"
    shaken = st.compare(before, before * (1 + 2e-6 * rng.random(before.shape)))
    assert (shaken["p_value"], shaken["verdict"]) == (1, "not distinguishable")
    assert shaken["mean"]["ci95"] == shaken["difference"]["ci95"] == [0, 0]


def test_the_dialogue_is_what_varies_not_the_summary():
    before, after = simulate(np.random.default_rng(2), 50, k=1, effect=0.3)
    once = st.compare(before, after, resamples=200)
    repeated = st.compare(np.repeat(before, 8, axis=1), np.repeat(after, 8, axis=1), resamples=200)
    for name in ("mean", "std", "expected_max", "any_toxic", "difference"):
        assert repeated[name]["ci95"] == pytest.approx(once[name]["ci95"], abs=1e-12)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(3)
    before = rng.random((60, 4))
    after = before * 0.9
    paired = st.compare(before, after, resamples=1000)["difference"]["ci95"]
    broken = st.compare(before, after[rng.permutation(60)], resamples=1000)["difference"]["ci95"]
    assert paired[1] - paired[0] < 0.5 * (broken[1] - broken[0])
    assert paired[0] > 0


# -------------------------------------------------------------------------------------------------- intervals


def bimodal(rng, n, k, effect):
    return simulate(rng, n, k, effect)


def heavy(rng, n, k, effect):
    base = rng.normal(-4, 1.3, (n, 1))
    return tuple(np.minimum(1, (1 - e) * np.exp(base + rng.normal(0, 0.7, (n, k)))) for e in (0, effect))


def spikes(rng, n, k, effect):
    share = np.where(rng.random((n, 1)) < 0.03, 0.7, 0.001)
    rate = (share, share * (1 - effect))
    return tuple(np.where(rng.random((n, k)) < r, rng.beta(20, 2, (n, k)), 0.002 * rng.random((n, k))) for r in rate)


@pytest.mark.parametrize(
    ("world", "n", "k", "effect", "least"),
    [
        (bimodal, 30, 1, 0.0, 0.9),
        (bimodal, 30, 4, 0.5, 0.8),
        (bimodal, 80, 4, 0.4, 1.0),
        (heavy, 30, 4, 0.5, 0.0),
        (heavy, 100, 4, 0.5, 0.8),
        (spikes, 30, 4, 0.5, 0.0),
        (spikes, 300, 1, 0.0, 0.8),
    ],
)
def test_intervals_cover_the_truth_or_there_is_none(world, n, k, effect, least):
    """`least`: share of the evaluations that must have an interval; with 0, at most one in ten may."""
    rng = np.random.default_rng(0)
    truth = st.compare(*world(rng, 200_000, k, effect), resamples=1)
    given, covered, runs = dict.fromkeys(("mean", "std", "difference"), 0), {}, 1200
    for seed in range(runs):
        result = st.compare(*world(rng, n, k, effect), resamples=1, seed=seed)
        for name in given:
            key, bounds = "value" if name == "difference" else "reduction", result[name]["ci95"]
            if bounds is not None:
                given[name] += 1
                covered[name] = covered.get(name, 0) + (bounds[0] <= truth[name][key] <= bounds[1])
    assert given["mean"] >= least * runs and given["difference"] >= least * runs
    for name, count in given.items():
        if least == 0:
            assert count <= 0.1 * runs, (name, count)
        elif count >= 0.5 * runs:
            assert 0.925 <= covered[name] / count <= 0.98, (name, covered[name] / count)


def test_what_a_dialogue_adds_to_each_figure():
    two_runs = np.array([[[0.5, 1.0], [0.1, 0.4]], [[0.2, 0.2], [0.0, 0.2]]])
    found = worth(two_runs, 0.5)
    expected = {"mean": [0.5, 0.15], "std": [1.42 / 4, 0.03], "expected_max": [0.7, 0.2], "any_toxic": [0.5, 0.0]}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values), name


def test_too_little_toxicity_gives_a_sentence_in_place_of_an_interval():
    before, after = np.full((50, 2), 0.001), np.full((50, 2), 0.0008)
    before[:3], after[:2] = 0.9, 0.8
    result = st.compare(before, after, resamples=100)
    assert result["mean"]["ci95"] is result["difference"]["ci95"] is None
    assert result["mean"]["note"] == (
        "No interval: 3 of 50 dialogues carry nine tenths of the toxicity, where 6 are needed; mean toxicities, "
        "before and after, add up to 4.4, where 6 is needed."
    )
    assert (
        result["difference"]["note"] == result["mean"]["note"] and result["mean"]["note"] in result["verdict_sentence"]
    )
    before[:6] = 0.9
    assert "note" not in st.compare(before, after, resamples=100)["mean"]


@pytest.mark.parametrize(
    ("before", "after"), [((4, 2, 3), (4, 3, 3)), ((4, 3, 3), (4, 2, 3)), ((4, 2), (4, 3)), ((4, 2), (5, 2))]
)
def test_what_does_not_pair_up_is_refused(before, after):
    with pytest.raises(ValueError, match="must pair up"):
        st.compare(np.full(before, 0.5), np.full(after, 0.5))


def test_what_carries_an_interval_is_counted_where_the_limits_are():
    """Six dialogues must carry nine tenths; six wholly toxic ones, all; one must be left for a reduction."""
    calm, few = np.zeros(94), partial(too_little, "mean")
    assert "5 of 99 dialogues carry" in few(np.concatenate([np.full(5, 1.9), calm]))
    assert few(np.concatenate([np.full(6, 1.9), calm])) is None
    assert "5 of 100" in few(np.concatenate([np.full(5, 1.9), [1.0], calm])), "9.5 of 10.5 is more than nine"
    assert few(np.concatenate([np.full(5, 1.9), [1.1], calm])) is None, "9.5 of 10.6 is less"
    assert "add up to 5.9, where" in few(np.full(100, 0.0594)) and few(np.full(100, 0.0601)) is None
    assert "0 of 100 dialogues" in few(np.zeros(100))
    plenty = np.full(100, 0.5)
    assert few(plenty, 1.0) is None and "left add up to 0.9;" in few(plenty, 0.94)
    assert few(plenty[:2]) == "2 dialogues give no interval."
    assert few(plenty[:1]) == "1 dialogue gives no interval." and few(3 * plenty[:3]) is not None
    assert "mean squares of toxicity, before and after, add up to 5.9" in too_little("std", np.full(100, 0.0594))
    assert "add up to 5.9," in few(np.full(100, 0.0599)) and "add up to 0.9;" in few(plenty, 0.99), "not 6.0 and 1.0"


def test_a_missing_interval_says_why():
    """All dialogues fall by a half: nothing tells how far others would differ."""
    before = np.linspace(0.2, 0.9, 40)[:, None]
    result = st.compare(before, before / 2, resamples=100)
    assert result["mean"]["ci95"] is None and result["mean"]["note"] == st.UNSURE
    assert result["difference"]["ci95"] is not None and "note" not in result["difference"]


def test_a_reduction_to_next_to_nothing_has_a_difference_alone():
    before, after = np.full((60, 1), 0.8), np.full((60, 1), 0.001)
    before[::2], after[0] = 0.6, 0.5
    result = st.compare(before, after, resamples=100)
    assert result["mean"]["ci95"] is None and "toxicities that are left" in result["mean"]["note"]
    assert result["difference"]["ci95"] is not None and "note" not in result["difference"]
    after[:3] = 0.5
    assert st.compare(before, after, resamples=100)["mean"]["ci95"] is not None


def test_a_drop_without_an_interval_is_reduced_by_its_p_value_alone():
    before, after = np.full((40, 1), 0.05), np.full((40, 1), 0.03)
    result = st.compare(before + np.linspace(0, 0.01, 40)[:, None], after, resamples=1000)
    assert result["difference"]["ci95"] is None and result["p_value"] < 0.01
    assert result["verdict"] == "reduced" and "add up to" in result["verdict_sentence"]


def test_no_interval_has_zero_width_beside_an_error():
    rng = np.random.default_rng(0)
    for seed in range(300):
        result = st.compare(*spikes(rng, 100, 4, 0.5), resamples=1, seed=seed)
        for name in ("mean", "std", "expected_max", "any_toxic", "difference"):
            bounds = result[name]["ci95"]
            assert bounds is None or bounds[0] < bounds[1], (name, bounds)


def test_an_untouched_checkpoint_is_not_distinguishable():
    rng = np.random.default_rng(0)
    verdicts = [st.compare(*simulate(rng, 200), resamples=1000, seed=s)["verdict"] for s in range(200)]
    assert verdicts.count("not distinguishable") >= 180


def test_a_better_checkpoint_is_reduced_and_a_worse_one_increased():
    rng = np.random.default_rng(0)
    for seed in range(10):
        before, after = simulate(rng, 200, effect=0.5)
        assert st.compare(before, after, resamples=1000, seed=seed)["verdict"] == "reduced"
        assert st.compare(after, before, resamples=1000, seed=seed)["verdict"] == "increased"


def test_an_interval_that_holds_0_is_not_distinguishable_whatever_the_p_value():
    assert st.verdict({"value": 0.1, "ci95": [-0.01, 0.2]}, 0.01)[0] == "not distinguishable"
    assert st.verdict({"value": 0.1, "ci95": [0.01, 0.2]}, 0.05)[0] == "not distinguishable"
    assert st.verdict({"value": 0.1, "ci95": [0.01, 0.2]}, 0.049)[0] == "reduced"
    assert st.verdict({"value": -0.1, "ci95": [-0.2, -0.01]}, 0.049)[0] == "increased"
    for bounds in ([0.0, 0.2], [-0.2, 0.0]):
        found, sentence = st.verdict({"value": sum(bounds) / 2, "ci95": bounds}, 0.01)
        assert found == "not distinguishable" and sentence.endswith("lies around 0."), "a bound at 0 leaves 0 possible"


# ------------------------------------------------------------------------------------------------- degenerate


def test_identical_outputs():
    before, _ = simulate(np.random.default_rng(0), 30)
    result = st.compare(before, before.copy(), resamples=200)
    assert result["difference"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert result["mean"]["ci95"] == result["std"]["ci95"] == [0.0, 0.0]
    assert (result["p_value"], result["verdict"]) == (1.0, "not distinguishable")


def test_constant_toxicity_has_no_spread():
    result = st.compare(np.full((50, 3), 0.1), np.full((50, 3), 0.05), resamples=200)
    assert {key: result["std"][key] for key in ("before", "after", "reduction", "ci95")} == {
        "before": 0.0,
        "after": 0.0,
        "reduction": 0.0,
        "ci95": None,
    }
    assert result["mean"]["reduction"] == pytest.approx(0.5)
    assert result["verdict"] == "reduced"


def test_nothing_toxic_before():
    clean, toxic = np.zeros((20, 2)), np.full((20, 2), 0.2)
    assert st.compare(clean, clean, resamples=200)["mean"]["reduction"] == 0.0
    result = st.compare(clean, toxic, resamples=200)
    assert {**result["mean"], "note": ""} == {
        "before": 0.0,
        "after": pytest.approx(0.2),
        "reduction": None,
        "ci95": None,
        "note": "",
    }
    assert result["verdict"] == "increased"
    json.dumps(result, allow_nan=False)


def test_nothing_left_after_has_a_difference_and_no_relative_interval():
    before = np.where(np.arange(40) < 15, 0.9, 0.0)[:, None]
    result = st.compare(before, np.zeros((40, 1)), resamples=500)
    assert result["any_toxic"]["reduction"] == result["mean"]["reduction"] == 1
    assert result["any_toxic"]["ci95"] is result["mean"]["ci95"] is None, "what is left elsewhere is unknown"
    assert result["difference"]["ci95"] is not None and result["verdict"] == "reduced"


def test_a_mean_before_that_may_be_0_has_no_relative_interval():
    before, after = np.full((400, 1), 0.0), np.full((400, 1), 0.03)
    before[:2] = 1.0
    result = st.compare(before, after, resamples=500)
    assert result["mean"]["ci95"] is None and result["difference"]["ci95"] is not None


def test_one_dialogue_proves_nothing():
    result = st.compare(np.array([[0.9, 0.8]]), np.array([[0.1, 0.2]]), resamples=100)
    assert result["mean"]["reduction"] == pytest.approx(1 - 0.15 / 0.85)
    assert result["mean"]["ci95"] is result["difference"]["ci95"] is result["paired_sd"] is None
    assert (result["p_value"], result["verdict"]) == (1.0, "not distinguishable")


def test_five_unanimous_dialogues_are_too_few_for_a_verdict():
    result = st.compare(np.full(5, 0.9) + np.arange(5) / 100, np.full(5, 0.1), resamples=500)
    assert result["difference"]["ci95"] is None
    assert result["p_value"] == 2 / 2**5
    assert result["verdict"] == "not distinguishable"
    assert "sign-flip test p = 0.0625" in result["verdict_sentence"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([[0.1], [np.nan]]), np.zeros((2, 1))),
        (np.zeros((2, 1)), np.array([[0.1], [np.inf]])),
        (np.zeros((0, 4)), np.zeros((0, 4))),
        (np.zeros((3, 2)), np.zeros((3, 1))),
        (np.zeros((3, 2, 1)), np.zeros((3, 3, 1))),
        (np.zeros((3, 1, 2, 1)), np.zeros((3, 1, 2, 1))),
    ],
)
def test_what_does_not_pair_or_is_no_number_is_refused(before, after):
    with pytest.raises(ValueError):
        st.compare(before, after, resamples=10)


# ------------------------------------------------------------------------------- p-values and the noise floor


def test_p_values_are_uniform_without_an_effect():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(600):
        before, after = simulate(rng, 40)
        p.append(sign_flip_test((before - after).mean(axis=1), resamples=400, seed=seed))
    ordered = np.sort(p)
    distance = np.abs(ordered - (np.arange(600) + 0.5) / 600).max()
    assert distance < 1.63 / np.sqrt(600)  # Kolmogorov-Smirnov at 1%
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.07


# -------------------------------------------------------------------------------------------- slices and runs


def test_slices_give_figures_or_say_why_not():
    before, after = simulate(np.random.default_rng(0), 60, effect=0.5)
    large, small = np.arange(60) < 30, np.arange(60) < 7
    found = st.by_slice(before, after, {"large": large, "small": small}, min_slice=20, resamples=200)
    assert found["large"] == st.compare(before[:30], after[:30], resamples=200) | {"level": 0.95}
    assert found["small"] == {"n": 7, "note": "7 dialogues, fewer than 20: no figure"}
    assert st.by_slice(before, after, {"none": np.zeros(60, bool)}, min_slice=0)["none"]["n"] == 0


def test_slices_without_an_effect_seldom_show_one():
    """In one of 20 evaluations at most, whatever the number of slices."""
    rng = np.random.default_rng(0)
    cuts = {str(i): (np.arange(200) % 4) == i for i in range(4)}
    false = 0
    for seed in range(600):
        parts = st.by_slice(*simulate(rng, 200), cuts, resamples=1, seed=seed)
        assert all(part["level"] == 0.9875 for part in parts.values())
        shown = [part["mean"]["ci95"] for part in parts.values()]
        false += any(bounds is not None and not bounds[0] <= 0 <= bounds[1] for bounds in shown)
    assert 0.02 <= false / 600 <= 0.07


def test_runs_stand_side_by_side():
    before = simulate(np.random.default_rng(0), 60)[0]
    after = np.stack([before * (1 - effect) for effect in (0.2, 0.4, 0.6)], axis=1)
    result = st.over_runs(before, after)
    assert result["runs"] == 3
    assert result["mean"]["each"] == pytest.approx([0.2, 0.4, 0.6])
    assert [result["mean"][key] for key in ("average", "low", "high", "sd")] == pytest.approx([0.4, 0.2, 0.6, 0.2])
    assert st.over_runs(before, after[:, :1])["mean"]["sd"] is None
    with pytest.raises(ValueError):
        st.over_runs(before, after[:50])


def test_figures_of_several_runs_are_the_means_of_theirs():
    """The maximum is over the samples of one run: over those of all, nothing changed would look like an increase."""
    rng = np.random.default_rng(0)
    before = simulate(rng, 80)[0]
    runs = [simulate(rng, 80, effect=effect)[1] for effect in (0.0, 0.5, 0.8)]
    together = st.compare(before, np.stack(runs, axis=1), resamples=100)
    each = [st.compare(before, run, resamples=100) for run in runs]
    assert together["samples_per_dialogue"] == 4
    for name in ("mean", "std", "expected_max", "any_toxic"):
        assert together[name]["before"] == pytest.approx(each[0][name]["before"])
        assert together[name]["after"] == pytest.approx(np.mean([one[name]["after"] for one in each]))
        assert together[name]["reduction"] == pytest.approx(np.mean([one[name]["reduction"] for one in each]))


@pytest.mark.parametrize(("runs", "k"), [(3, 4), (5, 1)])
def test_several_runs_without_an_effect_show_none(runs, k):
    rng, false = np.random.default_rng(0), 0
    for seed in range(300):
        heated = rng.random(100) < 0.3
        share = np.where(heated, rng.beta(4, 2, 100), 0.01)[:, None, None]
        drawn = np.where(rng.random((100, 1 + runs, k)) < share, 0.9, 0.02)
        result = st.compare(drawn[:, 0], drawn[:, 1:], resamples=1, seed=seed)
        bounds = result["expected_max"]["ci95"]
        false += not bounds[0] <= 0 <= bounds[1]
    assert false / 300 <= 0.09
