"""Experience: from rollouts and their scores to advantages and returns (steps 3 and 4 of PPO)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detox.model.engine import Encoded, Engine, response_mask, unpack
from detox.model.logprobs import linear_full_kl
from detox.ppo.advantages import batch_baseline, gae, group_baseline, trusted_gae
from detox.ppo.memory import in_microbatches
from detox.ppo.moments import masked_var, masked_whiten
from detox.ppo.rewards import kl_penalty, shape_scores, token_rewards
from detox.ppo.rollouts import Rollout, encode_once
from detox.ppo.state import TrainingState
from detox.ppo.teacher_forcing import encoded_now, forced

SAMPLED_SERVE = 1e-4
"""Nats between log-probabilities of sampling and those computed again, up to which the former serve as the old ones:
above what float32's rounding makes of large logits, far below what bfloat16's does, and nothing beside a step."""


@dataclass
class Experience:
    """The rollouts of all processes with all that the updates read; B counts the examples of all.

    Attributes:
        mine: the rows that are this process's own rollout.
        lengths: tokens of each response.
        scores: [B] float32, of the reward.
        finished: [B] bool, as in `Rollout`.
        query_lengths: [B] int64, tokens.
        mask: [B, T] bool, True = a token of the response.
        old_logprobs, old_values, ref_logprobs, kl, rewards, advantages, returns: [B, T] float32, 0 where `mask` is
            False.
    """

    mine: slice
    lengths: list[int]
    scores: Tensor
    finished: Tensor
    query_lengths: Tensor
    mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    ref_logprobs: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor


@torch.no_grad()
def make_experience(state: TrainingState, rollout: Rollout, scores: Tensor) -> Experience:
    """Return log-probabilities, values, rewards, advantages and returns of all processes' rollouts.

    Args:
        state: its score moments and usual variance take this rollout in.
        rollout: this process's.
        scores: [B] float, its own, of the reward.
    """
    # 3.1 Old log-probabilities and values, log-probabilities of the reference, the KL between: each process its own.
    own = measured(state, rollout)

    # What follows is taken over the rollouts of all processes (TRL: each process by itself).
    gather, device = state.processes.gather, state.engine.device
    counts = [rollout.lengths, [len(query) for query in rollout.query_ids], rollout.finished.tolist()]
    lengths, query_lengths, finished = gather(torch.tensor(counts, dtype=torch.long).T.contiguous()).T
    mask = response_mask(lengths.tolist(), device)
    padded = F.pad(own, (0, mask.shape[1] - own.shape[-1]))
    old_logprobs, old_values, ref_logprobs, kl = gather(padded.transpose(0, 1)).unbind(1)
    scores, finished = gather(scores.to(device)), finished.bool().to(device)

    # 3.2 Scores normalized, clipped, and less where a response did not end. Source: `PPOTrainer.step` in trl 0.11.4.
    state.score_moments.update(scores)
    shaped = shaped_scores(state, scores, finished)
    # 3.3 A reward a token: the KL penalty on each, the score on the last.
    #     Source: Ziegler et al. 2019, arXiv 1909.08593, equation 2; `PPOTrainer.compute_rewards` in trl 0.11.4.
    rewards = token_rewards(shaped, kl, mask, state.kl_ctl.value)

    # 4.1 What a token's return is above what was to be expected. Sources: those of each estimator in `advantages`.
    advantages, returns = estimated(state, rewards, shaped, kl, old_values, mask)

    # 4.2 Advantages of one size in every update. Source: `PPOTrainer.compute_advantages` in trl 0.11.4.
    if state.config.whiten_advantages:
        advantages = whitened(state, advantages, mask)
    return Experience(
        mine=state.processes.share(len(mask)),
        lengths=lengths.tolist(),
        scores=scores,
        finished=finished,
        query_lengths=query_lengths,
        mask=mask,
        old_logprobs=old_logprobs,
        old_values=old_values,
        ref_logprobs=ref_logprobs,
        kl=kl,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
    )


@in_microbatches
def measured(state: TrainingState, rollout: Rollout) -> Tensor:
    """Return old log-probabilities, old values, reference log-probabilities and KL of a rollout, [4, B, T]."""
    mask = response_mask(rollout.lengths, state.engine.device)
    old_logprobs, rollout.hidden = policy_logprobs(state, rollout)
    old_values = unpack(state.engine.value(rollout.hidden), mask)
    ref_logprobs, ref_hidden = reference_logprobs(state, rollout)
    if state.config.kl_estimator == "full":
        kl = unpack(exact_kl(state.reference[0], rollout.hidden, ref_hidden), mask)
    else:
        kl = kl_penalty(old_logprobs, ref_logprobs, state.config.kl_estimator)
    return torch.stack([old_logprobs, old_values, ref_logprobs, kl])


def policy_logprobs(state: TrainingState, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Return the policy's log-probabilities [B, T] before the update and its hidden states [tokens, d], packed.

    Sampling has computed both already. Whether its numbers are those of teacher forcing is measured once: in
    float32 they are, to rounding; in bfloat16 they are not, and are computed again each time.
    """
    if state.rollout_logprobs_serve and rollout.logprobs is not None and rollout.hidden is not None:
        return rollout.logprobs, rollout.hidden
    engine = state.engine
    logprobs, hidden = forced(engine, rollout, encoded_now(engine, rollout), state.microbatch_size)
    if state.rollout_logprobs_serve is None and rollout.logprobs is not None:
        gap = max(state.processes.gather_objects(float((rollout.logprobs - logprobs).abs().max())))
        state.rollout_logprobs_serve = gap <= SAMPLED_SERVE
    return logprobs, hidden


