"""Counts what a rollout and an update launch on a device, and how often they wait for it, on a simulated GPU.

python -m tests.devices.counts [--lines]

The model has Flan-T5-base's layers (12 and 12), and small ones, since counts do not depend on widths: batch 16, 100
tokens, prompts of 60 to 400 tokens, bfloat16, the packed engine, LoRA on every linear layer of the decoder.
"""

from __future__ import annotations

import collections
import json
import sys
from dataclasses import replace
from typing import Any

import config
from tests import devices

BATCH, MINIBATCH, TOKENS = 16, 8, 100


def make_trainer() -> Any:
    """Return a trainer of a model of random weights on the simulated device."""
    import torch

    from benchmarks import ppo_step
    from detox.model import policy
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.trainer import Seq2SeqPPOTrainer

    ppo = replace(config.PPO(), batch_size=BATCH, minibatch_size=MINIBATCH, learning_rate=1e-5)
    shape = ppo_step.Shape(32, 64, 12, 2, 16, 160)
    made = policy.make_policy(ppo_step.make_t5(shape), ppo, dtype=torch.bfloat16).to("cuda")
    settings = Seq2SeqPPOConfig.from_settings(ppo, seed=0, engine="packed", cpu=False)
    return Seq2SeqPPOTrainer(settings, made, tokenizer=ppo_step.make_tokenizer())


def main(lines: bool) -> None:
    """Print the counts as JSON; with `lines`, what is launched and waited for, by line of the program, before it."""
    log = devices.install("cuda").log
    import torch

    from benchmarks import ppo_step
    from detox.model import devices as ours
    from detox.ppo import update

    ours.take("cuda")
    trainer = make_trainer()
    trainer.engine.eos.fill_(-1)  # no response ends, so that all 100 tokens are sampled
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 160, (n,), generator=generator) for n in ppo_step.prompt_lengths(BATCH, 60, 400, 184)]
    found: dict[str, Any] = {}
    launches = {}
    for tokens in (2, TOKENS + 2):
        log.clear()
        rollout = trainer.rollout(prompts, range(BATCH), tokens)
        launches[tokens], found["waits_a_rollout"] = log.counts()
        assert rollout.lengths == [tokens] * BATCH
    found["launches_a_token"] = (launches[TOKENS + 2] - launches[2]) / TOKENS
    if lines:
        show("a rollout", log)

    minibatch, seen = update.minibatch, []

    def counted(*arguments: Any, **options: Any) -> Any:
        before = log.counts()
        stats = minibatch(*arguments, **options)
        seen.append([after - earlier for after, earlier in zip(log.counts(), before, strict=True)])
        return stats

    update.minibatch = counted
    log.clear()
    trainer.update(rollout, torch.randn(BATCH, generator=generator))
    found["waits_an_update"], found["caches_emptied"] = log.counts()[1], log.calls["empty_cache"]
    found["launches_a_minibatch"], found["waits_a_minibatch"] = map(max, zip(*seen, strict=True))
    if lines:
        show("an update", log)
    print(json.dumps(found))
    devices.leave()


def show(title: str, log: Any) -> None:
    """Print what is launched and waited for most."""
    for name in ("launches", "waits"):
        print(f"\n{name} of {title}")
        by_line: collections.Counter[tuple[str, str]] = getattr(log, name)
        for (place, what), count in by_line.most_common(40):
            print(f"{count:7,}  {place:32}  {what}")


if __name__ == "__main__":
    main("--lines" in sys.argv[1:])
