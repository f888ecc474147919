"""The coefficient of the KL penalty from update to update: fixed, or steered to a target KL."""

from __future__ import annotations

from collections.abc import Mapping


class FixedKLController:
    """A KL coefficient that stays."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, kl: float, n: int) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.value = state["value"]


class AdaptiveKLController(FixedKLController):
    """A KL coefficient that steers the KL of a response to a target.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2; `AdaptiveKLController` in trl 0.11.4.
    """

    def __init__(self, init: float, target: float, horizon: float) -> None:
        """Start at `init`.

        Args:
            init: first coefficient.
            target: KL of a response, summed over its tokens, nats.
            horizon: responses over which the coefficient can move by a factor of about exp(0.2).
        """
        super().__init__(init)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, n: int) -> None:
        """Raise the coefficient where `kl`, a mean over `n` responses, exceeds the target, else lower it."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n / self.horizon
