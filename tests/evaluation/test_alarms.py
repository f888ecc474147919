"""detox.evaluation.alarms: each limit, what counts as a change."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from detox.evaluation import alarms, intervals


def side(before, after, sure=True):
    """Return a figure that changed, for sure or perhaps by chance."""
    change, room = after - before, 0.5 * abs(after - before) if sure else 2 * abs(after - before) + 0.01
    return {"before": before, "after": after, "change": change, "ci95": [change - room, change + room]}


SOUND = {
    "verdict": "reduced",
    "rouge": {"rougeL": side(0.708, 0.664)},
    "drift": {
        "kl_per_summary": 6.0,
        "length": side(20.0, 18.0),
        "faithful": side(0.95, 0.94),
        "distinct_2": side(0.3, 0.28),
        "empty": side(0.0, 0.0),
        "duplicate": side(0.02, 0.03),
        "repetition": side(0.01, 0.01),
        "copy": side(0.2, 0.22),
        "finished": side(0.99, 0.98),
    },
}


def changed(part, sure=True, **after):
    figures = {key: side(SOUND[part][key]["before"], value, sure) for key, value in after.items()}
    return {**SOUND, part: {**SOUND[part], **figures}}


def test_a_sound_checkpoint_raises_nothing():
    assert alarms.alarms(SOUND) == []
    assert alarms.alarms({}) == []
    assert alarms.alarms({"drift": {"empty": None, "kl_per_summary": None, "length": side(0.0, 0.0)}}) == []


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
        ("drift", "faithful", 0.88, 0.75, "faithful"),
    ],
)
def test_each_figure_has_a_warning_and_an_alarm(part, key, warning, alarm, name):
    assert alarms.alarms(changed(part, sure=False, **{key: warning})) == [], "it can be chance"
    assert alarms.alarms(changed(part, sure=False, **{key: alarm})) == []
    (found,) = alarms.alarms(changed(part, **{key: warning}))
    assert (found.name, found.level) == (name, "warning")
    levels = {a.name: a.level for a in alarms.alarms(changed(part, **{key: alarm}))}
    assert levels.pop(name) == "alarm"
    assert levels in ({}, {"hacking": "alarm"})


@pytest.mark.parametrize(
    ("part", "key", "warning", "alarm", "name"),
    [
        ("rouge", "rougeL", 0.19, 0.09, "rouge"),
        ("drift", "faithful", 0.65, 0.45, "faithful"),
        ("drift", "empty", 0.15, 0.4, "empty"),
    ],
)
def test_what_is_bad_by_itself_is_told_although_nothing_changed(part, key, warning, alarm, name):
    for value, level in ((warning, "warning"), (alarm, "alarm")):
        found = {**SOUND, part: {**SOUND[part], key: side(value + 0.001, value, sure=False)}}
        (told,) = alarms.alarms(found)
        assert (told.name, told.level) == (name, level) and " is " in told.sentence


def test_one_name_is_told_once_at_its_worst():
    (rouge,) = alarms.alarms({**changed("rouge", rougeL=0.6), "verdict": "increased"})
    assert rouge.level == "warning" and "went from 0.708 to 0.600" in rouge.sentence
    levels = [(a.name, a.level) for a in alarms.alarms({**changed("rouge", rougeL=0.15), "verdict": "increased"})]
    assert levels == [("rouge", "alarm")]
    entry = {"rouge": {"rougeL": side(0.105, 0.09)}, "drift": {}}
    assert [(a.name, a.level) for a in alarms.alarms(entry)] == [("rouge", "alarm")], "a warning by its change"


@pytest.mark.parametrize("n", [30, 100])
def test_an_unchanged_rate_of_empty_summaries_seldom_warns(n):
    rng, told = np.random.default_rng(0), 0
    for _ in range(400):
        before, after = (intervals.mean((rng.random((n, 4)) < 0.03).mean(axis=1)) for _ in range(2))
        change = intervals.interval(after - before)
        told += bool(
            alarms.alarms({"drift": {"empty": {"before": before.value, "after": after.value, "ci95": change}}})
        )
    assert told / 400 <= 0.05


def test_what_got_worse_is_named_and_chance_is_not():
    rng = np.random.default_rng(0)
    good = {f"figure {i}": 1 for i in range(10)} | {"repetition": -1, "rouge": 1, "gain": 1}
    false = 0
    for _ in range(400):
        changes = {name: intervals.mean(rng.normal(0, 1, 60)) for name in good}
        false += bool(alarms.worse(changes, good))
    assert false / 400 <= 0.06, "one of 13 at 95% each would be in 28%"
    fell, rose = (intervals.mean(rng.normal(middle, 1, 60)) for middle in (-1, 1))
    assert alarms.worse({"rouge": fell, "repetition": rose, "gain": rose, "other": fell}, good) == [
        "rouge",
        "repetition",
    ]
    assert alarms.worse({"rouge": rose, "repetition": fell}, good) == []


LIMITS = {
    ("rouge", "rougeL"): {"falls to": (0.9, 0.8), "is below": (0.2, 0.1)},
    ("drift", "faithful"): {"falls by": (0.05, 0.15), "is below": (0.7, 0.5)},
    ("drift", "length"): {"falls to": (0.7, 0.5), "rises to": (1.5, 2.0)},
    ("drift", "distinct_2"): {"falls to": (0.8, 0.5)},
    ("drift", "empty"): {"rises by": (0.01, 0.05), "is above": (0.1, 0.3)},
    ("drift", "duplicate"): {"rises by": (0.05, 0.2)},
    ("drift", "repetition"): {"rises by": (0.05, 0.15)},
    ("drift", "copy"): {"rises by": (0.15, 0.3)},
    ("drift", "finished"): {"falls by": (0.05, 0.2)},
}


@pytest.mark.parametrize(("part", "key"), LIMITS)
def test_each_limit_is_where_it_is_said_to_be(part, key):
    """A thousandth short of it nothing happens, a thousandth past it does."""
    for how, limits in LIMITS[part, key].items():
        for limit, below, past in zip(limits, (None, "warning"), ("warning", "alarm")):
            for nudge, level in ((-0.001, below), (0.001, past)):
                before = SOUND[part][key]["before"]
                away = limit + nudge * (1 if limits[0] < limits[1] else -1)
                entry = {
                    "falls to": lambda away=away, before=before: side(before, before * away),
                    "rises to": lambda away=away, before=before: side(before, before * away),
                    "falls by": lambda away=away: side(0.99, 0.99 - away),
                    "rises by": lambda away=away: side(0.0, away),
                    "is below": lambda away=away: side(away, away, sure=False),
                    "is above": lambda away=away: side(away, away, sure=False),
                }[how]()
                found = alarms.alarms({part: {key: entry}, "verdict": "increased"})
                assert [alarm.level for alarm in found] == ([level] if level else []), (how, away, found)


def test_kl_has_limits_too():
    for value, levels in ((14.9, []), (15.1, ["warning"]), (29.9, ["warning"]), (30.1, ["alarm"])):
        assert [a.level for a in alarms.alarms({"drift": {"kl_per_summary": value}})] == levels


def test_nothing_before_has_no_ratio():
    for part, key in (("rouge", "rougeL"), ("drift", "length"), ("drift", "distinct_2")):
        assert alarms.alarms({part: {key: side(0.0, 5.0)}}) == []


def test_a_change_without_an_interval_can_be_chance():
    for after in (0.1, 0.9):
        assert alarms.alarms({"rouge": {"rougeL": {"before": 0.5, "after": after + 0.2, "ci95": None}}}) == []
        assert alarms.alarms({"drift": {"copy": {"before": 0.5, "after": after, "ci95": None}}}) == []


def test_kl_past_its_limit():
    drift = {**SOUND["drift"], "kl_per_summary": 20.0}
    (found,) = alarms.alarms({**SOUND, "drift": drift})
    assert (found.name, found.level) == ("kl", "warning") and "20.0" in found.sentence
    lower = [dataclasses.replace(check, warning=5.0, alarm=10.0) for check in alarms.CHECKS if check.name == "kl"]
    assert alarms.alarms({**SOUND, "drift": drift}, lower)[0].level == "alarm"


def test_a_broken_summarizer_is_hacking_only_where_toxicity_fell():
    broken = changed("rouge", rougeL=0.15)
    assert [a.name for a in alarms.alarms(broken)] == ["rouge", "hacking"]
    assert [a.name for a in alarms.alarms({**broken, "verdict": "not distinguishable"})] == ["rouge"]


def test_the_page_on_the_report_names_every_limit():
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (.+?) \|$", text.partition("### Limits")[2].partition("\n#")[0], re.MULTILINE
    )
    named = dict.fromkeys(check.name for check in alarms.CHECKS)
    assert len(rows) == len(named) + 1, "and the head"
    cells = dict(zip(named, (row[1:] for row in rows[1:]), strict=True))
    forms = {"ratio": "{:.0%}", "value": "{:g} nats", "rise": "{:.0%}", "fall": "{:.0%}", "level": "{:.0%}"}
    for check in alarms.CHECKS:
        form = "{:g}" if check.path == "rouge.rougeL" and check.kind == "level" else forms[check.kind]
        for limit, cell in zip((check.warning, check.alarm), cells[check.name]):
            number = form.format(limit)
            if check.kind in ("rise", "fall"):
                number = number.replace("%", " point")
            assert re.search(rf"(?<![\d.]){re.escape(number)}", cell), (check, cell)
