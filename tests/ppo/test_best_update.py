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
    for update, line in enumerate([entry(1.0, 0.5, 0.5), entry(2.0, 0.7, 31.0), entry(2.0, 5.0, 5.0)], 1):
        note_best(progress, update, [line])
    assert progress == {"best": 2, "best_objective": 2.0 - 0.1 * 0.7}


def test_a_skipped_update_is_never_the_best():
    progress = {"best": None, "best_objective": None}
    note_best(progress, 1, [{"skipped": "no reward"}])
    note_best(progress, 2, [entry(-3.0, 0.0, 0.0), {"skipped": "no reward"}])
    assert progress == {"best": 2, "best_objective": -3.0}
