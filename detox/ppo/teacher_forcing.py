"""Teacher forcing: what a model says of responses that are given, a microbatch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detox.model.engine import Encoded, Engine, by_length
from detox.ppo.rollouts import Rollout, encode_once


def forced(
    engine: Engine,
    rollout: Rollout,
    encoded: Callable[[Sequence[int]], Encoded],
    microbatch_size: int,
    reference: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return what a model says of the responses.

    Args:
        engine: the model.
        rollout: B prompts and responses.
        encoded: gives the prompts at some indices, encoded by this model.
        microbatch_size: examples that run at once.
        reference: adapters off.

    Returns:
        Log-probabilities [B, T], 0 beyond a response's end; hidden states [tokens, d], packed.
    """
    logprobs = torch.zeros(len(rollout.lengths), max(rollout.lengths), device=engine.device)
    hidden = [torch.empty(0)] * len(logprobs)
    for group in by_length(rollout.lengths, microbatch_size):
        responses = [rollout.response_ids[i] for i in group]
        outputs = engine.logprobs(encoded(group), responses, reference=reference)
        logprobs[group, : outputs.logprobs.shape[1]] = outputs.logprobs
        for i, rows in zip(group, outputs.hidden.split([rollout.lengths[i] for i in group])):
            hidden[i] = rows
    return logprobs, torch.cat(hidden)


def encoded_now(engine: Engine, rollout: Rollout) -> Callable[[Sequence[int]], Encoded]:
    """Return what gives the prompts at some indices, encoded by the policy as it is."""
    if not engine.encoder_is_trained:
        return rollout.encoded.select
    return lambda indices: encode_once(engine, [rollout.query_ids[i] for i in indices])
