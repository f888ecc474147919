"""Trainers of models of a few thousand weights, ours and TRL's own, and what they learn from."""

from __future__ import annotations

from dataclasses import replace

import torch
import trl

import config
from detox.model import loading, policy, tokenizers
from detox.ppo.ppo_config import Seq2SeqPPOConfig
from detox.ppo.rollouts import Rollout
from detox.ppo.trainer import Seq2SeqPPOTrainer

PPO = config.PPO(
    updates=4,
    batch_size=6,
    minibatch_size=3,
    ppo_epochs=2,
    learning_rate=1e-2,
    lora_r=4,
    advantages="gae",
    value_trust=False,
    value_refit=0,
    schedule="constant",
    unfinished_penalty=0.0,
)


def trainer_for(folder, engine="hf", dropout=0.0, ref_model=None, **changes):
    settings = replace(PPO, **changes)
    start = loading.load_summarizer(str(folder))
    if dropout:
        for module in start.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
    made = policy.make_policy(start, settings)
    ppo = Seq2SeqPPOConfig.from_settings(settings, seed=0, engine=engine, cpu=True)
    return Seq2SeqPPOTrainer(ppo, made, ref_model, tokenizers.load_tokenizer(str(folder)))


def stock_trainer(folder, **options):
    start = loading.load_summarizer(str(folder))
    made = policy.make_policy(start, PPO)
    ppo = trl.PPOConfig(
        batch_size=6, mini_batch_size=3, ppo_epochs=1, learning_rate=1e-2, accelerator_kwargs={"cpu": True}, **options
    )
    return trl.PPOTrainer(ppo, made, None, tokenizers.load_tokenizer(str(folder)))


def queries(count, seed=0, longest=20):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 60, (3 + (7 * i + seed) % (longest - 3),), generator=generator) for i in range(count)]


def rewarded(rollout):
    """Even ids are good."""
    return torch.tensor([float((ids % 2 == 0).float().mean()) * 4 for ids in rollout.response_ids])


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def given(trainer, responses, prompts=None):
    """Return a rollout of responses that were not sampled here."""
    prompts = prompts or queries(len(responses))
    with torch.no_grad():
        encoded = trainer.engine.encode(prompts)
    finished = torch.tensor([int(ids[-1]) == 1 for ids in responses])
    return Rollout(prompts, responses, finished, encoded)
