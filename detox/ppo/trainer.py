"""Seq2SeqPPOTrainer: TRL's PPO trainer for encoder-decoders, corrected and made fast.

Constructor, `generate`, `step` and the keys of its statistics are those of `trl.PPOTrainer` 0.11.4; `rollout` and
`update` are the same two halves, typed. What differs from TRL, and why:

- every response token counts, the first one and the end-of-sequence token included (TRL's mask starts one late);
- the reference is the model with its PPO adapter off, or the `ref_model` that was given (TRL ignores one with PEFT);
- nothing ever runs with dropout (TRL samples with it from the second update on);
- the gradient is clipped in every optimizer step (TRL: in the first);
- minibatches may be split into microbatches, whose gradients add up to the minibatch's own;
- no [B, T, V] tensor is held, and what is frozen runs without a graph;
- every statistic is taken over the batches of all processes, so that N processes of B / N examples give what one
  process of B gives (TRL whitens, stops and keeps moments in each process by itself).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trl.trainer.ppo_trainer as stock
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from trl import PPOConfig, PPOTrainer

from detox.model import devices
from detox.model.engine import Encoded, Engine, Generated, by_length, response_mask, unpack
from detox.model.engines import make_engine
from detox.model.logprobs import linear_full_kl
from detox.model.sampling import Sampling, uniforms
from detox.ppo import arithmetic
from detox.ppo.ppo_config import Seq2SeqPPOConfig, make_optimizer
from detox.ppo.step_size import StepSize
from detox.ppo.trl_statistics import trl_statistics
from detox.ppo.value_head import Critic, Lesson
from detox.stage import lack_of_memory
from detox.stage.errors import UserError
from detox.stage.parallel import ALONE, Processes

MOST_OFF = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
"""Mean |ratio - 1| before the first step, by the weights' dtype: between what rounding and what mistakes give, which
`benchmarks/ratio_check.py` measures. The largest of many tokens would not tell them apart."""

SAMPLED_SERVE = 1e-5
"""Nats between log-probabilities of sampling and those computed again, up to which the former serve as the old ones."""

FULL_DISTRIBUTION = Sampling()

MAX_STEPS_BACK = 50
"""In one update; a policy that is still too far is beyond repair."""

# First entries of the seeds of independent random streams.
ROLLOUT_STREAM, MINIBATCH_STREAM, GENERATE_STREAM = range(3)


class TrainingError(UserError):
    """Training cannot go on soundly; the message says why and what may help."""


@dataclass
class Rollout:
    """What the policy answered to B prompts.

    Attributes:
        query_ids: [length] of ids each.
        response_ids: [length] of ids each, without the decoder start token.
        finished: [B] bool, True = ended with an end-of-sequence token within the limit.
        encoded: encoder outputs under the policy as it was.
        logprobs: [B, T] float32 from sampling, or None where the responses came from elsewhere.
        hidden: [tokens, d], packed, the decoder's last hidden states that predicted the tokens; as `logprobs` at first.
    """

    query_ids: list[Tensor]
    response_ids: list[Tensor]
    finished: Tensor
    encoded: Encoded
    logprobs: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(response) for response in self.response_ids]


@dataclass
class Experience:
    """The rollouts of all processes with all that the updates read; B counts the examples of all.

    Attributes:
        mine: the rows that are this process's own rollout.
        lengths: tokens of each response.
        scores: [B] float32, of the classifier.
        finished: [B] bool, as in `Rollout`.
        query_lengths: [B] int64, tokens.
        mask: [B, T] bool, True = a token of the response.
        old_logprobs, old_values, ref_logprobs, kl, rewards, advantages, returns: [B, T] float32, 0 where `mask` is
            False.
    """

    mine: slice
    lengths: list[int]
    scores: Tensor
    finished: Tensor
    query_lengths: Tensor
    mask: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    ref_logprobs: Tensor
    kl: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor


class Seq2SeqPPOTrainer(PPOTrainer):
    """Proximal policy optimization of an encoder-decoder with a value head.

    Args:
        config: `Seq2SeqPPOConfig`, or TRL's `PPOConfig` (the further settings then have their defaults).
        model: `AutoModelForSeq2SeqLMWithValueHead`; LoRA or full.
        ref_model: the reference; None takes the model with its adapter off, or a copy where there is no adapter.
        tokenizer: as TRL wants it.
        processes: that train together; each rolls out and updates with its share of the batch.
        Others: as in TRL.

    Raises:
        ValueError: the model is not an encoder-decoder with a value head, or nothing in it is trained.
    """

    def __init__(
        self,
        config: PPOConfig,
        model: Any,
        ref_model: Any = None,
        tokenizer: Any = None,
        dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Any = None,
        num_shared_layers: int | None = None,
        lr_scheduler: Any = None,
        training_data_collator: Any = None,
        processes: Processes = ALONE,
    ):
        config = Seq2SeqPPOConfig.of(config)
        if not getattr(model, "is_encoder_decoder", False) or not hasattr(model, "v_head"):
            raise ValueError("model must be an AutoModelForSeq2SeqLMWithValueHead; TRL's own PPOTrainer takes others")
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.filterwarnings("ignore", message="`PPOTrainer` is deprecated", category=FutureWarning)
            warnings.filterwarnings("ignore", message="No dataset is provided", category=UserWarning)
            stack.enter_context(_models_stay_unwrapped())
            super().__init__(
                config,
                model,
                ref_model,
                tokenizer,
                dataset,
                optimizer or make_optimizer(model, config),
                data_collator,
                num_shared_layers,
                lr_scheduler,
                training_data_collator,
            )
        policy = self.accelerator.unwrap_model(self.model).eval()
        self.policy = policy
        self.processes = processes
        self.engine = make_engine(config.engine, policy.pretrained_model, policy.v_head, config.value_reads_detached)
        self.reference: tuple[Engine, bool] = (self.engine, True)
        if self.ref_model is not None:
            frozen = self.accelerator.unwrap_model(self.ref_model)
            self.reference = (make_engine(config.engine, frozen.pretrained_model), False)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.kl_ctl = (
            arithmetic.AdaptiveKLController(config.init_kl_coef, config.target, config.horizon)
            if config.adap_kl_ctrl
            else arithmetic.FixedKLController(config.init_kl_coef)
        )
        self.score_moments = arithmetic.RunningMoments()
        self.critic = Critic(policy.v_head.summary, config.value_refit) if config.advantages == "gae" else None
        self.usual_variance: float | None = None  # of advantages
        self.step_size = StepSize(config.learning_rate) if config.step_kl is not None else None
        self.rollout_size: int | None = None  # prompts sampled for at once; None is all
        self.microbatch_size = config.mini_batch_size
        self.minibatch_size = config.backward_batch_size * processes.count
        self.updates_done = 0
        self.skipped_in_a_row = 0
        # Whether sampling's own log-probabilities can serve as the old ones; the first update finds out.
        self.rollout_logprobs_serve: bool | None = None

    # --- rollout ---

    def rollout(
        self,
        query_ids: Sequence[Tensor],
        keys: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = FULL_DISTRIBUTION,
    ) -> Rollout:
        """Sample a response to each prompt.

        Args:
            query_ids: prompts, [length] of ids each; several samples of a prompt are neighbours with one tensor.
            keys: one number a response; (seed, key) alone decides its random numbers.
            max_new_tokens: longest response, its end-of-sequence token included.
            sampling: temperature and the like; its uniforms are drawn here.
        """
        draws = uniforms(self.config.seed, ROLLOUT_STREAM, keys, max_new_tokens)
        parts: list[tuple[Encoded, Generated]] = []
        done, count = 0, len(query_ids)
        while done < count:
            group = slice(done, min(done + (self.rollout_size or count), count))
            try:
                with torch.no_grad():
                    encoded = encode_once(self.engine, query_ids[group])
                    seeded = dataclasses.replace(sampling, uniforms=draws[group])
                    parts.append((encoded, self.engine.generate(encoded, max_new_tokens, seeded)))
                done = group.stop
            except (RuntimeError, MemoryError) as error:
                self._halve_rollout(error, group.stop - group.start)
            devices.trim_cache(self.engine.device)
        return _joined(list(query_ids), parts)

    def generate(
        self,
        query_tensor: Tensor | list[Tensor],
        length_sampler: Any = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> Any:
        """Generate as TRL's `generate` does: responses begin with the decoder start token.

        `batch_size` bounds how many prompts run at once and changes nothing else; `return_prompt` means nothing for
        an encoder-decoder; `pad_token_id` and `eos_token_id` are taken from the model, and accepted for TRL's sake.

        Args:
            query_tensor: [length] of ids, or a list of them.
            length_sampler: is called once for the number of new tokens.
            seed: of the sampling; None draws one from torch's generator.

        Returns:
            A tensor [1, length] for one prompt, a list of tensors [length] for a list; with `generate_ref_response`
            that of the policy and that of the reference.
        """
        one = isinstance(query_tensor, Tensor)
        queries = [query_tensor] if isinstance(query_tensor, Tensor) else query_tensor
        count = length_sampler() if length_sampler is not None else max_new_tokens
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        outputs = []
        for engine, off in [(self.engine, False)] + [self.reference] * generate_ref_response:
            responses: list[Tensor] = []
            for start in range(0, len(queries), batch_size):
                keys = range(start, min(start + batch_size, len(queries)))
                draws = uniforms(seed, GENERATE_STREAM, keys, count) if do_sample else None
                with torch.no_grad():
                    encoded = engine.encode([queries[key] for key in keys], reference=off)
                    sampling = Sampling(draws, temperature, top_k, top_p)
                    generated = engine.generate(encoded, count, sampling, reference=off)
                start_token = torch.tensor([engine.start_id], device=engine.device)
                responses += [torch.cat([start_token, response]) for response in generated.responses]
            outputs.append(responses[0][None] if one else responses)
        return tuple(outputs) if generate_ref_response else outputs[0]

    # --- update ---

    def step(
        self,
        queries: list[Tensor],
        responses: list[Tensor],
        scores: list[Tensor],
        response_masks: list[Tensor] | None = None,
    ) -> dict[str, Any]:
        """Run one PPO update as TRL's `step` does.

        Args:
            queries: prompts, [length] of ids each.
            responses: as `generate` returns them: the decoder start token, then at least one token.
            scores: one number a response.
            response_masks: not supported for encoder-decoders by TRL either.

        Returns:
            TRL's statistics under TRL's keys, and those of `update`.

        Raises:
            ValueError: a count that differs from the batch size, or a response without the decoder start token.
        """
        if response_masks is not None:
            raise ValueError("response_masks: every token of a response counts here; leave it None")
        self._step_safety_checker(self.config.batch_size, queries, responses, scores)
        for i, response in enumerate(responses):
            if len(response) < 2 or int(response[0]) != self.engine.start_id:
                raise ValueError(f"responses[{i}] must be the decoder start token and at least one token")
        bare = [response[1:].to(self.engine.device) for response in responses]
        finished = torch.isin(torch.stack([response[-1] for response in bare]), self.engine.eos)
        with torch.no_grad():
            encoded = self.engine.encode(queries)
        rollout = Rollout(list(queries), bare, finished, encoded)
        metrics = self.update(rollout, torch.stack([score.detach().float().reshape(()) for score in scores]))
        return {**self._trl_stats, **metrics}

    def update(self, rollout: Rollout, scores: Tensor) -> dict[str, Any]:
        """Learn from one rollout: rewards, advantages, then `ppo_epochs` passes of clipped updates.

        An update in which a score, a gradient or a loss is not finite leaves every parameter as it was and returns
        `{"skipped": reason}`; `skipped_in_a_row` counts those.

        Args:
            rollout: this process's prompts and responses.
            scores: [B] float, theirs, of the classifier; the unit is the caller's.

        Returns:
            Metrics by name, over all processes; times are this process's.

        Raises:
            TrainingError: at the first update, the policy is not the reference, or the ratio is not 1.
        """
        self._set_learning_rate()
        all_scores = self.processes.gather(scores)
        broken = int((~torch.isfinite(all_scores)).sum())
        if broken:
            return self._skip(f"{broken} of {len(all_scores)} scores are not finite")
        started = time.perf_counter()
        with torch.no_grad():
            experience = self.experience(rollout, scores)
        if self.updates_done == 0:
            self._check_reference(experience)
        devices.trim_cache(self.engine.device)
        forwarded = time.perf_counter()
        before = [parameter.detach().clone() for parameter in self.parameters]
        optimizer_before = copy.deepcopy(self.optimizer.state_dict())
        problem, statistics = self._optimize(rollout, experience, before)
        if problem is not None:
            for parameter, value in zip(self.parameters, before):
                parameter.data.copy_(value)
            self.optimizer.load_state_dict(optimizer_before)
            return self._skip(problem)
        rollout.encoded.forget()
        devices.trim_cache(self.engine.device)
        metrics = self._metrics(experience, statistics)
        self._teach_critic(rollout, experience)
        metrics["time/forward"] = forwarded - started
        metrics["time/optimize"] = time.perf_counter() - forwarded
        self._trl_stats = trl_statistics(experience, statistics, metrics, self.kl_ctl.value, self.config.vf_coef)
        self.kl_ctl.update(metrics["objective/ref_kl"], len(all_scores))
        self.updates_done += 1
        self.skipped_in_a_row = 0
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return metrics

    def experience(self, rollout: Rollout, scores: Tensor) -> Experience:
        """Return old and reference log-probabilities, values, rewards, advantages and returns of all rollouts."""
        own = self._measured(rollout)
        lengths, query_lengths, finished = self.processes.gather(
            torch.stack(
                [
                    torch.tensor(rollout.lengths),
                    torch.tensor([len(query) for query in rollout.query_ids]),
                    rollout.finished.cpu().long(),
                ],
                dim=1,
            )
        ).T
        mask = response_mask(lengths.tolist(), self.engine.device)
        padded = F.pad(own, (0, mask.shape[1] - own.shape[-1]))
        old_logprobs, old_values, ref_logprobs, kl = self.processes.gather(padded.transpose(0, 1)).unbind(1)
        scores, finished = self.processes.gather(scores.to(self.engine.device)), finished.bool().to(self.engine.device)
        self.score_moments.update(scores)
        shaped = self._shaped(scores, finished)
        rewards = arithmetic.token_rewards(shaped, kl, mask, self.kl_ctl.value)
        advantages, returns = self._advantages(rewards, shaped, kl, old_values, mask)
        if self.config.whiten_advantages:
            advantages = self._whitened(advantages, mask)
        return Experience(
            mine=self.processes.share(len(mask)),
            lengths=lengths.tolist(),
            scores=scores,
            finished=finished,
            query_lengths=query_lengths,
            mask=mask,
            old_logprobs=old_logprobs,
            old_values=old_values,
            ref_logprobs=ref_logprobs,
            kl=kl,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
        )

    def _advantages(
        self, rewards: Tensor, scores: Tensor, kl: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return advantages and returns [B, T] by the estimator that the settings name.

        Args:
            rewards: [B, T], of the scores and the penalty.
            scores: [B], shaped.
            kl: [B, T], of the penalty.
            values: [B, T], of the value head.
            mask: [B, T] bool, True = a token of the response.
        """
        config = self.config
        if self.critic is not None and config.value_trust:
            return arithmetic.trusted_gae(rewards, values, mask, config.gamma, config.lam, self.critic.trust)
        if self.critic is not None:
            return arithmetic.gae(rewards, values, mask, config.gamma, config.lam)
        if config.advantages == "batch":
            return arithmetic.batch_baseline(rewards, mask, config.gamma)
        penalties = arithmetic.token_rewards(torch.zeros_like(scores), kl, mask, self.kl_ctl.value)
        return arithmetic.group_baseline(scores, penalties, mask, config.samples_per_dialogue, config.advantages)

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Return advantages [B, T] of mean 0 and variance 1, or less where they vary less than usual.

        A rollout of which all summaries are civil teaches little. Whitened by itself, what is left, the KL penalty's
        differences, would be as loud as an insult.
        """
        now, memory = float(arithmetic.masked_var(advantages, mask)), self.config.whiten_memory
        usual = now if self.usual_variance is None else memory * self.usual_variance + (1 - memory) * now
        self.usual_variance = usual
        return arithmetic.masked_whiten(advantages, mask, least_variance=usual if memory else 0.0)

    def _measured(self, rollout: Rollout) -> Tensor:
        """Return old log-probabilities, old values, reference log-probabilities and KL of a rollout, [4, B, T]."""
        while True:
            try:
                mask = response_mask(rollout.lengths, self.engine.device)
                old_logprobs, hidden = self._old(rollout)
                rollout.hidden = hidden
                old_values = unpack(self.engine.value(hidden), mask)
                ref_logprobs, full_kl = self._against_reference(rollout, hidden)
                if full_kl is None:
                    kl = arithmetic.kl_penalty(old_logprobs, ref_logprobs, self.config.kl_estimator)
                else:
                    kl = unpack(full_kl, mask)
                return torch.stack([old_logprobs, old_values, ref_logprobs, kl])
            except (RuntimeError, MemoryError) as error:
                self._halve_microbatch(error)

    def warm_up_values(self, rollouts: Sequence[Rollout], scores: Sequence[Tensor]) -> float:
        """Fit the value head alone to the returns of rollouts of the untrained policy.

        Returns here are the discounted scores: the KL penalty is 0, as the policy is the reference. The running
        moments of the scores take them in first, so that they are shaped as those of the updates will be.

        Args:
            rollouts: this process's, of the policy before its first update.
            scores: [B] each.

        Returns:
            The share of the returns' variance that the value head explains on responses that it was not fitted to.

        Raises:
            ValueError: the advantages need no value head, or one was not sampled by `rollout`.
        """
        if self.critic is None:
            raise ValueError(f"advantages={self.config.advantages!r} need no value head")
        for of_rollout in scores:
            self.score_moments.update(self.processes.gather(of_rollout))
        lessons = []
        for rollout, rollout_scores in zip(rollouts, scores, strict=True):
            mask = response_mask(rollout.lengths, self.engine.device)
            shaped = self._shaped(rollout_scores.to(mask.device), rollout.finished)
            rewards = arithmetic.token_rewards(shaped, torch.zeros(mask.shape, device=mask.device), mask, 0.0)
            returns = arithmetic.discounted_returns(rewards, mask, self.config.gamma)
            lessons.append(self._lesson(rollout, self.processes.gather(returns[mask])))
        return self.critic.learn(lessons)

    def _teach_critic(self, rollout: Rollout, experience: Experience) -> None:
        """Judge the value head by a rollout that it has not seen, and set it anew if it is refitted."""
        if self.critic is None:
            return
        self.critic.judge(experience.old_values, experience.returns, experience.mask)
        if self.config.value_refit:
            self.critic.learn([self._lesson(rollout, experience.returns[experience.mask])])

    def _lesson(self, rollout: Rollout, returns: Tensor) -> Lesson:
        """Return what there is to learn of the rollouts of all processes, given the returns of all their tokens."""
        if rollout.hidden is None:
            raise ValueError("the value head is fitted to what `rollout` has sampled")
        features = self.processes.gather(rollout.hidden.float())
        lengths = self.processes.gather(torch.tensor(rollout.lengths, device=features.device))
        return Lesson(features.detach().cpu(), returns.detach().cpu(), lengths.cpu())

    def _shaped(self, scores: Tensor, finished: Tensor) -> Tensor:
        return arithmetic.shape_scores(
            scores,
            finished,
            moments=self.score_moments,
            normalize=self.config.use_score_norm,
            scale=self.config.use_score_scaling,
            clip=self.config.score_clip,
            unfinished_penalty=self.config.unfinished_penalty,
        )

    def _old(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return the policy's log-probabilities [B, T] before the update and its hidden states [tokens, d], packed.

        Sampling has computed both already. Whether its numbers are those of teacher forcing is measured once: in
        float32 they are, to rounding; in bfloat16 they are not, and are computed again each time.
        """
        if self.rollout_logprobs_serve and rollout.logprobs is not None and rollout.hidden is not None:
            return rollout.logprobs, rollout.hidden
        logprobs, hidden = self._forced(self.engine, rollout, self._encoded_now(rollout))
        if self.rollout_logprobs_serve is None and rollout.logprobs is not None:
            gap = max(self.processes.gather_objects(float((rollout.logprobs - logprobs).abs().max())))
            self.rollout_logprobs_serve = gap <= SAMPLED_SERVE
        return logprobs, hidden

    def _against_reference(self, rollout: Rollout, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the reference's log-probabilities [B, T] and, if it is asked for, the exact KL [tokens], packed."""
        engine, off = self.reference
        shares_encoder = engine is self.engine and not engine.encoder_is_trained

        def encode(group: Sequence[int]) -> Encoded:
            return encode_once(engine, [rollout.query_ids[i] for i in group], reference=off)

        logprobs, its = self._forced(engine, rollout, rollout.encoded.select if shares_encoder else encode, off)
        if self.config.kl_estimator != "full":
            return logprobs, None
        ours, theirs = (engine.head_input(rows.to(its.dtype)) for rows in (hidden, its))
        return logprobs, linear_full_kl(ours, theirs, engine.head_weight, bias=engine.head_bias)

    def _forced(
        self, engine: Engine, rollout: Rollout, encoded: Callable[[Sequence[int]], Encoded], reference: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return what a model says of the responses, a microbatch at a time.

        Args:
            engine: the model.
            rollout: B prompts and responses.
            encoded: gives the prompts at some indices, encoded by this model.
            reference: adapters off.

        Returns:
            Log-probabilities [B, T], 0 beyond a response's end; hidden states [tokens, d], packed.
        """
        logprobs = torch.zeros(len(rollout.lengths), max(rollout.lengths), device=engine.device)
        hidden = [torch.empty(0)] * len(logprobs)
        for group in by_length(rollout.lengths, self.microbatch_size):
            responses = [rollout.response_ids[i] for i in group]
            outputs = engine.logprobs(encoded(group), responses, reference=reference)
            logprobs[group, : outputs.logprobs.shape[1]] = outputs.logprobs
            for i, rows in zip(group, outputs.hidden.split([rollout.lengths[i] for i in group])):
                hidden[i] = rows
        return logprobs, torch.cat(hidden)

    # --- optimization ---

    def _optimize(
        self, rollout: Rollout, experience: Experience, before: Sequence[Tensor]
    ) -> tuple[str | None, list[dict[str, float]]]:
        """Run the PPO epochs; return what went wrong, if anything, and the statistics of each minibatch.

        Args:
            rollout: this process's.
            experience: of all processes.
            before: the parameters as they are.
        """
        statistics: list[dict[str, float]] = []
        steps = self.config.ppo_epochs * (len(experience.mask) // self.minibatch_size)
        if self.updates_done == 0:
            self._check_ratio(rollout, experience)
        if self.step_size is not None:
            self.step_size.begin(self._step_kl(), steps)
        for ppo_epoch in range(self.config.ppo_epochs):
            seed = [self.config.seed, MINIBATCH_STREAM, self.updates_done, ppo_epoch]
            of_this_epoch: list[dict[str, float]] = []
            for minibatch in deal(len(experience.mask), self.minibatch_size, seed):
                stats = self._minibatch(rollout, experience, minibatch, entropy=ppo_epoch == 0)
                while self._goes_back(stats["approx_kl"], before):
                    stats = self._minibatch(rollout, experience, minibatch, entropy=ppo_epoch == 0)
                of_this_epoch.append(stats)
                if not math.isfinite(stats["grad_norm"]):
                    return "a gradient is not finite", statistics
                self._optimizer_step()
            statistics += of_this_epoch
            approx_kl = float(np.mean([stats["approx_kl"] for stats in of_this_epoch]))
            if self.config.early_stop_kl is not None and approx_kl > self.config.early_stop_kl:
                break
        self.optimizer.zero_grad()
        if self.step_size is not None:
            while steps == 1 and self._goes_back(self._kl_from(experience, rollout), before):
                pass  # no minibatch has seen its KL
            self._go_back(self.step_size.end(), before)
        return None, statistics

    def _step_kl(self) -> float:
        """Return the KL that this update aims at; it falls over the second half of the run, so that the policy settles.

        It falls with the square of what is left, as the KL of a learning rate that decays linearly does.
        """
        left = max(self._left, 1 / (self.config.updates or 1))
        return self.config.step_kl * min(1.0, 2 * left) ** 2

    @property
    def _left(self) -> float:
        """Share of the run that is left; 1 where its length is open."""
        return 1.0 if self.config.updates is None else max(0.0, 1 - self.updates_done / self.config.updates)

    def _optimizer_step(self) -> None:
        if self.step_size is not None:
            self.optimizer.param_groups[0]["lr"] = self.step_size.rate
            self.step_size.took_step()
        self.optimizer.step()

    def _goes_back(self, kl: float, before: Sequence[Tensor]) -> bool:
        """Take the policy back where it has moved too far; return whether it was."""
        if self.step_size is None:
            return False
        share = self.step_size.measured(kl)
        if share < 1 and self.step_size.steps_back > MAX_STEPS_BACK:
            raise TrainingError(
                f"an update moves the policy too far even at a learning rate of {self.step_size.rate:.1e}; "
                "look at the reward model, and choose --ppo.schedule constant with a rate of your own"
            )
        self._go_back(share, before)
        return share < 1

    def _go_back(self, share: float, before: Sequence[Tensor]) -> None:
        """Leave of the policy's way from `before` only a share; the value head stays."""
        if share < 1:
            for parameter, start in zip(self.optimizer.param_groups[0]["params"], before):
                parameter.data.copy_(torch.lerp(start, parameter.data, share))

    def _kl_from(self, experience: Experience, rollout: Rollout) -> float:
        """Return the KL of the policy as it is from the one that sampled the rollout, nats a token."""
        with torch.no_grad():
            now, _ = self._forced(self.engine, rollout, self._encoded_now(rollout))
            mine = experience.mask[experience.mine, : now.shape[1]]
            old = experience.old_logprobs[experience.mine, : now.shape[1]]
            sums = torch.stack([(arithmetic.kl_penalty(old, now, "k3") * mine).sum(), mine.sum()])
        total, count = self.processes.gather(sums[None]).sum(0).tolist()
        return total / count

    def _minibatch(
        self, rollout: Rollout, experience: Experience, minibatch: list[int], entropy: bool
    ) -> dict[str, float]:
        """Leave the clipped gradient of one optimizer step in the parameters; return its statistics.

        Each process adds its own examples' part. Nothing else of the model's size passes between processes.
        """
        own = self._accumulate(rollout, experience, minibatch, entropy)
        parts = zip(own, self.processes.gather(torch.stack([*own.values()])[None]).unbind(1))
        totals = {name: part.max() if name == "ratio_first" else part.sum() for name, part in parts}
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.processes.sum(grads)
        norm = torch.nn.utils.get_total_norm(grads)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        # Each look at a number waits for the device: all are looked at together.
        totals["grad_norm"] = norm
        return dict(zip(totals, torch.stack([*totals.values()]).tolist()))

    def _accumulate(
        self, rollout: Rollout, experience: Experience, minibatch: list[int], entropy: bool
    ) -> dict[str, Tensor]:
        """Accumulate the gradient of this process's examples of a minibatch, over microbatches if need be."""
        counted, first = sum(experience.lengths[i] for i in minibatch), experience.mine.start
        own = [i - first for i in minibatch if experience.mine.start <= i < experience.mine.stop]
        while True:
            try:
                self.optimizer.zero_grad()
                totals: dict[str, Tensor] = {}
                for group in by_length([rollout.lengths[i] for i in own], self.microbatch_size):
                    _add(totals, self._backward(rollout, experience, [own[i] for i in group], counted, entropy))
                return totals
            except (RuntimeError, MemoryError) as error:
                self._halve_microbatch(error)

    def _backward(
        self, rollout: Rollout, experience: Experience, indices: list[int], counted: int, entropy: bool
    ) -> dict[str, Tensor]:
        """Add the gradient of one microbatch; its statistics are its share of the minibatch's means.

        Args:
            rollout: this process's.
            experience: of all processes.
            indices: of the microbatch's examples in `rollout`.
            counted: tokens of the whole minibatch, over all processes.
            entropy: report it, too.
        """
        encoded = self._encoded_now(rollout)(indices)
        responses = [rollout.response_ids[i] for i in indices]
        outputs = self.engine.logprobs(encoded, responses, entropy=entropy)
        values = unpack(self.engine.value(outputs.hidden), outputs.mask)
        places, columns = [experience.mine.start + i for i in indices], slice(outputs.mask.shape[1])
        rows = torch.tensor(places, device=self.engine.device)
        old = {
            name: getattr(experience, name)[rows, columns]
            for name in ("old_logprobs", "old_values", "advantages", "returns")
        }
        policy_loss, policy_stats = arithmetic.policy_loss(
            outputs.logprobs, old["old_logprobs"], old["advantages"], outputs.mask, self.config.cliprange, counted
        )
        value_loss, value_stats = arithmetic.value_loss(
            values, old["old_values"], old["returns"], outputs.mask, self.config.cliprange_value, counted
        )
        learns_values = self.critic is not None and not self.config.value_refit
        (policy_loss + self.config.vf_coef * value_loss if learns_values else policy_loss).backward()
        with torch.no_grad():
            stats = {
                "policy_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "approx_kl": policy_stats["approx_kl"],
                "policy_kl": ((old["old_logprobs"] - outputs.logprobs) * outputs.mask).sum() / counted,
                "clip_fraction": policy_stats["clip_fraction"],
                "ratio_mean": policy_stats["ratio_mean"],
                "ratio_first": policy_stats["ratio_max_deviation"],
                "ratio_deviation": policy_stats["ratio_deviation"],
                "value_clip_fraction": value_stats["clip_fraction"],
                "value_mean": (values * outputs.mask).sum() / counted,
            }
        if outputs.entropy is not None:
            stats["entropy"] = outputs.entropy.sum() / counted
        return stats

    def _encoded_now(self, rollout: Rollout) -> Callable[[Sequence[int]], Encoded]:
        """Return what gives the prompts at some indices, encoded by the policy as it is."""
        if not self.engine.encoder_is_trained:
            return rollout.encoded.select
        return lambda indices: encode_once(self.engine, [rollout.query_ids[i] for i in indices])

    @property
    def max_grad_norm(self) -> float:
        return math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm

    # --- checks and bookkeeping ---

    def _check_reference(self, experience: Experience) -> None:
        """At the first update the policy is the reference, so that their log-probabilities are the same numbers."""
        gap = float(arithmetic.masked_mean((experience.old_logprobs - experience.ref_logprobs).abs(), experience.mask))
        if not gap <= self._most_off:
            raise TrainingError(
                f"before the first update the policy and the reference differ by {gap:.3g} nats a token, not 0: "
                "the reference is not the model that training starts from; give the supervised checkpoint as "
                "--model.adapter, or the true starting model as ref_model"
            )

    def _check_ratio(self, rollout: Rollout, experience: Experience) -> None:
        """Before the first step the ratio is 1.

        Looked at are the examples whose old log-probabilities were computed together, in the way of an update: in
        other company a product may be rounded otherwise, and in bfloat16 that is as much as some mistakes give.
        """
        together = by_length(rollout.lengths, self.microbatch_size)[0]
        own = self._accumulate(rollout, experience, [experience.mine.start + i for i in together], entropy=False)
        deviation = max(self.processes.gather_objects(float(own["ratio_deviation"])))
        if not deviation <= self._most_off:
            raise TrainingError(
                f"before the first step the probability ratio is off by {deviation:.3g} on average, not 1: the model "
                "does not repeat its own log-probabilities (dropout, or other weights, between rollout and update)"
            )

    @property
    def _most_off(self) -> float:
        return MOST_OFF[self.engine.head_weight.dtype]

    def _set_learning_rate(self) -> None:
        if self.lr_scheduler is None and self.config.updates is not None:
            for group, rate in zip(self.optimizer.param_groups, self.base_rates):
                group["lr"] = rate * self._left

    def _skip(self, reason: str) -> dict[str, Any]:
        self.optimizer.zero_grad()
        self.updates_done += 1
        self.skipped_in_a_row += 1
        self._trl_stats = {}
        return {"skipped": reason}

    def peak_memory_mb(self) -> float:
        """Return the most memory used so far: of the accelerator, or of the process on a CPU."""
        return devices.peak_memory_mb(self.engine.device)

    def _halve_rollout(self, error: Exception, size: int) -> None:
        """Let sampling go on with half of `size` prompts at once where `error` is a lack of memory; else raise it."""
        self._refuse_to_halve(error, size)
        self.rollout_size = (size + 1) // 2
        devices.empty_cache(self.engine.device)
        print(f"out of memory: sampling for {self.rollout_size} prompts at once, same result", file=sys.stderr)

    def _halve_microbatch(self, error: Exception) -> None:
        """Let training go on with half the microbatch where `error` is a lack of memory; raise it again if not."""
        self._refuse_to_halve(error, self.microbatch_size)
        self.optimizer.zero_grad()
        self.microbatch_size = (self.microbatch_size + 1) // 2
        devices.empty_cache(self.engine.device)
        print(f"out of memory: going on with microbatches of {self.microbatch_size}, same result", file=sys.stderr)

    def _refuse_to_halve(self, error: Exception, size: int) -> None:
        """Raise `error` again where it is no lack of memory, or where the work can't be cut in smaller pieces."""
        if not lack_of_memory.is_out_of_memory(error):
            raise error
        if self.engine.sharded:
            raise TrainingError(
                f"out of memory ({error}); the last checkpoint is whole: with sharded weights all processes take the "
                "same steps, so lower --ppo.microbatch-size for all of them, or start more processes"
            ) from error
        if size == 1:
            raise TrainingError(
                f"out of memory with one example at a time ({error}); the last checkpoint is whole: free some memory, "
                "choose a smaller --model.base, or prepare shorter dialogues (--data.max-query-tokens)"
            ) from error

    def _metrics(self, experience: Experience, statistics: list[dict[str, float]]) -> dict[str, float]:
        mask = experience.mask
        k3 = arithmetic.kl_penalty(experience.old_logprobs, experience.ref_logprobs, "k3")
        mean = {name: float(np.mean([stats[name] for stats in statistics])) for name in statistics[-1]}
        entropies = [stats["entropy"] for stats in statistics if "entropy" in stats]
        return {
            "objective/score_mean": float(experience.scores.mean()),
            "objective/score_std": float(experience.scores.std(unbiased=False)),
            "objective/ref_kl": float((k3 * mask).sum(1).mean()),
            "objective/ref_kl_k1": float(((experience.old_logprobs - experience.ref_logprobs) * mask).sum(1).mean()),
            "objective/kl_coef": float(self.kl_ctl.value),
            "ppo/policy/approx_kl": mean["approx_kl"],
            "ppo/policy/clip_fraction": mean["clip_fraction"],
            "ppo/policy/entropy": float(np.mean(entropies)),
            "ppo/loss/policy": mean["policy_loss"],
            **self._critic_metrics(experience, mean["value_loss"]),
            "ppo/ratio_first": 1 + statistics[0]["ratio_first"],
            "ppo/grad_norm": mean["grad_norm"],
            "ppo/learning_rate": self.optimizer.param_groups[0]["lr"],
            **self._step_metrics(),
            "tokens/response_mean": float(mask.sum(1).float().mean()),
            "tokens/finished": float(experience.finished.float().mean()),
        }

    def _critic_metrics(self, experience: Experience, loss: float) -> dict[str, float]:
        """Return how good the value head is, before it learns of this rollout; not a number where it takes no part."""
        if self.critic is None:
            return {"ppo/loss/value": math.nan, "ppo/val/explained_variance": math.nan, "ppo/val/trust": 0.0}
        explained = arithmetic.explained_variance(experience.old_values, experience.returns, experience.mask)
        trust = self.critic.trust if self.config.value_trust else 1.0
        return {"ppo/loss/value": loss, "ppo/val/explained_variance": float(explained), "ppo/val/trust": trust}

    def _step_metrics(self) -> dict[str, float]:
        if self.step_size is None:
            return {}
        return {
            "ppo/policy/step_kl": self.step_size.kl,
            "ppo/policy/step_kl_target": self.step_size.target,
            "ppo/policy/steps_back": self.step_size.steps_back,
        }


def encode_once(engine: Engine, query_ids: Sequence[Tensor], reference: bool = False) -> Encoded:
    """Return prompts encoded, each tensor once, however many samples are wanted of it."""
    different = {id(query): query for query in query_ids}
    encoded = engine.encode(list(different.values()), reference=reference)
    if len(different) == len(query_ids):
        return encoded
    places = {key: i for i, key in enumerate(different)}
    return encoded.select([places[id(query)] for query in query_ids])


def deal(count: int, size: int, seed: Sequence[int]) -> list[list[int]]:
    """Deal examples to minibatches at random, but one of each `count / size` neighbours to every minibatch.

    A process's examples are neighbours, so that each minibatch has as many of one process as of any other, whatever
    their number: no process waits, and the minibatches do not depend on it.

    Args:
        count: examples, a multiple of `size`.
        size: examples of a minibatch.
        seed: decides who goes where.

    Raises:
        ValueError: `size` does not divide `count`.
    """
    if count % size:
        raise ValueError(f"{count} examples can't be dealt to minibatches of {size}")
    neighbours = np.arange(count).reshape(size, -1)
    return np.random.default_rng(seed).permuted(neighbours, axis=1).T.tolist()


def _add(totals: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    """Add one part's statistics to those of the parts before; of `ratio_first`, keep the largest."""
    for name, value in part.items():
        joined = torch.maximum if name == "ratio_first" else torch.add
        totals[name] = joined(totals[name], value) if name in totals else value


@contextlib.contextmanager
def _models_stay_unwrapped() -> Iterator[None]:
    """Let TRL's constructor put models on their device without wrapping them in DDP.

    DDP would send the frozen backbone around and average the gradients; here the trained parameters' are summed.
    """

    class Plain(Accelerator):
        def prepare_model(self, model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any:
            return super().prepare_model(model, device_placement, evaluation_mode=True)

    before = stock.Accelerator
    stock.Accelerator = Plain
    try:
        yield
    finally:
        stock.Accelerator = before


def _joined(query_ids: list[Tensor], parts: list[tuple[Encoded, Generated]]) -> Rollout:
    """Return what was sampled for one group of prompts after the other as one rollout."""
    if len(parts) == 1:
        encoded, generated = parts[0]
        return Rollout(
            query_ids, generated.responses, generated.finished, encoded, generated.logprobs, generated.hidden
        )
    longest = max(generated.logprobs.shape[1] for _, generated in parts)
    padded = [F.pad(generated.logprobs, (0, longest - generated.logprobs.shape[1])) for _, generated in parts]
    return Rollout(
        query_ids,
        [response for _, generated in parts for response in generated.responses],
        torch.cat([generated.finished for _, generated in parts]),
        Encoded(
            torch.cat([encoded.hidden for encoded, _ in parts]),
            tuple(length for encoded, _ in parts for length in encoded.lengths),
        ),
        torch.cat(padded),
        torch.cat([generated.hidden for _, generated in parts]),
    )
