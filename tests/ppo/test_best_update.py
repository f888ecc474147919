"""Which update counts as the best: by what PPO maximises, whatever one unlikely token does to an estimate."""

from __future__ import annotations

from detox.ppo.metrics_log import note_best


def entry(score: float, k1: float, k3: float) -> dict[str, float]:
    return {
        "objective/score_mean": score,
        "objective/kl_coef": 0.1,
        "objective/ref_kl": k3,
        "objective/ref_kl_k1": k1,
    }


def test_one_unlikely_token_does_not_unmake_the_best_update():
    progress = {"best": None, "best_objective": None}
    lines = [entry(1.0, 0.5, 0.5), entry(2.0, 0.7, 31.0), entry(2.0, 5.0, 5.0)]
    for update in (1, 2, 3):
        note_best(progress, lines[:update], 1, 3)
    assert progress == {"best": 2, "best_objective": 2.0 - 0.1 * 0.7}


def test_a_skipped_update_is_never_the_best():
    progress = {"best": None, "best_objective": None}
    lines = [{"skipped": "no reward"}, entry(-3.0, 0.0, 0.0), {"skipped": "no reward"}]
    note_best(progress, lines[:1], 1, 9)
    note_best(progress, lines, 3, 9)
    assert progress == {"best": 3, "best_objective": -3.0}


def test_the_best_is_of_the_updates_since_the_checkpoint_before_whatever_interrupts_them():
    lines = [entry(score, 0.0, 0.0) for score in (0.0, 4.0, 5.0, -8.0, 1.0)]
    whole, stopped = ({"best": None, "best_objective": None} for _ in range(2))
    for update in (2, 4, 5):
        note_best(whole, lines[:update], 2, 5)
    for update in (2, 3, 4, 5):  # at the third it was interrupted, and went on
        note_best(stopped, lines[:update], 2, 5)
    assert whole == stopped == {"best": 2, "best_objective": 2.0}
    last = {"best": None, "best_objective": None}
    note_best(last, lines, 2, 5)
    assert last == {"best": 5, "best_objective": 1.0}, "of the last update alone"
