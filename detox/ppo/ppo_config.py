"""The trainer's settings: those of TRL 0.11.4, and those that TRL does not have; and the optimizer they describe.

The optimizer has two rates, the policy's and the value head's (default: `value_learning_rate` in `config.py`). With
`updates` the trainer lets them decay; with `step_kl` the policy's is found (`step_size`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from trl import PPOConfig

from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


@dataclass
class Seq2SeqPPOConfig(PPOConfig):
    """`trl.PPOConfig` and the settings that TRL does not have; `config.PPO` documents them.

    TRL's own names keep their meaning: a minibatch, one optimizer step, is `mini_batch_size *
    gradient_accumulation_steps` examples, and `mini_batch_size` of them are run at once. As in TRL, sizes are those
    of one process.
    """

    kl_estimator: Literal["k1", "k3", "full"] | None = None
    """None follows TRL's `kl_penalty`: "kl" is k1, "full" is full."""
    adam_eps: float = 1e-5
    value_learning_rate: float | None = None
    value_reads_detached: bool = True
    whiten_advantages: bool = True
    whiten_memory: float = 0.0
    unfinished_penalty: float = 0.0
    early_stop_kl: float | None = None
    advantages: config.Estimator = "gae"
    samples_per_dialogue: int = 1
    value_trust: bool = False
    value_refit: int = 0
    step_kl: float | None = None
    """With a number, the policy's learning rate follows the KL of its updates (`detox/ppo/step_size.py`)."""
    updates: int | None = None
    """With a number, learning rates that are set decay linearly to 0 over so many updates, and `step_kl` falls over the
    second half."""
    engine: Literal["auto", "hf", "packed"] = "auto"

    @classmethod
    def from_settings(
        cls, ppo: config.PPO, *, seed: int, engine: Literal["auto", "hf", "packed"], cpu: bool, processes: int = 1
    ) -> Seq2SeqPPOConfig:
        """Translate the pipeline's settings, whose sizes are those of all processes together, into TRL's names.

        Raises:
            UserError: the minibatch can't be shared evenly.
        """
        if ppo.minibatch_size % processes:
            raise UserError(
                f"--ppo.minibatch-size={ppo.minibatch_size}: {processes} processes can't share it evenly; start a "
                "number of processes that divides it"
            )
        own = ppo.share(processes)
        return cls(
            seed=seed,
            steps=ppo.updates * own.batch_size,
            learning_rate=ppo.learning_rate,
            batch_size=own.batch_size,
            mini_batch_size=own.effective_microbatch,
            gradient_accumulation_steps=own.minibatch_size // own.effective_microbatch,
            ppo_epochs=ppo.ppo_epochs,
            max_grad_norm=ppo.max_grad_norm,
            adap_kl_ctrl=ppo.kl_control == "adaptive",
            init_kl_coef=ppo.kl_coef,
            target=ppo.kl_target,
            horizon=ppo.kl_horizon,
            gamma=ppo.gamma,
            lam=ppo.lam,
            cliprange=ppo.clip_range,
            cliprange_value=ppo.value_clip_range,
            vf_coef=ppo.vf_coef,
            use_score_norm=ppo.score_normalize,
            use_score_scaling=ppo.score_scale,
            score_clip=ppo.score_clip,
            accelerator_kwargs={"cpu": cpu},
            kl_estimator=ppo.kl_penalty,
            adam_eps=ppo.adam_eps,
            value_learning_rate=ppo.value_learning_rate,
            value_reads_detached=ppo.value_reads_detached,
            whiten_advantages=ppo.whiten_advantages,
            whiten_memory=ppo.whiten_memory,
            unfinished_penalty=ppo.unfinished_penalty,
            early_stop_kl=ppo.early_stop_kl,
            advantages=ppo.advantages,
            samples_per_dialogue=ppo.samples,
            value_trust=ppo.value_trust,
            value_refit=ppo.value_refit,
            step_kl=ppo.step_kl if ppo.schedule == "kl" else None,
            updates=None if ppo.schedule == "constant" else ppo.updates,
            engine=engine,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_estimator is None:
            offered: dict[str, Literal["k1", "full"]] = {"kl": "k1", "full": "full"}
            if self.kl_penalty not in offered:
                raise ValueError(f"kl_penalty={self.kl_penalty!r}: use 'kl' or 'full', or set kl_estimator")
            self.kl_estimator = offered[self.kl_penalty]

    @classmethod
    def of(cls, plain: PPOConfig) -> Seq2SeqPPOConfig:
        """Return TRL's settings with the defaults of those that TRL does not have."""
        if isinstance(plain, cls):
            return plain
        return cls(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain) if field.init})


def make_optimizer(model: Any, config: Seq2SeqPPOConfig) -> torch.optim.Adam:
    """Return Adam over what is trained: the policy's parameters, then the value head's at its own rate."""
    head = [p for p in model.v_head.parameters() if p.requires_grad]
    policy = [p for p in model.pretrained_model.parameters() if p.requires_grad]
    if not policy:
        raise ValueError("nothing in the model is trained: no parameter requires a gradient")
    value_rate = config.value_learning_rate or config.learning_rate
    groups = [{"params": policy, "lr": config.learning_rate}, {"params": head, "lr": value_rate}]
    return torch.optim.Adam(groups, eps=config.adam_eps, fused=True)
