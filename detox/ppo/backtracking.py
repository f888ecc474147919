"""Steps whose size is found by the KL that they make: a policy that went too far goes back part of the way.

`StepSize` decides; here its decisions meet the parameters. Where the learning rate is set, nothing happens.
"""

from __future__ import annotations

import torch

from detox.ppo.checks import TrainingError
from detox.ppo.experience import Experience
from detox.ppo.rewards import kl_penalty
from detox.ppo.rollouts import Rollout
from detox.ppo.state import Snapshot, TrainingState
from detox.ppo.teacher_forcing import encoded_now, forced

MAX_STEPS_BACK = 50
"""In one update; a policy that is still too far is beyond repair."""


def begin(state: TrainingState, steps: int) -> None:
    """Begin an update of so many optimizer steps.

    The KL that it aims at falls over the second half of the run, so that the policy settles: with the square of what
    is left, as the KL of a learning rate that decays linearly does.
    """
    if state.step_size is not None and state.config.step_kl is not None:
        left = max(state.left, 1 / (state.config.updates or 1))
        state.step_size.begin(state.config.step_kl * min(1.0, 2 * left) ** 2, steps)


def went_too_far(state: TrainingState, kl: float, before: Snapshot) -> bool:
    """Take the policy back where it has moved too far; return whether it was.

    Args:
        state: of the training.
        kl: of the policy at the update's beginning from the one now, mean over tokens, nats.
        before: the parameters then.

    Raises:
        TrainingError: it has gone back too often.
    """
    if state.step_size is None:
        return False
    share = state.step_size.measured(kl)
    if share < 1 and state.step_size.steps_back > MAX_STEPS_BACK:
        raise TrainingError(
            f"an update moves the policy too far even at a learning rate of {state.step_size.rate:.1e}; "
            "look at the reward model, and choose --ppo.schedule constant with a rate of your own"
        )
    _go_back(state, share, before)
    return share < 1


def end(state: TrainingState, rollout: Rollout, experience: Experience, steps: int, before: Snapshot) -> None:
    """End an update, whose last step no minibatch has measured."""
    if state.step_size is not None:
        while steps == 1 and went_too_far(state, kl_from(state, rollout, experience), before):
            pass  # no minibatch has seen the KL of the only step
        _go_back(state, state.step_size.end(), before)


def _go_back(state: TrainingState, share: float, before: Snapshot) -> None:
    """Leave of the policy's way from `before` only a share; the value head stays."""
    if share < 1:
        for parameter, start in zip(state.optimizer.param_groups[0]["params"], before.parameters):
            parameter.data.copy_(torch.lerp(start, parameter.data, share))


@torch.no_grad()
def kl_from(state: TrainingState, rollout: Rollout, experience: Experience) -> float:
    """Return the KL of the policy that sampled the rollout from the one now, nats a token."""
    now, _ = forced(state.engine, rollout, encoded_now(state.engine, rollout), state.microbatch_size)
    mine = experience.mask[experience.mine, : now.shape[1]]
    old = experience.old_logprobs[experience.mine, : now.shape[1]]
    sums = torch.stack([(kl_penalty(old, now, "k3") * mine).sum(), mine.sum()])
    total, count = state.processes.gather(sums[None]).sum(0).tolist()
    return total / count
