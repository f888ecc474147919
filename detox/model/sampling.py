"""How the next token is chosen from logits: greedy or sampled, top-k and top-p, banned sequences, seeds by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from detox.model.devices import traits


@dataclass(frozen=True)
class Sampling:
    """How a next token is chosen.

    Attributes:
        uniforms: [B, at least max_new_tokens] in [0, 1): token t of example b is the inverse of the cumulative
            distribution at uniforms[b, t], whatever else is in the batch; None is greedy.
        temperature, top_k, top_p: change the distribution; the defaults leave it whole.
        banned: sequences of ids that are never completed.

    Raises:
        ValueError: a number out of its range.
    """

    uniforms: Tensor | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not (0 < self.temperature < float("inf") and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(
                f"temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}: must be above 0; 0 (all) or "
                "more; above 0 and at most 1"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the distribution stays as it is, but for what is banned."""
        return (self.temperature, self.top_k, self.top_p) == (1.0, 0, 1.0)


GREEDY = Sampling()


def uniforms(seed: int, stream: int, keys: Sequence[int], count: int) -> Tensor:
    """Return [len(keys), count] uniform numbers in [0, 1) that depend on (seed, stream, key) alone.

    Each example has a stream of its own, so that batch order, batch size and the number of processes do not change
    what it is given.
    """
    draws = [np.random.default_rng([seed, stream, key]).random(count, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, count)


def choose(logits: Tensor, draws: Tensor | None, sampling: Sampling, prefixes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose the next token of each row.

    Args:
        logits: [b, V] float32.
        draws: [b] uniform numbers, or None for the most likely token.
        sampling: temperature, top-k, top-p and banned sequences.
        prefixes: [b, t] the tokens so far; needed where sequences of several tokens are banned.

    Returns:
        The tokens [b] and their log-probabilities [b] under `logits` as they came.
    """

    def allowed() -> Tensor:
        return _ban(logits.clone(), prefixes, sampling.banned, -torch.inf) if sampling.banned else logits

    if draws is None:
        tokens = allowed().argmax(-1)
        return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    highest = logits.amax(-1, keepdim=True)
    weights = (logits - highest).exp_()
    normalizer = weights.sum(-1, keepdim=True).log_().add_(highest)
    if not sampling.is_plain:
        weights = _filtered(allowed(), sampling)
    elif sampling.banned:
        _ban(weights, prefixes, sampling.banned, 0.0)
    # torch.multinomial over a vocabulary takes twenty times as long on a CPU, and cannot be seeded a row.
    cumulative = _cumulative(weights)
    found = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    found.clamp_(max=logits.shape[-1] - 1)
    return found.squeeze(-1), (logits.gather(-1, found) - normalizer).squeeze(-1)


def _filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the probabilities that temperature, top-k and top-p leave."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = (ordered.cumsum(-1) - ordered) >= sampling.top_p
        logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
    return logits.softmax(-1)


def _cumulative(probabilities: Tensor) -> Tensor:
    """Return the sums of [b, V] probabilities from left to right, which rise at probabilities above 0 only.

    A device that adds up in parts rounds the parts in other orders, so that its sums fall here and rise there where
    the probability is 0; `searchsorted` could then draw such a token.
    """
    sums = probabilities.cumsum(-1)
    if traits(probabilities.device).ordered_scan:
        return sums
    return sums.masked_fill_(probabilities == 0, 0.0).cummax(-1).values


def _ban(scores: Tensor, prefixes: Tensor | None, banned: tuple[tuple[int, ...], ...], score: float) -> Tensor:
    """Give every token that completes a banned sequence this score, in place; return the scores."""
    alone, endings = _endings(banned)
    scores[:, alone] = score
    lengths = sorted({len(beginning) for beginning in endings})
    for row, prefix in enumerate(prefixes.tolist() if endings and prefixes is not None else ()):
        for length in lengths:
            scores[row, endings.get(tuple(prefix[-length:]), [])] = score
    return scores


@lru_cache(maxsize=8)
def _endings(banned: tuple[tuple[int, ...], ...]) -> tuple[list[int], dict[tuple[int, ...], list[int]]]:
    """Return the banned tokens, and by the beginnings of longer banned sequences what may not follow them."""
    endings: dict[tuple[int, ...], list[int]] = {}
    for *beginning, last in banned:
        endings.setdefault(tuple(beginning), []).append(last)
    return endings.pop((), []), endings
