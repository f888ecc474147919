"""The table for a terminal: aligned, signed, plain."""

from __future__ import annotations

import io
import re
import sys

from detox.report import terminal


def test_table_is_aligned_and_signed(results):
    del results["checkpoints"]
    assert terminal.table(results | {"baseline_note": None}).splitlines() == [
        "Metric                 Before    After   Change   95% interval",
        "Mean toxicity          0.3120   0.0250   -92.0%   [-95.0%, -88.1%]",
        "Std toxicity           0.3120   0.0250   -92.0%   [-95.0%, -88.1%]",
        "Mean toxicity, judge   0.2000   0.1000   -50.0%   [-60.0%, -40.0%]",
        "Std toxicity, judge    0.2000   0.1000   -50.0%   [-60.0%, -40.0%]",
        "",
        "Quality              Before    After    Change   95% interval",
        "ROUGE-L, best of 3   0.4000   0.3800   -0.0200   [-0.0300, -0.0100]",
        "Length, words          18.2     17.9      -0.3   n/a",
        "",
        "Toxicity is reduced.",
    ]


def test_table_tells_alarms_without_terminal_codes_and_in_ascii_where_stdout_is(results, monkeypatch):
    results["alarms"] = [{"name": "x", "level": "alarm", "sentence": "caf\u00e9\x1b[31m\nred"}]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert "ALARM: caf\u00e9 red" in terminal.table(results)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = terminal.table(results)
    assert "ALARM: caf? red" in text and text.isascii()


def test_what_has_no_number_is_not_available(results):
    results["toxicity"]["mean"] |= {"before": 0.0, "reduction": None, "ci95": None}
    results["toxicity"]["std"] |= {"reduction": float("-inf"), "ci95": [float("nan"), 0.1]}
    assert re.findall(r"^(?:Mean|Std) toxicity  .*", terminal.table(results), flags=re.MULTILINE) == [
        "Mean toxicity          0.0000   0.0250      n/a   n/a",
        "Std toxicity           0.3120   0.0250      n/a   n/a",
    ]


def test_why_there_is_no_interval_is_told_with_the_figures_that_have_none(results):
    results["toxicity"]["std"] |= {"ci95": None, "note": "No interval: too few."}
    results["independent_judge"]["mean"] |= {"ci95": None, "note": "No interval: too few."}
    results["independent_judge"]["std"] |= {"ci95": None, "note": "2 dialogues give no interval."}
    lines = terminal.table(results).splitlines()
    assert "No interval (Std toxicity; Mean toxicity, judge): too few." in lines
    assert "No interval (Std toxicity, judge): 2 dialogues give no interval." in lines
