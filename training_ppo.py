"""Stage 2: PPO makes the summarizer civil.

Reads the prompts of data_preparation.py, the base model, its supervised LoRA checkpoint and the reward model; writes
checkpoints/<run>/ppo. Run again after an interruption, it goes on from the last complete checkpoint. Several processes
(`accelerate launch`, `torchrun`) share each batch: docs/devices.md.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import config
from detox.stage import checkpoint_folders, cli, commands, lack_of_memory, manifest, notes, run_preset
from detox.stage.figures import lookup

if TYPE_CHECKING:
    from collections.abc import Set

    from detox.model.policy import LoraFactors
    from detox.ppo.prompt_stream import PromptStream
    from detox.ppo.trainer import Seq2SeqPPOTrainer
    from detox.scoring.reward import WeightedReward
    from detox.stage.parallel import Processes


class Parts(NamedTuple):
    """What a training run is made of."""

    trainer: Seq2SeqPPOTrainer
    supervised: LoraFactors
    reward: WeightedReward
    prompts: PromptStream


def of_run(settings: config.PPOTraining, named: Set[str]) -> list[str]:
    """Return what to type for the preset to be the run's, and the adapter its own where the preset's is embedded.

    A run that has begun otherwise goes on as it began.

    Args:
        settings: with what is usual where nothing else is said.
        named: flags that the user has set.
    """
    words = run_preset.words(settings, named)
    run = Path(settings.checkpoints) / settings.run_name
    usual = settings.of_preset(words[-1] if words else settings.preset).model.adapter
    own, goes_on = run / "lora", checkpoint_folders.last(run / "ppo") is not None and not settings.overwrite
    has_own = recorded(run, "lora") is not None if goes_on else own.exists()
    if "--model.adapter" in named or not usual.startswith("demo:") or not has_own:
        return words
    notes.tell(f"--model.adapter auto, {own}" if goes_on else f"--model.adapter auto, as {own} is there")
    return [*words, "--model.adapter", "auto"]


def recorded(run: Path, name: str) -> Any:
    """Return what the last checkpoint of a run has recorded of an input, None where there is no such thing."""
    last = checkpoint_folders.last(run / "ppo")
    return lookup(manifest.glance(last), "inputs", name) if last else None


def main(settings: config.PPOTraining) -> int:
    from detox.ppo import resume, trackers
    from detox.stage import parallel, run_lock

    run = Path(settings.checkpoints) / settings.run_name
    processes = parallel.start(settings.device)
    if settings.plan:
        from detox.plan import printed

        most_tokens = config.preset(config.Preparation, settings.preset).data.max_query_tokens
        print(printed.report(settings, run, most_tokens))
        return 0
    trackers.check(settings)
    with processes.within(lambda: run_lock.hold(run)):
        inputs, settings = processes.on_main(lambda: find_inputs(settings, run))
        weights = processes.on_main(lambda: find_weights(settings))
        folder = run / "ppo"
        resumed = processes.on_main(lambda: checkpoint_folders.find(folder, settings.overwrite))
        if resumed is not None:
            manifest = processes.on_main(lambda: resume.check(resumed, settings, inputs, weights))
            if manifest["counts"]["updates"] >= settings.ppo.updates:
                print(f"{resumed} is complete; raise --ppo.updates to go on, or pass --overwrite to start over")
                if settings.ppo.schedule != "constant":
                    print("note: steps get smaller towards the last update; to go on a long way, double --ppo.updates")
                evaluation = commands.other("evaluate_ppo.py", settings, lambda flag: flag in commands.MACHINE)
                print(f"next: {evaluation}")
                return 0
        parts = build(resume.as_begun(settings, resumed, processes.sharded), inputs, processes)
        # Only now, with all else there, may what was written before be moved aside.
        with processes.within(lambda: checkpoint_folders.successor(folder, settings.overwrite)):
            return train(settings, parts, folder, resumed, inputs, weights)


def find_inputs(settings: config.PPOTraining, run: Path) -> tuple[dict[str, Path], config.PPOTraining]:
    """Return the artefacts that this stage reads, checked, and the settings with `--model.adapter auto` resolved."""
    from detox.ppo import checkpoint_record
    from detox.stage import artifacts, paths

    inputs = {"prepared": run / "prepared"}
    checkpoint_record.check_prepared(recorded(run, "prepared") or {}, settings.stages(), run)
    artifacts.read_manifest(inputs["prepared"], "data_preparation", reader=settings)
    adapter, own = settings.model.adapter, run / "lora"
    base, usual = settings.model.base, settings.of_preset(settings.preset).model
    if adapter == usual.adapter != "auto" and base != usual.base and not paths.same(base, usual.base):
        notes.tell(
            f"--model.adapter {adapter} is the preset's, for {usual.base}; for {base} say auto, none or your own"
        )
    if adapter == "auto" and not own.exists() and (settings.overwrite or recorded(run, "lora") is None):
        adapter = "none"
    elif adapter in ("auto", str(own)) or paths.same(adapter, str(own)):
        adapter, inputs["lora"] = str(own), own
        artifacts.read_manifest(own, "training_lora", reader=settings)
        if not commands.fits("training_lora.py", settings, "prepared"):
            again = commands.anew("training_lora.py", settings, lambda flag: flag in commands.BASE)
            notes.tell(f"{own} was trained on other data than {inputs['prepared']} holds; made anew with: {again}")
    return inputs, replace(settings, model=replace(settings.model, adapter=adapter))


def find_weights(settings: config.PPOTraining) -> dict[str, str]:
    """Return what tells the models' weights and the user's code that this stage reads from others, by their names."""
    from detox.model import sources
    from detox.scoring import classifier, reward_terms

    start, reward = settings.model, settings.reward
    names = {start.base: start.revision, start.adapter: start.adapter_revision}
    weights = {name: sources.identity(name, revision) for name, revision in names.items() if name != "none"}
    weights[reward.model] = classifier.identity(reward.model, reward.revision)
    return weights | {name: reward_terms.identity(name) for name in reward.terms if name not in config.REWARD_TERMS}


def build(settings: config.PPOTraining, inputs: dict[str, Path], processes: Processes) -> Parts:
    """Load the tokenizer, the prompts, the policy (the reference is inside it) and the reward model."""
    from detox.data.fingerprint import tokenizer_fingerprint
    from detox.data.prepared import check_positions, load_prepared
    from detox.model import devices, loading, policy, sharding, threads, tokenizers
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.prompt_stream import PromptStream
    from detox.ppo.trainer import Seq2SeqPPOTrainer
    from detox.scoring.classifier import load_classifier
    from detox.scoring.reward import RewardModel, WeightedReward

    loading.quiet()
    device = devices.take(settings.device)
    base, revision = settings.model.base, settings.model.revision
    tokenizer = tokenizers.load_tokenizer(base, revision)
    loading.check_tokens("--rollout.max-new-tokens", settings.rollout.max_new_tokens, base, revision)
    threads.take(settings.threads, device, base, revision)
    prepared = load_prepared(inputs["prepared"], tokenizer_fingerprint(tokenizer), settings)
    check_positions(prepared, inputs["prepared"], settings)
    dtype = devices.choose_dtype(settings.dtype, device)
    start, supervised = policy.load_start(settings.model)
    with_value_head = policy.make_policy(start, settings.ppo, seed=settings.seed, dtype=dtype)
    if processes.sharded:
        sharding.shard(start, processes)
    on_cpu, count = device.type == "cpu", processes.count
    ppo = Seq2SeqPPOConfig.from_settings(
        settings.ppo, seed=settings.seed, engine=settings.engine, cpu=on_cpu, processes=count
    )
    trainer = Seq2SeqPPOTrainer(ppo, with_value_head.to(device), tokenizer=tokenizer, processes=processes)
    classifier = load_classifier(settings.reward.model, settings.reward.revision, settings.reward.label, dtype)
    scorer = RewardModel(classifier, settings.reward.signal, settings.reward.batch_size, device)
    reward = WeightedReward(settings.reward, scorer, prepared["train"])
    print(f"policy     {base} with adapter {settings.model.adapter} and a new LoRA, which PPO trains")
    print("reference  the same without the new LoRA")
    print(f"reward     {replace(settings.reward, label=classifier.label).describe()}")
    together = f", one of {count} processes" if count > 1 else ""
    print(f"runs on    {device}, {trainer.engine.describe()}{threads.describe(device)}{together}")
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
    from detox.ppo import batches, checkpoint, collapse, trackers, warm_up, watch
    from detox.ppo.metrics_log import MetricsLog, note_best, summary
    from detox.stage.interrupt import Interrupt
    from detox.stage.progress import Progress

    trainer, processes, updates = parts.trainer, parts.trainer.processes, settings.ppo.updates
    progress: dict[str, Any] = {"position": 0, "best": None, "best_objective": None, "metrics": []}
    if resumed is not None:
        progress = checkpoint.restore(resumed, trainer)
        parts.prompts.position = progress["position"]
        cli.safe = saved(settings, trainer.updates_done)
        print(f"goes on    from {resumed}")
    log = MetricsLog(folder / "metrics.jsonl" if processes.is_main else None, progress["metrics"])
    tracking = trackers.tracker(settings, folder, trainer.updates_done) if processes.is_main else nullcontext()
    bar = Progress(total=updates, initial=trainer.updates_done, desc="PPO", unit="update", shown=processes.is_main)
    with Interrupt() as interrupt, bar, tracking as tracker:
        stopped_by = None if resumed else warm_up.warm_up(trainer, parts.prompts, parts.reward, settings, interrupt)
        bar.unpause()  # its rate is of updates
        while trainer.updates_done < updates and stopped_by is None:
            started = time.perf_counter()
            rollout, prompts, summaries = batches.roll_out(trainer, parts.prompts, settings)
            generated = time.perf_counter()
            with lack_of_memory.told(f"lower --reward.batch-size={settings.reward.batch_size}"):
                scores, terms = parts.reward.score([prompt.row for prompt in prompts], summaries)
            scored = time.perf_counter()
            if trainer.updates_done < settings.save.every:
                progress["watched"] = watch.lowest(progress.get("watched"), prompts, scores)
            metrics = trainer.update(rollout, scores)  # rewards, advantages, PPO epochs
            metrics |= {"time/generate": generated - started, "time/score": scored - generated}
            own = batches.Account(summaries, terms, trainer.peak_memory_mb(), interrupt.received)
            whole = batches.Account.of_all(processes.gather_objects(own))
            metrics |= {f"objective/reward/{name}_mean": float(values.mean()) for name, values in whole.terms.items()}
            metrics["objective/scored_summaries"] = warm_up.scored(settings.ppo, trainer.updates_done)
            metrics |= {"time/total": time.perf_counter() - started, "memory/peak_mb": whole.peak_mb}
            stopped_by = whole.signal
            reason = collapse.find(whole.summaries, settings.ppo.dialogues, metrics, settings.ppo.max_ref_kl)
            if reason is not None:
                metrics["collapse"] = reason
            warnings = log.append({"update": trainer.updates_done, **metrics})
            trackers.report(tracker, log.lines[-1])
            bar.update()
            if processes.is_main:
                bar.write(summary(log.lines[-1], updates))
                for text in warnings:
                    bar.write(f"warning: {text}", file=sys.stderr)
            collapse.stop_if_skipped(trainer.skipped_in_a_row, metrics)
            if reason is not None and settings.ppo.on_collapse == "stop":
                raise collapse.refusal(trainer.updates_done, reason)

            if stopped_by or trainer.updates_done == updates or trainer.updates_done % settings.save.every == 0:
                note_best(progress, log.lines, settings.save.every, updates)
                progress["position"], progress["metrics"] = parts.prompts.position, log.lines
                if processes.is_main:
                    if progress.get("watched") and not processes.sharded:  # all of them would have to take part
                        bar.write(watch.told(trainer, progress["watched"], settings))
                    save(settings, parts, folder, progress, inputs, weights)
    return processes.on_main(lambda: finish(settings, parts, folder, stopped_by))


def save(
    settings: config.PPOTraining,
    parts: Parts,
    folder: Path,
    progress: dict[str, Any],
    inputs: dict[str, Path],
    weights: dict[str, str],
) -> None:
    """Write the curves and a checkpoint, and remove the checkpoints that are no longer kept.

    The checkpoint comes last: a run that ends in between goes on from the one before, and draws the curves again.
    """
    from detox.ppo import checkpoint
    from detox.report.training_curves import training_png

    training_png(progress["metrics"], folder / "training.png")
    checkpoint.save(
        folder / checkpoint_folders.name(parts.trainer.updates_done),
        parts.trainer,
        settings,
        supervised=parts.supervised,
        progress=progress,
        inputs=inputs,
        weights=weights,
    )
    checkpoint_folders.prune(folder, settings.save.keep, progress["best"])
    cli.safe = saved(settings, parts.trainer.updates_done)


def saved(settings: config.PPOTraining, updates: int) -> str:
    """Say how many updates the last checkpoint has, and how the run goes on from there."""
    anew = ["--overwrite"] if settings.overwrite and not updates else []
    again = commands.go_on("training_ppo.py", settings, *anew)
    count = "1 update is" if updates == 1 else f"{updates} updates are"
    return f"{f'{count} saved; go on' if updates else 'nothing is saved yet; start again'} with: {again}"


def finish(settings: config.PPOTraining, parts: Parts, folder: Path, stopped_by: int | None) -> int:
    """Say what was written and what to type next; return the exit code."""
    from detox.ppo.next_step import next_step

    updates = parts.trainer.updates_done
    if updates >= settings.ppo.updates:
        usual = config.preset(config.EvaluationStage, settings.preset)
        following = next_step(settings, usual, parts.reward.classifier.classifier)
        if stopped_by is not None:
            print(f"interrupted: all {updates} updates are done and saved; {following}", file=sys.stderr)
            return 128 + stopped_by
        print(f"wrote {folder}: {checkpoint_folders.name(updates)}, metrics.jsonl, training.png")
        print(following)
        return 0
    print(f"interrupted: {saved(settings, updates)}", file=sys.stderr)
    return 128 + (stopped_by or 0)


if __name__ == "__main__":
    sys.exit(cli.run(config.PPOTraining, main, description=__doc__, of_run=of_run))
