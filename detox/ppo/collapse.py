"""When training must not go on: a collapsed policy, updates that fail one after the other; and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detox.stage.errors import UserError, printable

MAX_SKIPPED = 3
_SMALLER = "take smaller steps (--ppo.step-kl under schedule kl, else --ppo.learning-rate)"


def find(summaries: Sequence[str], dialogues: int, metrics: Mapping[str, Any], max_ref_kl: float | None) -> str | None:
    """Return how the policy has collapsed, or None.

    Args:
        summaries: a whole rollout.
        dialogues: that they are of; summaries of one dialogue may be the same.
        metrics: of its update; one that was skipped has no KL.
        max_ref_kl: KL a summary from the reference, in nats, that is still sound; None is no limit.
    """
    different = {" ".join(summary.split()) for summary in summaries}
    if different == {""}:
        return f"all {len(summaries)} summaries are empty"
    if len(different) == 1 and dialogues > 1:
        return f"all {len(summaries)} summaries are the same ({printable(summaries[0], 60)!r})"
    # The k1 estimate: one unlikely token sends k3, which is logged beside it, through the roof.
    kl = metrics.get("objective/ref_kl_k1")
    if max_ref_kl is not None and kl is not None and not kl <= max_ref_kl:
        return f"KL from the starting model is {kl:.1f} nats a summary, past --ppo.max-ref-kl={max_ref_kl:g}"
    return None


def refusal(update: int, reason: str) -> UserError:
    """Return the error that ends a collapsed run."""
    return UserError(
        f"--ppo.on-collapse=stop: the policy collapsed in update {update}: {reason}; what was saved is whole: "
        f"raise --ppo.kl-coef or {_SMALLER} and start anew, or pass --ppo.on-collapse warn"
    )


def stop_if_skipped(in_a_row: int, metrics: Mapping[str, Any]) -> None:
    """Raise where too many updates in a row were skipped.

    Args:
        in_a_row: updates skipped up to now.
        metrics: of the last one; `skipped` says why.
    """
    if in_a_row >= MAX_SKIPPED:
        raise UserError(
            f"{MAX_SKIPPED} updates in a row were skipped, the last because {metrics['skipped']}; what was saved is "
            f"whole: look at the reward model, or {_SMALLER}, and start anew"
        )
