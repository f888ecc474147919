"""What a training run is made of at any moment: the models, the optimizer, and the numbers that go on changing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detox.model.engines import make_engine
from detox.ppo.critic import Critic
from detox.ppo.kl_control import AdaptiveKLController, FixedKLController
from detox.ppo.moments import RunningMoments
from detox.ppo.step_size import StepSize
from detox.stage.parallel import Processes

if TYPE_CHECKING:
    from detox.model.engine import Engine
    from detox.ppo.ppo_config import Seq2SeqPPOConfig


class TrainingState:
    """What the steps of PPO read and change; `Seq2SeqPPOTrainer` is one, and a checkpoint keeps what has changed.

    Args:
        config: settings.
        policy: `AutoModelForSeq2SeqLMWithValueHead`, on its device.
        frozen: the reference in the same wrapper, or None for the policy with its adapter off.
        optimizer: over what is trained.
        processes: that train together.

    Attributes:
        engine: runs the policy and its value head.
        reference: the engine of the reference, and whether adapters are off in it.
        parameters: that are trained, in the optimizer's order: the policy's, then the value head's.
        base_rates: the learning rates that a schedule starts from, by parameter group.
        kl_ctl: gives the weight of the KL penalty.
        score_moments: of all scores so far.
        critic: judges and fits the value head; None where the advantages need none.
        usual_variance: of the advantages, over the last updates; None before the first.
        step_size: finds the learning rate; None where it is set.
        rollout_size: prompts sampled for at once; None is all.
        microbatch_size: examples of this process that run at once otherwise.
        minibatch_size: examples of an optimizer step, over all processes.
        updates_done: skipped ones included.
        skipped_in_a_row: updates, up to now.
        rollout_logprobs_serve: whether sampling's own log-probabilities can serve as the old ones; the first update
            finds out.
    """

    def __init__(
        self,
        config: Seq2SeqPPOConfig,
        policy: Any,
        frozen: Any,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
    ):
        self.config = config
        self.policy = policy
        self.processes = processes
        self.engine = make_engine(config.engine, policy.pretrained_model, policy.v_head, config.value_reads_detached)
        self.reference: tuple[Engine, bool] = (self.engine, True)
        if frozen is not None:
            self.reference = (make_engine(config.engine, frozen.pretrained_model), False)
        self.optimizer = optimizer
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.base_rates: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.kl_ctl = (
            AdaptiveKLController(config.init_kl_coef, config.target, config.horizon)
            if config.adap_kl_ctrl
            else FixedKLController(config.init_kl_coef)
        )
        self.score_moments = RunningMoments()
        self.critic = Critic(policy.v_head.summary, config.value_refit) if config.advantages == "gae" else None
        self.usual_variance: float | None = None
        self.step_size = StepSize(config.learning_rate) if config.step_kl is not None else None
        self.rollout_size: int | None = None
        self.microbatch_size: int = config.mini_batch_size
        self.minibatch_size: int = config.backward_batch_size * processes.count
        self.updates_done = 0
        self.skipped_in_a_row = 0
        self.rollout_logprobs_serve: bool | None = None

    @property
    def value_weight(self) -> float:
        """Weight of the value loss in what is minimized; 0 where there is no critic, or it is fitted otherwise."""
        return 0.0 if self.critic is None or self.config.value_refit else self.config.vf_coef

    @property
    def left(self) -> float:
        """Share of the run that is left; 1 where its length is open."""
        return 1.0 if self.config.updates is None else max(0.0, 1 - self.updates_done / self.config.updates)


@dataclass(frozen=True)
class Snapshot:
    """Parameters and optimizer as they were before an update, so that it can be undone in part or whole."""

    parameters: list[Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, state: TrainingState) -> Snapshot:
        """Return how they are now."""
        parameters = [parameter.detach().clone() for parameter in state.parameters]
        return cls(parameters, copy.deepcopy(state.optimizer.state_dict()))

    def restore(self, state: TrainingState) -> None:
        """Put them back as they were."""
        for parameter, value in zip(state.parameters, self.parameters):
            parameter.data.copy_(value)
        state.optimizer.load_state_dict(self.optimizer)
