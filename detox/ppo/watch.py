"""What a run's log shows: of the dialogue with the lowest score so far, the summaries of starting model and policy."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detox.ppo.prompt_stream import Prompt
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.stage.errors import printable

if TYPE_CHECKING:
    import config

_WIDTH = 80


def lowest(before: dict[str, Any] | None, prompts: Sequence[Prompt], scores: Tensor) -> dict[str, Any] | None:
    """Return what to watch: the prompt of this rollout with the lowest of the scores [B], or that of before."""
    i = int(scores.argmin())
    if not scores.isfinite().all() or (before is not None and before["score"] <= float(scores[i])):
        return before
    return {"score": float(scores[i]), "query_ids": prompts[i].query_ids.tolist()}


@torch.no_grad()
def told(trainer: Seq2SeqPPOTrainer, watched: dict[str, Any], settings: config.PPOTraining) -> str:
    """Return what starting model and policy are likeliest to say of it, in lines of at most 80 columns.

    Greedy, since a sample of the lowest score was an unlikely one, and shows the policy at its worst as well.
    """
    query, engine, lines = torch.tensor(watched["query_ids"]), trainer.engine, []
    for name, reference in (("at first", True), ("now", False)):
        encoded = engine.encode([query], reference=reference)
        made = engine.generate(encoded, settings.rollout.max_new_tokens, reference=reference)
        text = trainer.tokenizer.decode(made.responses[0], skip_special_tokens=True)
        lines.append(_paragraph(name, text))
    return "\n".join(lines)


def _paragraph(name: str, text: str) -> str:
    return textwrap.fill(printable(text, 300), _WIDTH, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)
