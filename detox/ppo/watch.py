"""What a run's log shows of its summaries: the one that scored lowest at first, and the policy's there now."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detox.ppo import batches
from detox.ppo.prompt_stream import Prompt
from detox.ppo.trainer import Seq2SeqPPOTrainer
from detox.stage.errors import printable

if TYPE_CHECKING:
    import config

_WIDTH = 80


def lowest(
    before: dict[str, Any] | None, prompts: Sequence[Prompt], summaries: Sequence[str], scores: Tensor
) -> dict[str, Any] | None:
    """Return the summary to watch: the one of this rollout with the lowest of the scores [B], or that of before."""
    i = int(scores.argmin())
    if not scores.isfinite().all() or (before is not None and before["score"] <= float(scores[i])):
        return before
    ids = prompts[i].query_ids.tolist()
    return {"score": float(scores[i]), "summary": summaries[i], "key": prompts[i].key, "query_ids": ids}


def told(trainer: Seq2SeqPPOTrainer, watched: dict[str, Any], settings: config.PPOTraining) -> str:
    """Return the watched summary, and the policy's now by the same random numbers, in lines of at most 80 columns."""
    query, limit = torch.tensor(watched["query_ids"]), settings.rollout.max_new_tokens
    response = trainer.rollout([query], [watched["key"]], limit, batches.sampling(settings.rollout)).response_ids[0]
    now = trainer.tokenizer.decode(response, skip_special_tokens=True)
    return f"{_paragraph('at first', watched['summary'])}\n{_paragraph('now', now)}"


def _paragraph(name: str, text: str) -> str:
    return textwrap.fill(printable(text, 300), _WIDTH, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)
