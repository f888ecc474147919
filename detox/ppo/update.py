"""Update: passes of clipped optimizer steps over one experience (step 5 of PPO).

Source: Schulman et al. 2017, arXiv 1707.06347, algorithm 1. Its details have numbers in Huang et al. 2022, "The 37
Implementation Details of Proximal Policy Optimization" (iclr-blog-track.github.io).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detox.model.engine import by_length, unpack
from detox.ppo import backtracking
from detox.ppo.experience import Experience
from detox.ppo.losses import policy_loss, value_loss
from detox.ppo.memory import in_microbatches
from detox.ppo.rollouts import Rollout
from detox.ppo.state import Snapshot, TrainingState
from detox.ppo.teacher_forcing import encoded_now

MINIBATCH_STREAM = 1
"""Stands after the seed in what decides the minibatches."""


def run_ppo_epochs(
    state: TrainingState, rollout: Rollout, experience: Experience, before: Snapshot
) -> list[dict[str, float]] | None:
    """Change policy and value head; return each minibatch's statistics, or None where a gradient is not finite.

    Args:
        state: is left half way where a gradient is not finite.
        rollout: this process's.
        experience: of all processes.
        before: the parameters as they are.
    """
    config, count = state.config, len(experience.mask)
    statistics: list[dict[str, float]] = []
    steps = config.ppo_epochs * (count // state.minibatch_size)
    backtracking.begin(state, steps)
    for ppo_epoch in range(config.ppo_epochs):
        # 5.1 Shuffled minibatches, each example once a pass. Source: detail 6.
        seed = [config.seed, MINIBATCH_STREAM, state.updates_done, ppo_epoch]
        of_this_epoch: list[dict[str, float]] = []
        for rows in deal(count, state.minibatch_size, seed):
            # 5.2 to 5.4 The gradient; anew from nearer by, where the steps before have led too far.
            stats = minibatch(state, rollout, experience, rows, entropy=ppo_epoch == 0)
            while backtracking.went_too_far(state, stats["approx_kl"], before):
                stats = minibatch(state, rollout, experience, rows, entropy=ppo_epoch == 0)
            of_this_epoch.append(stats)
            if not math.isfinite(stats["grad_norm"]):
                return None
            # 5.5 A step of Adam. Source: detail 3 (its epsilon is 1e-5).
            optimizer_step(state)
        statistics += of_this_epoch
        # A pass that led far enough is the last (TRL: a minibatch; `_early_stop` in trl 0.11.4).
        approx_kl = float(np.mean([stats["approx_kl"] for stats in of_this_epoch]))
        if config.early_stop_kl is not None and approx_kl > config.early_stop_kl:
            break
    state.optimizer.zero_grad()
    backtracking.end(state, rollout, experience, steps, before)
    return statistics


def deal(count: int, size: int, seed: Sequence[int]) -> list[list[int]]:
    """Deal examples to minibatches at random, but one of each `count / size` neighbours to every minibatch.

    A process's examples are neighbours, so that each minibatch has as many of one process as of any other, whatever
    their number: no process waits, and the minibatches do not depend on it.

    Args:
        count: examples, a multiple of `size`.
        size: examples of a minibatch.
        seed: decides who goes where.

    Raises:
        ValueError: `size` does not divide `count`.
    """
    if count % size:
        raise ValueError(f"{count} examples can't be dealt to minibatches of {size}")
    neighbours = np.arange(count).reshape(size, -1)
    return np.random.default_rng(seed).permuted(neighbours, axis=1).T.tolist()


def minibatch(
    state: TrainingState, rollout: Rollout, experience: Experience, rows: list[int], entropy: bool
) -> dict[str, float]:
    """Leave the clipped gradient of one optimizer step in the parameters; return its statistics.

    Each process adds its own examples' part. Nothing else of the model's size passes between processes.

    Args:
        state: of the training.
        rollout: this process's.
        experience: of all processes.
        rows: of the minibatch in the experience.
        entropy: report it, too.
    """
    own = accumulate(state, rollout, experience, rows, entropy)
    parts = zip(own, state.processes.gather(torch.stack([*own.values()])[None]).unbind(1))
    totals = {name: part.max() if name == "ratio_max_deviation" else part.sum() for name, part in parts}
    grads = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    state.processes.sum(grads)
    # 5.4 The gradient of policy and value head together is clipped in every step. Source: detail 11.
    norm = torch.nn.utils.get_total_norm(grads)
    limit = math.inf if state.config.max_grad_norm is None else state.config.max_grad_norm
    torch.nn.utils.clip_grads_with_norm_(state.parameters, limit, norm)
    # Each look at a number waits for the device: all are looked at together.
    totals["grad_norm"] = norm
    return dict(zip(totals, torch.stack([*totals.values()]).tolist()))


@in_microbatches
def accumulate(
    state: TrainingState, rollout: Rollout, experience: Experience, rows: list[int], entropy: bool
) -> dict[str, Tensor]:
    """Leave the gradient of this process's examples of a minibatch in the parameters; return its part of the means."""
    counted, first = sum(experience.lengths[i] for i in rows), experience.mine.start
    own = [i - first for i in rows if experience.mine.start <= i < experience.mine.stop]
    state.optimizer.zero_grad()
    totals: dict[str, Tensor] = {}
    for group in by_length([rollout.lengths[i] for i in own], state.microbatch_size):
        for name, value in microbatch(state, rollout, experience, [own[i] for i in group], counted, entropy).items():
            joined = torch.maximum if name == "ratio_max_deviation" else torch.add
            totals[name] = joined(totals[name], value) if name in totals else value
    return totals


