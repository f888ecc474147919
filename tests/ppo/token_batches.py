"""Batches of random tokens, PPO's arithmetic from scores to gradients, and TRL's trainer to compare it with."""

import math
from types import SimpleNamespace

import torch
from hypothesis import settings
from hypothesis import strategies as st
from trl.trainer import ppo_trainer
from trl.trainer import utils as trl_utils

from detox.ppo.advantages import gae
from detox.ppo.losses import policy_loss, value_loss
from detox.ppo.moments import explained_variance, masked_mean, masked_var, masked_whiten
from detox.ppo.rewards import kl_penalty, token_rewards

GAMMA, LAM, KL_COEF, CLIP, VALUE_CLIP = 0.97, 0.9, 0.3, 0.2, 0.15
GARBAGE = (math.nan, math.inf, -math.inf, 1e30)
PROPERTY = settings(max_examples=40, deadline=None, database=None)
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def batch(lengths=(5, 1, 7, 3), width=9, padding=0.5, dtype=torch.float64, seed=0):
    """Random numbers at the counted tokens, `padding` elsewhere, right-padded to `width`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    mask = torch.arange(width) < lengths[:, None]

    def tokens(scale):
        counted = scale * torch.randn(len(lengths), 16, generator=generator, dtype=torch.float64)[:, :width]
        return counted.masked_fill(~mask, padding).to(dtype)

    return SimpleNamespace(
        mask=mask,
        scores=2 * torch.randn(len(lengths), generator=generator, dtype=torch.float64).to(dtype),
        old_logprobs=tokens(1.0) - 3,
        ref_logprobs=tokens(1.0) - 3,
        log_ratio=tokens(0.3),
        old_values=tokens(1.0),
        value_change=tokens(0.3),
    )


def experience(data):
    """The chain of a PPO update from scores to losses, with the gradients of the losses."""
    kl = kl_penalty(data.old_logprobs, data.ref_logprobs, "k3")
    rewards = token_rewards(data.scores, kl, data.mask, KL_COEF)
    advantages, returns = gae(rewards, data.old_values, data.mask, GAMMA, LAM)
    whitened = masked_whiten(advantages, data.mask)
    new_logprobs = (data.old_logprobs + data.log_ratio).requires_grad_()
    new_values = (data.old_values + data.value_change).requires_grad_()
    policy, policy_stats = policy_loss(new_logprobs, data.old_logprobs, whitened, data.mask, CLIP)
    value, value_stats = value_loss(new_values, data.old_values, returns, data.mask, VALUE_CLIP)
    (policy + value).backward()
    return dict(
        rewards=rewards,
        advantages=advantages,
        returns=returns,
        whitened=whitened,
        scaled=masked_whiten(advantages, data.mask, shift_mean=False),
        policy=policy.detach(),
        value=value.detach(),
        policy_gradient=new_logprobs.grad,
        value_gradient=new_values.grad,
        mean=masked_mean(advantages, data.mask),
        variance=masked_var(advantages, data.mask),
        explained=explained_variance(data.old_values, returns, data.mask),
        **{f"policy/{name}": x for name, x in policy_stats.items()},
        **{f"value/{name}": x for name, x in value_stats.items()},
    )


def trl_trainer(**config):
    """TRL's trainer without its constructor: what is compared reads the config and the KL coefficient."""
    trainer = object.__new__(ppo_trainer.PPOTrainer)
    trainer.config = ppo_trainer.PPOConfig(
        batch_size=4,
        mini_batch_size=4,
        gamma=GAMMA,
        lam=LAM,
        cliprange=CLIP,
        cliprange_value=VALUE_CLIP,
        **config,
    )
    trainer.kl_ctl = trl_utils.FixedKLController(KL_COEF)
    return trainer
