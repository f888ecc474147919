"""A run's batches: tokens chosen as the settings say, the summaries of a dialogue side by side."""

from __future__ import annotations

import config
from detox.model.sampling import Sampling
from detox.ppo import batches


def test_the_settings_decide_how_tokens_are_chosen():
    settings = config.Rollout(temperature=0.7, top_k=5, top_p=0.9)
    assert batches.sampling(settings) == Sampling(temperature=0.7, top_k=5, top_p=0.9)
    assert batches.sampling(config.Rollout()) == Sampling(), "the whole distribution"
