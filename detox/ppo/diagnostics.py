"""What a run says of itself where its figures leave their usual range: once a kind, with what to turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detox.stage.figures import number

CLIPPED = 0.3
"""Share of tokens whose ratio the clip holds back; past it most of the gradient is lost."""
MOVED = 4.0
"""Times the wanted KL of an update."""
ENTROPY = 4.0
"""Factor by which the entropy may fall or rise from that of the first update."""
IN_A_ROW = 3
"""Updates."""


def warnings(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what there is to warn of after the last update, by kind, if no line before it has warned of that.

    Args:
        lines: of metrics.jsonl so far; `warnings` names the kinds that were told then.
    """
    told = {kind for line in lines[:-1] for kind in line.get("warnings", ())}
    sound = [line for line in lines if "skipped" not in line]
    if not sound or "skipped" in lines[-1]:
        return {}
    found = {"step": _step(sound), "entropy": _entropy(sound), "critic": _critic(sound)}
    return {kind: text for kind, text in found.items() if text is not None and kind not in told}


def _step(lines: Sequence[Mapping[str, Any]]) -> str | None:
    clipped, moved, wanted = (
        number(lines[-1].get(f"ppo/policy/{name}")) for name in ("clip_fraction", "step_kl", "step_kl_target")
    )
    if clipped is not None and clipped > CLIPPED:
        much = f"{clipped:.0%} of the tokens were clipped"
    elif moved is not None and wanted is not None and moved > MOVED * wanted:
        much = f"the policy moved by {moved:.3g} nats a token in an update, not {wanted:.3g}"
    else:
        return None
    return f"{much}: steps are too long; lower --ppo.step-kl (schedule kl) or --ppo.learning-rate"


def _entropy(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Compare means over updates, since the dialogues of one are few."""
    values = [value for line in lines if (value := number(line.get("ppo/policy/entropy"))) is not None]
    if len(values) < 2 * IN_A_ROW:
        return None
    first, last = (sum(part) / IN_A_ROW for part in (values[:IN_A_ROW], values[-IN_A_ROW:]))
    if ENTROPY * last < first:
        return (
            f"entropy fell from {first:.3g} to {last:.3g} nats a token: summaries become alike; raise --ppo.kl-coef, "
            "and read some with evaluate_ppo.py"
        )
    if last > ENTROPY * first:
        return (
            f"entropy rose from {first:.3g} to {last:.3g} nats a token: summaries become arbitrary; raise "
            "--ppo.kl-coef, or lower --ppo.step-kl"
        )
    return None


def _critic(lines: Sequence[Mapping[str, Any]]) -> str | None:
    explained = [number(line.get("ppo/val/explained_variance")) for line in lines[-IN_A_ROW:]]
    if len(explained) < IN_A_ROW or not all(share is not None and share < 0 for share in explained):
        return None
    weight = number(lines[-1].get("ppo/val/trust"))
    heard = f"it still has a weight of {weight:.0%} in the advantages" if weight else "it takes no part for now"
    return (
        f"the value head has predicted worse than the mean for {IN_A_ROW} updates ({explained[-1]:.0%} of the variance "
        f"explained), {heard}; --ppo.advantages batch needs no value head"
    )
