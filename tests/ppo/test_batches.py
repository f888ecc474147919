"""A run's batches: tokens chosen as the settings say, the summaries of a dialogue side by side."""

from __future__ import annotations

from types import SimpleNamespace

import config
from detox.model.sampling import Sampling
from detox.ppo import batches
from detox.ppo.prompt_stream import PromptStream
from detox.stage.parallel import Processes


def test_the_settings_decide_how_tokens_are_chosen():
    settings = config.Rollout(temperature=0.7, top_k=5, top_p=0.9)
    assert batches.sampling(settings) == Sampling(temperature=0.7, top_k=5, top_p=0.9)
    assert batches.sampling(config.Rollout()) == Sampling(), "the whole distribution"


def test_each_summary_of_a_run_has_a_number_of_its_own_whichever_process_samples_it():
    settings = config.PPOTraining(ppo=config.PPO(batch_size=12, minibatch_size=12, samples_per_dialogue=3))
    column, seen = [[10], [11], [12], [13], [14]], {}

    def rollout(ids, keys, *_):
        seen.update(zip(keys, ids, strict=True))
        return SimpleNamespace(response_ids=[])

    for rank in range(2):
        tokenizer = SimpleNamespace(batch_decode=lambda ids, **_: [])
        trainer = SimpleNamespace(processes=Processes(rank, 2), rollout=rollout, tokenizer=tokenizer)
        stream = PromptStream(column, seed=0)
        for _ in range(2):
            batches.roll_out(trainer, stream, settings)
    assert sorted(seen) == list(range(24))
    prompts = [prompt.query_ids.tolist() for prompt in PromptStream(column, seed=0).take(8)]
    assert [seen[key].tolist() for key in range(24)] == [prompts[key // 3] for key in range(24)]
