"""Whether a dialogue is like those of the run: by how sure the starting model is of its own summary of it.

What a model was never taught is told by its doubts, whatever the model: each run's own dialogues set the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from datasets import DatasetDict

from detox.model.engine import Engine, Generated, by_length

_MOST = 64
_FALSE_ALARMS = 0.05
"""Share of dialogues like those of the run that may be called unlike them."""


@dataclass(frozen=True)
class Usual:
    """How sure the starting model is of its summaries of some dialogues of the run, in any order."""

    values: tuple[float, ...]

    def note(self, value: float) -> str | None:
        """Return what to say of a dialogue with such a summary, if it is unlike those of the run or can't be compared.

        With the k-th lowest of n values as the limit, k / (n + 1) of the dialogues that are like them fall below it,
        whatever the distribution of the values.
        """
        count = len(self.values)
        rank = int(_FALSE_ALARMS * (count + 1))
        if not rank:
            return f"note: the run has {count} held-out dialogues, too few to tell whether this one is like them"
        limit, value = (float(f"{number:.3g}") for number in (sorted(self.values)[rank - 1], value))
        if value >= limit:
            return None
        return (
            f"note: unlike the dialogues of this run (mean probability of a token of the summary before: {value:g}; "
            f"for {count - rank + 1} of {count} of them {limit:g} or more); do not trust these summaries"
        )


def sureness(made: Generated) -> list[float]:
    """Return the geometric mean of the probabilities of each response's tokens."""
    lengths = [len(response) for response in made.responses]
    return [math.exp(total / length) for total, length in zip(made.logprobs.sum(1).tolist(), lengths, strict=True)]


def usual(engine: Engine, prepared: DatasetDict, max_new_tokens: int, batch_size: int) -> Usual:
    """Summarize a few dozen held-out dialogues, spread over both splits, greedily, and return how sure that was.

    Args:
        engine: of the starting model.
        prepared: the run's dialogues.
        max_new_tokens, batch_size: as in the evaluation.
    """
    held_out = [(name, row) for name in ("test", "validation") for row in range(len(prepared[name]))]
    chosen = [held_out[i * len(held_out) // _MOST] for i in range(_MOST)] if len(held_out) > _MOST else held_out
    queries = [torch.tensor(prepared[name][row]["input_ids"]) for name, row in chosen]
    values: list[float] = []
    with torch.no_grad():
        for places in by_length([len(query) for query in queries], batch_size):
            values += sureness(engine.generate(engine.encode([queries[i] for i in places]), max_new_tokens))
    return Usual(tuple(values))
