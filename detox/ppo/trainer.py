"""Seq2SeqPPOTrainer: TRL's PPO trainer for encoder-decoders, corrected and made fast.

Constructor, `generate`, `step` and the keys of its statistics are those of `trl.PPOTrainer` 0.11.4; `rollout` and
`update` are the same two halves, typed. One iteration of PPO, step by step, and where each is read:

1. Sample summaries from the policy (`rollouts`).
2. Score them; that is the caller's.
3. Make a reward a token of the score and the KL from the reference (`experience`, `rewards`).
4. Make advantages of the rewards, and whiten them (`experience`, `advantages`, `moments`).
5. Take clipped optimizer steps in a few passes over shuffled minibatches (`update`, `losses`).
6. Report, adapt what adapts, and again (`metrics`, `value_learning`, `kl_control`).

What differs from TRL, and why:

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
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import trl.trainer.ppo_trainer as stock
from accelerate import Accelerator
from torch import Tensor
from trl import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer

from detox.model import devices
from detox.model.sampling import Sampling, uniforms
from detox.ppo import value_learning
from detox.ppo.checks import MOST_OFF, check_ratio, check_reference
from detox.ppo.experience import Experience, make_experience
from detox.ppo.metrics import update_metrics
from detox.ppo.ppo_config import Seq2SeqPPOConfig, make_optimizer
from detox.ppo.rollouts import Rollout, sample
from detox.ppo.state import Snapshot, TrainingState
from detox.ppo.trl_statistics import trl_statistics
from detox.ppo.update import first_deviation, run_ppo_epochs
from detox.stage.parallel import ALONE, Processes

FULL_DISTRIBUTION = Sampling()

GENERATE_STREAM = 2
"""Stands after the seed in what decides the random numbers of `generate`."""


class Seq2SeqPPOTrainer(PPOTrainer, TrainingState):
    """Proximal policy optimization of an encoder-decoder with a value head.

    Args:
        config: `Seq2SeqPPOConfig`, or TRL's `PPOConfig` (the further settings then have their defaults).
        model: `AutoModelForSeq2SeqLMWithValueHead`; LoRA or full.
        ref_model: the reference, wrapped likewise; None takes the model with its adapter off, or a copy where there is
            no adapter.
        tokenizer: as TRL wants it.
        processes: that train together; each rolls out and updates with its share of the batch.
        Others: as in TRL.

    Raises:
        ValueError: a model is not an encoder-decoder with a value head, or nothing in it is trained.
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
        head = model.pretrained_model.get_output_embeddings()
        if head is not None and head.weight.dtype not in MOST_OFF:
            raise ValueError(f"weights in {head.weight.dtype}: load the model in float32 or bfloat16")
        if ref_model is not None and not isinstance(ref_model, AutoModelForSeq2SeqLMWithValueHead):
            raise ValueError(
                f"ref_model is a {type(ref_model).__name__}: give an AutoModelForSeq2SeqLMWithValueHead, or None for "
                "the model with its adapter off"
            )
        with warnings.catch_warnings(), _models_stay_unwrapped():
            warnings.filterwarnings("ignore", message="`PPOTrainer` is deprecated", category=FutureWarning)
            warnings.filterwarnings("ignore", message="No dataset is provided", category=UserWarning)
            PPOTrainer.__init__(
                self,
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
        frozen = None if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)
        TrainingState.__init__(self, config, policy, frozen, self.optimizer, processes)

    # --- an iteration of PPO ---

    def rollout(
        self,
        query_ids: Sequence[Tensor],
        keys: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = FULL_DISTRIBUTION,
    ) -> Rollout:
        """Sample a response to each prompt: step 1. Step 2, the scores of the responses, is the caller's.

        Args:
            query_ids: prompts, [length] of ids each; several samples of a prompt are neighbours with one tensor.
            keys: one number a response; (seed, key) alone decides its random numbers.
            max_new_tokens: longest response, its end-of-sequence token included.
            sampling: temperature and the like; its uniforms are drawn here.
        """
        return sample(self, query_ids, keys, max_new_tokens, sampling)

    def update(self, rollout: Rollout, scores: Tensor) -> dict[str, Any]:
        """Learn from one rollout: rewards, advantages, then `ppo_epochs` passes of clipped updates.

        An update in which a score, a gradient or a loss is not finite leaves every parameter as it was and returns
        `{"skipped": reason}`; `skipped_in_a_row` counts those.

        Args:
            rollout: this process's prompts and responses.
            scores: [B] float, theirs, of the reward; the unit is the caller's.

        Returns:
            Metrics by name, over all processes; times are this process's.

        Raises:
            TrainingError: where nothing has been learned yet, the policy is not the reference, or the ratio is not 1;
                in any update, no step is small enough, or memory lacks for a single example.
        """
        self._set_learning_rates()
        is_first = self.updates_done == self.skipped_in_a_row
        all_scores = self.processes.gather(scores)
        broken = int((~torch.isfinite(all_scores)).sum())
        if broken:
            return self._skip(f"{broken} of {len(all_scores)} scores are not finite")

        # 3 and 4. What each token was rewarded with, and what of that was more than to be expected.
        started, dtype = time.perf_counter(), self.engine.head_weight.dtype
        experience = self.experience(rollout, scores)
        if is_first:
            check_reference(experience.old_logprobs, experience.ref_logprobs, experience.mask, dtype)
        devices.trim_cache(self.engine.device)

        # 5. Clipped optimizer steps; all of them are undone where one can't be taken.
        forwarded = time.perf_counter()
        if is_first:
            check_ratio(first_deviation(self, rollout, experience), dtype)
        before = Snapshot.of(self)
        statistics = run_ppo_epochs(self, rollout, experience, before)
        if statistics is None:
            before.restore(self)
            return self._skip("a gradient is not finite")
        rollout.encoded.forget()
        devices.trim_cache(self.engine.device)

        # 6. What there is to report, what the critic learns of it, the weight of the KL penalty from here on.
        metrics = update_metrics(self, experience, statistics)
        value_learning.learn(self, rollout, experience)
        metrics |= {"time/forward": forwarded - started, "time/optimize": time.perf_counter() - forwarded}
        self._trl_stats = trl_statistics(experience, statistics, metrics, self.kl_ctl.value, self.value_weight)
        self.kl_ctl.update(metrics["objective/ref_kl_k1"], len(all_scores))
        self.updates_done += 1
        self.skipped_in_a_row = 0
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return metrics

    def experience(self, rollout: Rollout, scores: Tensor) -> Experience:
        """Return what the update reads of all processes' rollouts: steps 3 and 4.

        Args:
            rollout: this process's.
            scores: [B] float, its own.
        """
        return make_experience(self, rollout, scores)

    def warm_up_values(self, rollouts: Sequence[Rollout], scores: Sequence[Tensor]) -> float:
        """Fit the value head to rollouts of the policy before its first update; see `fit_before_training`."""
        return value_learning.fit_before_training(self, rollouts, scores)

    def _set_learning_rates(self) -> None:
        """Let the rates decay linearly where no schedule of TRL's sets them. Source: detail 4 of those in `update`."""
        if self.lr_scheduler is None and self.config.updates is not None:
            for group, rate in zip(self.optimizer.param_groups, self.base_rates):
                group["lr"] = rate * self.left

    def _skip(self, reason: str) -> dict[str, Any]:
        self.optimizer.zero_grad()
        self.updates_done += 1
        self.skipped_in_a_row += 1
        self._trl_stats = {}
        return {"skipped": reason}

    def peak_memory_mb(self) -> float:
        """Return the most memory used so far: of the accelerator, or of the process on a CPU."""
        return devices.peak_memory_mb(self.engine.device)

    # --- TRL's calls ---

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
        min_length: int = -1,
        pad_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> Any:
        """Generate as TRL's `generate` does: responses begin with the decoder start token.

        `batch_size` bounds how many prompts run at once and changes nothing else; `return_prompt` means nothing for
        an encoder-decoder; `pad_token_id` and `eos_token_id` are taken from the model, and accepted for TRL's sake; so
        is a `min_length` that asks for nothing. Nothing else of transformers' `generate` is known.

        Args:
            query_tensor: [length] of ids, or a list of them.
            length_sampler: is called once for the number of new tokens.
            seed: of the sampling; None draws one from torch's generator.

        Returns:
            A tensor [1, length] for one prompt, a list of tensors [length] for a list; with `generate_ref_response`
            that of the policy and that of the reference.

        Raises:
            ValueError: a prompt is empty or no [length] of ids, or a number is out of its range.
        """
        one = isinstance(query_tensor, Tensor)
        queries = [query_tensor] if isinstance(query_tensor, Tensor) else query_tensor
        count = length_sampler() if length_sampler is not None else max_new_tokens
        if count < 1 or min_length > 0:
            raise ValueError(f"max_new_tokens={count}, min_length={min_length}: must be 1 or more; 0 or less")
        if any(query.dim() != 1 or not len(query) for query in queries):
            raise ValueError("a prompt is a tensor [length] of ids, at least one of them; several are a list")
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
            ValueError: a count that differs from the batch size, a response without the decoder start token, or a
                score that is no number alone.
        """
        if response_masks is not None:
            raise ValueError("response_masks: every token of a response counts here; leave it None")
        self._step_safety_checker(self.config.batch_size, queries, responses, scores)
        for i, response in enumerate(responses):
            if scores[i].numel() != 1:
                raise ValueError(f"scores[{i}] must be one number")
            if len(response) < 2 or int(response[0]) != self.engine.start_id:
                raise ValueError(f"responses[{i}] must be the decoder start token and at least one token")
        bare = [response[1:].to(self.engine.device) for response in responses]
        finished = torch.isin(torch.stack([response[-1] for response in bare]), self.engine.eos)
        with torch.no_grad():
            encoded = self.engine.encode(queries)
        rollout = Rollout(list(queries), bare, finished, encoded)
        metrics = self.update(rollout, torch.stack([score.detach().float().reshape(()) for score in scores]))
        return {**self._trl_stats, **metrics}


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