def microbatch(
    state: TrainingState, rollout: Rollout, experience: Experience, indices: list[int], counted: int, entropy: bool
) -> dict[str, Tensor]:
    """Add the gradient of one microbatch; its statistics are its share of the minibatch's means.

    Args:
        state: of the training.
        rollout: this process's.
        experience: of all processes.
        indices: of the microbatch's examples in `rollout`.
        counted: tokens of the whole minibatch, over all processes.
        entropy: report it, too.
    """
    config, engine = state.config, state.engine
    rows = torch.tensor([experience.mine.start + i for i in indices], device=engine.device)
    encoded = encoded_now(engine, rollout)(indices)
    outputs = engine.logprobs(encoded, [rollout.response_ids[i] for i in indices], entropy=entropy)
    mask, columns = outputs.mask, slice(outputs.mask.shape[1])

    # 5.2 The clipped surrogate objective. Source: equation 7; detail 8.
    old_logprobs = experience.old_logprobs[rows, columns]
    advantages = experience.advantages[rows, columns]
    loss, of_policy = policy_loss(outputs.logprobs, old_logprobs, advantages, mask, config.cliprange, counted)
    with torch.no_grad():
        stats = {
            "policy_loss": loss.detach(),
            "policy_kl": ((old_logprobs - outputs.logprobs) * mask).sum() / counted,
            **of_policy,
        }
        if outputs.entropy is not None:
            stats["entropy"] = outputs.entropy.sum() / counted

    # 5.3 The value loss, clipped likewise. Source: detail 9. A head that is fitted anew later on only reports it.
    if state.critic is not None:
        values = unpack(engine.value(outputs.hidden), mask)
        old_values, returns = experience.old_values[rows, columns], experience.returns[rows, columns]
        of_head, of_values = value_loss(values, old_values, returns, mask, config.cliprange_value, counted)
        loss = loss + state.value_weight * of_head if state.value_weight else loss
        stats |= {f"value_{name}": value for name, value in of_values.items()}
        stats |= {"value_loss": of_head.detach(), "value_mean": (values.detach() * mask).sum() / counted}
    loss.backward()
    return stats


def optimizer_step(state: TrainingState) -> None:
    """Move the parameters along their gradient, at the rate that the step size has found, if it seeks one."""
    if state.step_size is not None:
        state.optimizer.param_groups[0]["lr"] = state.step_size.rate
        state.step_size.took_step()
    state.optimizer.step()


def first_deviation(state: TrainingState, rollout: Rollout, experience: Experience) -> float:
    """Return mean |ratio - 1| as it is now, the largest over processes.

    Looked at are the examples whose old log-probabilities were computed together, in the way of an update: in other
    company a product may be rounded otherwise, and in bfloat16 that is as much as some mistakes give.
    """
    together = by_length(rollout.lengths, state.microbatch_size)[0]
    rows = [experience.mine.start + i for i in together]
    own = accumulate(state, rollout, experience, rows, entropy=False)
    return max(state.processes.gather_objects(float(own["ratio_deviation"])))
