"""Detoxify a summarizer with PPO, and show that it worked; `docs/python.md` has examples.

Names are loaded when they are first used, so that `import detox` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Seq2SeqPPOConfig": "detox.ppo.ppo_config",
    "Seq2SeqPPOTrainer": "detox.ppo.trainer",
    "RewardModel": "detox.scoring.reward",
    "compare_summaries": "detox.evaluation.two_lists",
    "load_classifier": "detox.scoring.classifier",
    "load_summarizer": "detox.model.loading",
    "load_tokenizer": "detox.model.tokenizers",
    "load_toxicity": "detox.scoring.toxicity",
    "make_engine": "detox.model.engines",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'detox' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
