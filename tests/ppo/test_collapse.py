"""Collapse of the policy: what counts, what does not, and what a run does about it."""

from __future__ import annotations

import math

import pytest

from detox.ppo import collapse
from detox.stage.errors import UserError


@pytest.mark.parametrize(
    "summaries, kl, says",
    [
        (["a", "b"], 1.0, None),
        (["a", "a", "b"], 1.0, None),
        (["", "b"], 1.0, None),
        (["a"], 1.0, None),
        (["a"], 10.0, None),
        (["", " ", "\n"], 1.0, "all 3 summaries are empty"),
        ([""], 1.0, "all 1 summaries are empty"),
        (["a b", "a  b", "a b "], 1.0, "all 3 summaries are the same ('a b')"),
        (["\x1b[2Jx", "\x1b[2Jx"], 1.0, "all 2 summaries are the same ('x')"),
        (["a", "b"], 10.1, "KL from the starting model is 10.1 nats a summary, past --ppo.max-ref-kl=10"),
        (["a", "b"], math.nan, "KL from the starting model is nan"),
    ],
)
def test_what_counts_as_collapse(summaries, kl, says):
    found = collapse.find(summaries, len(summaries), {"objective/ref_kl_k1": kl}, 10.0)
    assert found is None if says is None else found.startswith(says)


def test_without_limit_and_without_kl():
    assert collapse.find(["a", "b"], 2, {"objective/ref_kl_k1": 1e9}, None) is None
    assert collapse.find(["a", "b"], 2, {"skipped": "scores are not finite"}, 10.0) is None


def test_samples_of_one_dialogue_may_be_the_same():
    assert collapse.find(["a", "a"], 1, {"objective/ref_kl_k1": 0.0}, 10.0) is None


def test_the_line_names_the_setting_and_both_ways_out():
    line = str(collapse.refusal(7, "all 4 summaries are empty"))
    assert line.startswith("--ppo.on-collapse=stop: the policy collapsed in update 7: all 4 summaries are empty;")
    assert "--ppo.kl-coef" in line and "--ppo.on-collapse warn" in line


def test_the_third_skipped_update_in_a_row_ends_a_run():
    for before in range(3):
        collapse.stop_if_skipped(before, {"skipped": "scores are not finite"})
    with pytest.raises(UserError, match="^3 updates in a row were skipped, the last because scores are not finite;"):
        collapse.stop_if_skipped(3, {"skipped": "scores are not finite"})
