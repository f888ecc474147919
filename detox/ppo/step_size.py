"""The policy's learning rate that moves it by a wanted KL in an update; the value head's is not touched."""

from __future__ import annotations

import math
from collections.abc import Mapping

TOO_FAR = 1.5
"""Times the wanted KL, past which the policy goes back."""
FASTEST_CLIMB = 4.0
"""Largest factor by which the rate grows from one optimizer step to the next."""
MEMORY = 0.7
"""Weight that what was measured keeps from one update to the next."""
LEAST_KL = 1e-16
"""Where rounding leaves nothing to measure, as at a rate of 1e-6."""


class StepSize:
    """Learning rate by the KL that is measured between optimizer steps.

    Near a policy, the KL from it grows with the square of the distance: after steps whose rates add up to s it is
    c s^2. Each minibatch measures the KL so far before its own step, so that c is known from the second step on, long
    before the update ends. The rate of a step is sqrt(target / c) / steps, at most `FASTEST_CLIMB` times the one
    before, and a policy that is past `TOO_FAR` times the target goes back on its straight way to where it should be.
    So a first rate that is far too high or too low does no harm. What a minibatch measures is noisy (few tokens are
    uncertain, and all KL is theirs); therefore c is a ratio of sums over minibatches, in which earlier updates fade
    (`MEMORY`).

    The idea, to steer the learning rate by the KL, is that of the adaptive schedule of rsl_rl (Rudin et al. 2021,
    arXiv 2109.11978), which multiplies the rate by 1.5 or divides by it once a minibatch.

    Args:
        rate: of the first step.

    Attributes:
        rate: of the next step.
        target: KL that the update under way aims at, nats a token.
        steps_back: in this update.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.target = 0.0
        self.steps_back = 0
        self._kl = self._square = 0.0  # sums of what was measured, and of s^2 there

    def begin(self, target: float, steps: int) -> None:
        """Begin an update of so many optimizer steps."""
        self.target, self.steps_back = target, 0
        self._steps, self._taken, self._moved, self._rounding = steps, 0, 0.0, 0.0
        self._kl, self._square = self._kl * MEMORY, self._square * MEMORY
        self._pace()

    def measured(self, kl: float) -> float:
        """Take in the KL so far, as the minibatch of the next step sees it.

        Args:
            kl: mean over tokens, nats. That before the first step is what rounding adds, in bfloat16.

        Returns:
            The share of the way since the update began that the policy should keep. Below 1, go back and measure
            again.
        """
        if not self._taken:
            self._rounding = kl
            return 1.0
        if not math.isfinite(kl):
            self._kl = self._square = 0.0
            self.rate *= 0.1
            return self._back(0.1)
        self._kl += kl - self._rounding
        self._square += self._moved**2
        share = self._share(self.target * (self._taken / self._steps) ** 2)
        self._pace()
        return share

    def took_step(self) -> None:
        """Take note of an optimizer step at `rate`."""
        self._taken += 1
        self._moved += self.rate

    def end(self) -> float:
        """End the update, whose last step no minibatch has measured; return the share of the way to keep."""
        return self._share(self.target)

    @property
    def kl(self) -> float:
        """KL of the way that the update has come, nats a token; 0 where nothing was measured yet."""
        return self._curvature * self._moved**2

    @property
    def _curvature(self) -> float:
        return max(self._kl, LEAST_KL) / self._square if self._square else 0.0

    def _pace(self) -> None:
        if self._square:
            self.rate = min(math.sqrt(self.target / self._curvature) / self._steps, FASTEST_CLIMB * self.rate)

    def _share(self, planned: float) -> float:
        return self._back(math.sqrt(planned / self.kl)) if self.kl > TOO_FAR * self.target else 1.0

    def _back(self, share: float) -> float:
        self.steps_back += 1
        self._moved *= share
        # What was measured so far away counts little beside what comes next: the KL is not so plain there.
        self._kl, self._square = self._kl * share**4, self._square * share**4
        return share

    def state_dict(self) -> dict[str, float]:
        return {"rate": self.rate, "kl": self._kl, "square": self._square}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.rate, self._kl, self._square = state["rate"], state["kl"], state["square"]
