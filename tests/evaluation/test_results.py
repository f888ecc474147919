"""Results from planted summaries, and every figure computed again from examples.jsonl by NumPy."""

from __future__ import annotations

import json
import re

import pytest

from detox.report import pages, terminal
from tests.evaluation.fabricated import (
    check_by_hand,
    civil,
    evaluate,
    fabricate,
    hidden,
    names,
    rude,
)


def test_an_untouched_policy_is_not_distinguishable(settings):
    """Under other random numbers, so that its summaries differ from the reference's by chance alone."""

    def untouched(_, i, draw):
        return rude(i) if draw.random() < 0.4 else civil(i)

    each = [evaluate(fabricate(settings, untouched, seed), settings) for seed in range(20)]
    assert [found["verdict"] for found in each].count("not distinguishable") >= 18
    assert sum(bool(names(found)) for found in each) <= 1
    held = 0
    for found in each:
        low, high = found["noise_floor"]["mean_reduction_ci95"]
        assert low < 0 < high
        held += low <= found["toxicity"]["mean"]["reduction"] <= high
    assert held >= 17


def test_a_truly_better_policy_is_reduced_without_alarm(settings):
    lines = fabricate(settings, lambda old, i, draw: civil(i) if draw.random() < 0.9 else old)
    found = evaluate(lines, settings)
    assert found["verdict"] == "reduced" and found["alarms"] == []
    low, high = found["toxicity"]["mean"]["ci95"]
    assert 0.5 < low < found["toxicity"]["mean"]["reduction"] < high < 1
    assert found["disagreement"]["level"] == "none"
    assert terminal.table(found).endswith("Toxicity is reduced.")


def test_thank_you_to_everything_raises_the_alarms_on_quality_and_hacking(settings):
    lines = fabricate(settings, lambda *_: "Thank you.")
    found = evaluate(lines, settings)
    assert found["verdict"] == "reduced", "toxicity alone would be fooled"
    assert {"rouge", "length", "distinct", "duplicate", "hacking"} <= names(found)
    shown = terminal.table(found)
    assert "ALARM" in shown and "broke down" in shown
    assert "broke down" in pages.markdown(found, lines) and "broke down" in pages.html(found, lines)


def test_one_dialogue_with_one_summary_has_figures_without_intervals(settings):
    lines = fabricate(settings, lambda old, i, draw: civil(i), n=1, k=1)
    found = evaluate(lines, settings)
    assert found["n"] == found["samples_per_dialogue"] == 1 and found["toxicity"]["mean"]["ci95"] is None
    (after,) = lines[0]["after"]["samples"]
    assert found["toxicity"]["mean"]["after"] == pytest.approx(after["toxicity"])
    for part, name in (("rouge", "rougeL"), ("rouge", "rougeLsum"), ("drift", "length")):
        assert found[part][name]["after"] == pytest.approx(after.get(name, len(after["summary"].split())))
    assert found["reward"]["after"] == pytest.approx(after["reward"])


def test_the_share_of_dialogues_in_other_alphabets_is_told(settings):
    lines = fabricate(settings, lambda old, i, draw: old, n=8)
    assert evaluate(lines, settings)["rouge_unicode"] == 0
    for line in lines[:2]:
        line["references"] = ["Анна и Том."]
    assert evaluate(lines, settings)["rouge_unicode"] == 0.25


def test_empty_summaries_raise_the_alarm(settings):
    found = evaluate(fabricate(settings, lambda *_: ""), settings)
    assert {"empty", "hacking"} <= names(found)


def test_a_judge_that_disagrees_raises_the_alarm(settings):
    def hide(old, i, draw):
        return hidden(i) if "idiot" in old else old

    found = evaluate(fabricate(settings, hide), settings)
    assert found["verdict"] == "reduced"
    assert "disagreement" in names(found)
    assert found["independent_judge"]["verdict"] == "not distinguishable"
    assert "independent judge" in terminal.table(found)


def test_a_worse_policy_is_increased(settings):
    found = evaluate(fabricate(settings, lambda old, i, draw: rude(i)), settings)
    assert found["verdict"] == "increased" and found["toxicity"]["mean"]["reduction"] < 0


def test_a_policy_that_does_not_beat_best_of_n_is_told_so(settings):
    lines = fabricate(settings, lambda old, i, draw: civil(i) if draw.random() < 0.3 else old)
    found = evaluate(lines, settings)
    assert found["verdict"] == "reduced"
    assert "PPO does not beat best-of-4 by reward" in found["baseline_note"]
    for text in (terminal.table(found), pages.markdown(found, lines), pages.html(found, lines)):
        assert "PPO does not beat best-of-4 by reward" in text
    better = evaluate(fabricate(settings, lambda old, i, draw: civil(i)), settings)
    assert "baseline_note" not in better


def test_a_noise_floor_that_is_unknown_is_told(settings):
    lines = fabricate(settings, lambda old, i, draw: civil(i))
    found = evaluate(lines, settings)
    assert "No noise floor" not in pages.markdown(found, lines)
    found["noise_floor"]["mean_reduction_ci95"] = None
    for text in (pages.markdown(found, lines), re.sub("<[^>]*>", "", pages.html(found, lines))):
        assert "No noise floor: too little toxicity to tell what chance alone shows." in text


def test_report_shows_what_was_measured(settings):
    lines = fabricate(settings, lambda old, i, draw: civil(i) if draw.random() < 0.9 else old)
    found = evaluate(lines, settings)
    for text in (pages.markdown(found, lines), re.sub("<[^>]*>", "", pages.html(found, lines))):
        for word in (
            "Best-of-4 by reward",
            "Bad-word filter",
            "Starting model",
            "Noise floor",
            "Most toxic tenth",
            "No identity mentions",
            "fewer than 20",
            "Independent judge",
            "Perplexity",
            "Dialogues needed",
            "95% interval",
        ):
            assert word in text, word


def test_every_figure_follows_from_the_examples(settings, tmp_path):
    lines = fabricate(settings, lambda old, i, draw: civil(i) if draw.random() < 0.7 else old, n=100)
    found = json.loads(json.dumps(evaluate(lines, settings), allow_nan=False))
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    check_by_hand(found, [json.loads(line) for line in path.read_text().splitlines()])
