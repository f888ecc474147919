"""Stage 2: PPO makes the summarizer civil.

Reads the prompts of data_preparation.py, the base model, its supervised LoRA checkpoint and the reward model; writes
checkpoints/<run>/ppo. Run again after an interruption, it goes on from the last complete checkpoint.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import config
from detox import cli

if TYPE_CHECKING:
    from torch import Tensor

    from detox.policy import LoraFactors
    from detox.prompts import PromptStream
    from detox.reward import RewardModel
    from detox.trainer import Rollout, Seq2SeqPPOTrainer

MAX_SKIPPED = 3


class Parts(NamedTuple):
    """What a training run is made of."""

    trainer: Seq2SeqPPOTrainer
    supervised: LoraFactors
    reward: RewardModel
    prompts: PromptStream


def main(settings: config.PPOTraining) -> int:
    from detox import artifacts, checkpoint

    run = Path(settings.checkpoints) / settings.run_name
    if settings.plan:
        from detox import plan

        print(plan.report(settings, run))
        return 0
    with artifacts.lock(run):
        inputs, settings = find_inputs(settings, run)
        weights = find_weights(settings)
        folder = run / "ppo"
        artifacts.sweep(folder)
        resumed = None if settings.overwrite else checkpoint.last(folder)
        if resumed is not None:
            manifest = checkpoint.check(resumed, settings, inputs, weights)
            if manifest["counts"]["updates"] >= settings.ppo.updates:
                print(f"{resumed} is complete; raise --ppo.updates to go on, or pass --overwrite to start over")
                return 0
        parts = build(settings, inputs)
        if settings.overwrite and folder.exists():  # only now that all that is needed is there
            artifacts.remove(folder)
        return train(settings, parts, folder, resumed, inputs, weights)


def find_inputs(settings: config.PPOTraining, run: Path) -> tuple[dict[str, Path], config.PPOTraining]:
    """Return the artefacts that this stage reads, checked, and the settings with `--model.adapter auto` resolved."""
    from detox import artifacts

    inputs = {"prepared": run / "prepared"}
    artifacts.read_manifest(inputs["prepared"], "data_preparation")
    adapter, own = settings.model.adapter, run / "lora"
    if adapter == "auto":
        adapter = str(own) if own.exists() else "none"
    if adapter == str(own):
        artifacts.read_manifest(own, "training_lora")
        inputs["lora"] = own
    return inputs, replace(settings, model=replace(settings.model, adapter=adapter))


def find_weights(settings: config.PPOTraining) -> dict[str, str]:
    """Return what tells the weights of the models that this stage reads from others, by their names."""
    from detox import models

    names = {
        settings.model.base: settings.model.revision,
        settings.model.adapter: settings.model.adapter_revision,
        settings.reward.model: settings.reward.revision,
    }
    return {name: models.identity(name, revision) for name, revision in names.items() if name != "none"}


def build(settings: config.PPOTraining, inputs: dict[str, Path]) -> Parts:
    """Load the tokenizer, the prompts, the policy (the reference is inside it) and the reward model."""
    from detox import data, models, policy
    from detox.engine import choose_dtype
    from detox.prompts import PromptStream
    from detox.reward import RewardModel
    from detox.trainer import Seq2SeqPPOConfig, Seq2SeqPPOTrainer

    models.quiet()
    models.set_threads(settings.threads)
    device = models.choose_device(settings.device)
    tokenizer = models.load_tokenizer(settings.model.base, settings.model.revision)
    prepared = data.load_prepared(inputs["prepared"], data.tokenizer_fingerprint(tokenizer))
    dtype = choose_dtype(settings.dtype, device)
    start, supervised = policy.load_start(settings.model)
    with_value_head = policy.make_policy(start, settings.ppo, seed=settings.seed, dtype=dtype)
    ppo = Seq2SeqPPOConfig.from_settings(
        settings.ppo, seed=settings.seed, engine=settings.engine, cpu=device.type == "cpu"
    )
    trainer = Seq2SeqPPOTrainer(ppo, with_value_head.to(device), tokenizer=tokenizer)
    classifier = models.load_classifier(settings.reward.model, settings.reward.revision, settings.reward.label, dtype)
    reward = RewardModel(classifier, settings.reward.signal, settings.reward.batch_size, device)
    base = f"{settings.model.base} with supervised adapter {settings.model.adapter}"
    print(f"policy     {base} and a new LoRA that PPO trains")
    print("reference  the same without the new LoRA")
    print(f"reward     {settings.reward.signal} of {settings.reward.label!r} by {settings.reward.model}")
    print(f"runs on    {device}, {trainer.engine.describe()}")
    return Parts(trainer, supervised, reward, PromptStream(prepared["train"]["input_ids"], settings.seed))


def train(
    settings: config.PPOTraining,
    parts: Parts,
    folder: Path,
    resumed: Path | None,
    inputs: dict[str, Path],
    weights: dict[str, str],
) -> int:
    """Run the updates that are left, saving as they go; return the exit code."""
    from tqdm import tqdm

    from detox import checkpoint, collapse
    from detox.interrupt import Interrupt
    from detox.metrics import MetricsLog, objective, summary
    from detox.plots import training_png

    trainer, updates = parts.trainer, settings.ppo.updates
    progress: dict[str, Any] = {"position": 0, "best": None, "best_objective": None, "metrics": []}
    if resumed is not None:
        progress = checkpoint.restore(resumed, trainer)
        parts.prompts.position = progress["position"]
        print(f"goes on    from {resumed}")
    log = MetricsLog(folder / "metrics.jsonl", progress["metrics"])
    bar = tqdm(total=updates, initial=trainer.updates_done, desc="PPO", unit="update", disable=None)
    with Interrupt() as interrupt, bar:
        if resumed is None:
            warm_up(settings, parts, bar)
        stopping = interrupt.received is not None
        while trainer.updates_done < updates and not stopping:
            started = time.perf_counter()
            rollout, summaries = roll_out(settings, parts, settings.ppo.batch_size)
            generated = time.perf_counter()
            scores = score(settings, parts, summaries)
            scored = time.perf_counter()
            metrics = trainer.update(rollout, scores)  # rewards, advantages, PPO epochs
            metrics |= {"time/generate": generated - started, "time/score": scored - generated}
            metrics |= {"time/total": time.perf_counter() - started, "memory/peak_mb": trainer.peak_memory_mb()}

            reason = collapse.find(summaries, metrics, settings.ppo.max_ref_kl)
            if reason is not None:
                metrics["collapse"] = reason
            log.append({"update": trainer.updates_done, **metrics})
            tqdm.write(summary(log.lines[-1], updates))
            if "skipped" not in metrics:
                bar.set_postfix(score=metrics["objective/score_mean"], kl=metrics["objective/ref_kl"])
            bar.update()
            stop_if_broken(trainer, metrics)
            if reason is not None and settings.ppo.on_collapse == "stop":
                raise collapse.refusal(trainer.updates_done, reason)

            stopping = interrupt.received is not None
            if stopping or trainer.updates_done == updates or trainer.updates_done % settings.save.every == 0:
                value = objective(log.lines[-settings.save.every :])
                if progress["best"] is None or value > progress["best_objective"]:
                    progress["best"], progress["best_objective"] = trainer.updates_done, value
                progress["position"], progress["metrics"] = parts.prompts.position, log.lines
                checkpoint.save(
                    folder / checkpoint.name(trainer.updates_done),
                    trainer,
                    settings,
                    supervised=parts.supervised,
                    progress=progress,
                    inputs=inputs,
                    weights=weights,
                )
                checkpoint.prune(folder, settings.save.keep, progress["best"])
                training_png(log.lines, folder / "training.png")
    return finish(settings, folder, trainer.updates_done, interrupt.exit_code)


def warm_up(settings: config.PPOTraining, parts: Parts, bar: Any) -> None:
    """Fit the value head to rollouts of the policy as it starts, so that the first advantages mean something."""
    rollouts: list[Rollout] = []
    scores: list[Tensor] = []
    left = settings.ppo.value_warmup
    while left > 0:
        bar.set_postfix_str(f"value warm-up, {left} rollouts left")
        rollout, summaries = roll_out(settings, parts, min(left, settings.ppo.batch_size))
        rollouts.append(rollout)
        scores.append(score(settings, parts, summaries))
        left -= len(summaries)
    if rollouts:
        explained = parts.trainer.warm_up_values(rollouts, scores)
        print(f"value head fitted to {settings.ppo.value_warmup} rollouts; it explains {explained:.0%} of the returns")


def roll_out(settings: config.PPOTraining, parts: Parts, count: int) -> tuple[Rollout, list[str]]:
    """Sample summaries of the next `count` dialogues; return them as ids and as text without special tokens."""
    from detox.engine import Sampling

    prompts = parts.prompts.take(count)
    sampling = Sampling(
        temperature=settings.rollout.temperature, top_k=settings.rollout.top_k, top_p=settings.rollout.top_p
    )
    rollout = parts.trainer.rollout(
        [prompt.query_ids for prompt in prompts],
        [prompt.key for prompt in prompts],
        settings.rollout.max_new_tokens,
        sampling,
    )
    return rollout, parts.trainer.tokenizer.batch_decode(rollout.response_ids, skip_special_tokens=True)


def score(settings: config.PPOTraining, parts: Parts, summaries: list[str]) -> Tensor:
    """Return the reward model's scores [B]; a model of others can fail in any way, and is named."""
    from detox.errors import UserError, printable

    try:
        return parts.reward.score(summaries)
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise UserError(
            f"--reward.model={settings.reward.model}: it failed on {len(summaries)} summaries ({reason}); the last "
            f"checkpoint is whole: lower --reward.batch-size={settings.reward.batch_size} if memory is short, or "
            "name another model"
        ) from error


def stop_if_broken(trainer: Seq2SeqPPOTrainer, metrics: dict[str, Any]) -> None:
    """Raise where updates fail one after the other; the last checkpoint stays as it is."""
    from detox.errors import UserError

    if trainer.skipped_in_a_row >= MAX_SKIPPED:
        raise UserError(
            f"{MAX_SKIPPED} updates in a row were skipped, the last because {metrics['skipped']}; "
            "the last checkpoint is whole: look at the reward model, or lower --ppo.learning-rate, and start anew"
        )


def finish(settings: config.PPOTraining, folder: Path, updates: int, exit_code: int) -> int:
    """Say what was written and what to type next."""
    from detox import checkpoint

    if exit_code:
        again = cli.command("training_ppo.py", settings) + " and the same settings"
        print(f"interrupted: {updates} updates are saved; go on with: {again}", file=sys.stderr)
    else:
        print(f"wrote {folder / checkpoint.name(updates)}, {folder / 'metrics.jsonl'}, {folder / 'training.png'}")
        print(f"next: {cli.command('evaluate_ppo.py', settings)}")
    return exit_code


if __name__ == "__main__":
    sys.exit(cli.run(config.PPOTraining, main, description=__doc__))
