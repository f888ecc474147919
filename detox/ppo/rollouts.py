"""Rollouts: the policy's answers to prompts, and how they are sampled (step 1 of PPO)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detox.model.engine import Encoded, Engine, Generated
from detox.model.sampling import Sampling, uniforms
from detox.ppo import memory
from detox.ppo.state import TrainingState

ROLLOUT_STREAM = 0
"""Stands after the seed in what decides the random numbers of rollouts."""


@dataclass
class Rollout:
    """What the policy answered to B prompts.

    Attributes:
        query_ids: [length] of ids each.
        response_ids: [length] of ids each, without the decoder start token.
        finished: [B] bool, True = ended with an end-of-sequence token within the limit.
        encoded: encoder outputs under the policy as it was.
        logprobs: [B, T] float32 from sampling, or None where the responses came from elsewhere.
        hidden: [tokens, d], packed, the decoder's last hidden states that predicted the tokens; as `logprobs` at first.
    """

    query_ids: list[Tensor]
    response_ids: list[Tensor]
    finished: Tensor
    encoded: Encoded
    logprobs: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(response) for response in self.response_ids]


@torch.no_grad()
def sample(
    state: TrainingState, query_ids: Sequence[Tensor], keys: Sequence[int], max_new_tokens: int, sampling: Sampling
) -> Rollout:
    """Sample a response to each prompt, without dropout.

    Args:
        state: whose policy answers.
        query_ids: prompts, [length] of ids each; several samples of a prompt are neighbours with one tensor.
        keys: one number a response; (seed, key) alone decides its random numbers.
        max_new_tokens: longest response, its end-of-sequence token included.
        sampling: temperature and the like; its uniforms are drawn here.
    """
    draws = uniforms(state.config.seed, ROLLOUT_STREAM, keys, max_new_tokens)

    def answered(group: slice) -> tuple[Encoded, Generated]:
        encoded = encode_once(state.engine, query_ids[group])
        seeded = dataclasses.replace(sampling, uniforms=draws[group])
        return encoded, state.engine.generate(encoded, max_new_tokens, seeded)

    return _joined(list(query_ids), memory.in_groups(state, len(query_ids), answered))


def encode_once(engine: Engine, query_ids: Sequence[Tensor], reference: bool = False) -> Encoded:
    """Return prompts encoded, each tensor once, however many samples are wanted of it."""
    different = {id(query): query for query in query_ids}
    encoded = engine.encode(list(different.values()), reference=reference)
    if len(different) == len(query_ids):
        return encoded
    places = {key: i for i, key in enumerate(different)}
    return encoded.select([places[id(query)] for query in query_ids])


def _joined(query_ids: list[Tensor], parts: list[tuple[Encoded, Generated]]) -> Rollout:
    """Return what was sampled for one group of prompts after the other as one rollout."""
    if len(parts) == 1:
        encoded, generated = parts[0]
        return Rollout(
            query_ids, generated.responses, generated.finished, encoded, generated.logprobs, generated.hidden
        )
    longest = max(generated.logprobs.shape[1] for _, generated in parts)
    padded = [F.pad(generated.logprobs, (0, longest - generated.logprobs.shape[1])) for _, generated in parts]
    return Rollout(
        query_ids,
        [response for _, generated in parts for response in generated.responses],
        torch.cat([generated.finished for _, generated in parts]),
        Encoded(
            torch.cat([encoded.hidden for encoded, _ in parts]),
            tuple(length for encoded, _ in parts for length in encoded.lengths),
        ),
        torch.cat(padded),
        torch.cat([generated.hidden for _, generated in parts]),
    )