def reference_logprobs(state: TrainingState, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Return the reference's log-probabilities [B, T] of the responses and its hidden states [tokens, d], packed.

    An encoder that is not trained is the reference's too, and has read the prompts already.
    """
    engine, off = state.reference
    shares_encoder = engine is state.engine and not engine.encoder_is_trained

    def encode(group: Sequence[int]) -> Encoded:
        return encode_once(engine, [rollout.query_ids[i] for i in group], reference=off)

    encoded = rollout.encoded.select if shares_encoder else encode
    return forced(engine, rollout, encoded, state.microbatch_size, reference=off)


def exact_kl(engine: Engine, hidden: Tensor, ref_hidden: Tensor) -> Tensor:
    """Return the KL over the whole vocabulary, [tokens], packed.

    Args:
        engine: of the reference; the policy's head is the same.
        hidden: [tokens, d], packed, the policy's.
        ref_hidden: [tokens, d], packed, the reference's.
    """
    ours, theirs = (engine.head_input(rows.to(ref_hidden.dtype)) for rows in (hidden, ref_hidden))
    return linear_full_kl(ours, theirs, engine.head_weight, bias=engine.head_bias)


def shaped_scores(state: TrainingState, scores: Tensor, finished: Tensor) -> Tensor:
    """Return [B], what each response is rewarded with, of scores [B] and whether it ended [B]."""
    config = state.config
    return shape_scores(
        scores,
        finished,
        moments=state.score_moments,
        normalize=config.use_score_norm,
        scale=config.use_score_scaling,
        clip=config.score_clip,
        unfinished_penalty=config.unfinished_penalty,
    )


def estimated(
    state: TrainingState, rewards: Tensor, scores: Tensor, kl: Tensor, values: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns [B, T] by the estimator that the settings name.

    Args:
        state: its critic says how far the values are trusted.
        rewards: [B, T], of the scores and the penalty.
        scores: [B], shaped.
        kl: [B, T], of the penalty.
        values: [B, T], of the value head.
        mask: [B, T] bool, True = a token of the response.
    """
    config = state.config
    if state.critic is not None and config.value_trust:
        return trusted_gae(rewards, values, mask, config.gamma, config.lam, state.critic.trust)
    if config.advantages == "gae":
        return gae(rewards, values, mask, config.gamma, config.lam)
    if config.advantages == "batch":
        return batch_baseline(rewards, mask, config.gamma)
    penalties = kl * -state.kl_ctl.value
    return group_baseline(scores, penalties, mask, config.samples_per_dialogue, config.advantages)


def whitened(state: TrainingState, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return advantages [B, T] of mean 0 and variance 1, or less where they vary less than usual.

    A rollout of which all summaries are civil teaches little. Whitened by itself, what is left, the KL penalty's
    differences, would be as loud as an insult.
    """
    now, memory = float(masked_var(advantages, mask)), state.config.whiten_memory
    usual = now if state.usual_variance is None else memory * state.usual_variance + (1 - memory) * now
    state.usual_variance = usual
    return masked_whiten(advantages, mask, least_variance=usual)
