"""What a run warns of: figures that leave their range, once a kind, and nothing while they stay in it."""

import pytest

from detox.ppo import diagnostics
from detox.ppo.metrics_log import MetricsLog


def line(**changed):
    entry = {
        "update": 1,
        "ppo/policy/clip_fraction": 0.02,
        "ppo/policy/step_kl": 0.01,
        "ppo/policy/step_kl_target": 0.02,
        "ppo/policy/entropy": 0.5,
        "ppo/val/explained_variance": 0.1,
        "ppo/val/trust": 0.1,
    }
    short = {"clipped": "ppo/policy/clip_fraction", "moved": "ppo/policy/step_kl", "entropy": "ppo/policy/entropy"}
    short |= {"explained": "ppo/val/explained_variance", "trust": "ppo/val/trust"}
    return entry | {short.get(name, name): value for name, value in changed.items()}


@pytest.mark.parametrize(
    "lines, kind, says",
    [
        ([line(clipped=0.55)], "step", "55% of the tokens were clipped"),
        ([line(moved=0.2)], "step", "moved by 0.2 nats a token in an update, not 0.02"),
        ([line()] * 3 + [line(entropy=0.1)] * 3, "entropy", "fell from 0.5 to 0.1"),
        ([line()] * 3 + [line(entropy=2.5)] * 3, "entropy", "rose from 0.5 to 2.5"),
        ([line(explained=-0.5, trust=0.0)] * 3, "critic", "it takes no part for now"),
        ([line(explained=-0.5, trust=0.2)] * 3, "critic", "it still has a weight of 20%"),
    ],
)
def test_a_figure_out_of_range_is_told(lines, kind, says):
    found = diagnostics.warnings(lines)
    assert list(found) == [kind] and says in found[kind]


@pytest.mark.parametrize(
    "lines",
    [
        [line()] * 9,
        [line(explained=None)] * 9,
        [line(explained=-0.5), line(explained=0.5), line(explained=-0.5)],
        [line(entropy=0.5), line(entropy=0.05), line(entropy=0.5)] * 2,
        [line()] * 2 + [line(entropy=0.01)] * 3,  # three and three are compared
        [line(explained=-0.5)] * 2,
        [line(clipped=0.3, moved=0.08)],  # limits that are met exactly
        [line()] * 3 + [line(entropy=0.125, explained=0.0)] * 3,
        [line()] * 3 + [line(entropy=2.0)] * 3,
        [{"update": 1, "skipped": "a gradient is not finite"}],
        [line(clipped=0.55), {"update": 2, "skipped": "a gradient is not finite"}],
    ],
)
def test_figures_in_their_range_are_not(lines):
    assert diagnostics.warnings(lines) == {}


def test_each_kind_is_told_once_in_a_run_that_goes_on_too(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert [len(log.append(line(clipped=0.5))) for _ in range(3)] == [1, 0, 0]
    assert log.lines[0]["warnings"] == ["step"]
    assert MetricsLog(tmp_path / "metrics.jsonl", log.lines).append(line(clipped=0.5)) == []
