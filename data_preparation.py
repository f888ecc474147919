"""Stage 1: dialogues become tokenized prompts on disk.

Reads a dataset (the hub's, a folder, a file, or the embedded corpus) and the summarizer's tokenizer; writes
checkpoints/<run>/prepared and says what was dropped, and why. Under `accelerate launch` or `torchrun` the other
processes tokenize what the main one reads and writes; the result is the same.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import config
from detox.stage import artifacts, cli, commands, figures, manifest, paths, run_lock
from detox.stage.errors import UserError


def main(settings: config.Preparation) -> None:
    from detox.data import counts, preparation, prepared, sources
    from detox.model import loading, tokenizers
    from detox.stage import notes, parallel

    processes = parallel.start("cpu")
    if processes.count > 1 and settings.data.workers > 1:
        raise UserError(
            f"--data.workers={settings.data.workers}: the {processes.count} processes of the launcher share the work "
            "already; leave it out"
        )
    if not processes.is_main:
        tokenizer = tokenizers.load_tokenizer(settings.model.base, settings.model.revision)
        return preparation.assist(settings.data, tokenizer, processes)
    run = Path(settings.checkpoints) / settings.run_name
    with (
        run_lock.hold(run),
        artifacts.publish(
            run / "prepared", stage="data_preparation", settings=settings, overwrite=settings.overwrite
        ) as draft,
    ):
        source = sources.locate(settings.data, settings.seed)
        before = source.state()
        print(f"dialogues  {source.name}{f' at commit {source.revision}' if source.revision else ''}")
        tokenizer = tokenizers.load_tokenizer(settings.model.base, settings.model.revision)
        base, limits = settings.model, settings.data
        loading.check_tokens("--data.max-query-tokens", limits.max_query_tokens, base.base, base.revision, "encoder")
        loading.check_tokens("--data.max-summary-tokens", limits.max_summary_tokens, base.base, base.revision)
        print(f"tokenizer  {base.base}")
        dataset, counted = preparation.prepare(settings.data, tokenizer, settings.seed, source, draft.path, processes)
        if source.state() != before:
            raise UserError(f"{source.name}: changed while it was read; start again once it stays as it is")
        warning = counts.check_vocabulary(counted, source.name, base.base)
        prepared.save_prepared(dataset, draft.path, source, tokenizer, settings.model.base)
        draft.counts.update(counted)
    cli.safe = f"{run / 'prepared'} is whole"
    print(f"\n{counts.counts_table(counted)}\n")
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    if (few := counts.few(counted)) is not None:
        print(notes.folded(f"note: {few}"))
    if source.cut:
        cut = f"note: no file for {' and '.join(source.cut)}: a share of the train rows, by a hash of each, is taken"
        print(notes.folded(cut))
    print(f"wrote {run / 'prepared'}")
    following = next_step(settings)
    cli.safe += f"; {following}"
    print(following)


def next_step(settings: config.Preparation) -> str:
    """Say what to type next: PPO, or first the supervised LoRA checkpoint where neither preset nor file brings one.

    What the run has from the very same data need not be made again.
    """

    adapter, start = takes_adapter(settings)

    def command(script: str) -> str:
        words = start if script == "training_ppo.py" else []
        return commands.following(script, settings, lambda flag: flag in commands.BASE, "prepared", words)

    if commands.fits("training_ppo.py", settings, "prepared"):
        return f"next: {after_training(settings)}"
    if adapter != "auto" or commands.fits("training_lora.py", settings, "prepared"):
        return f"next: {command('training_ppo.py')}"
    optional = "" if commands.results("training_lora.py", settings) else " (optional)"
    return f"next: {command('training_lora.py')}{optional}, then {command('training_ppo.py')}"


def after_training(settings: config.Preparation) -> str:
    """Return what to type where the run was trained on the same data: training, where updates are left, or evaluation.

    What its last checkpoint says is all that training needs to go on.
    """
    last = commands.results("training_ppo.py", settings)[-1]
    made = manifest.glance(last.parent)
    done, whole = figures.lookup(made, "counts", "updates"), figures.lookup(made, "config", "ppo", "updates")
    if isinstance(done, int) and isinstance(whole, int) and done < whole:
        print(f"note: the run was trained on the same data, {done} of {whole} updates; the next command goes on")
        return f"{commands.program('training_ppo.py')} {shlex.join(['--config', str(last)])}"
    print("note: the run was trained on the same data")
    return commands.other("evaluate_ppo.py", settings, lambda flag: False)


def takes_adapter(settings: config.Preparation) -> tuple[str | None, list[str]]:
    """Return the adapter that PPO is to start from, and what to type for that.

    File, last training or preset say it: `auto` is what the run's `training_lora.py` makes. It is that too where theirs
    belongs to another base.
    """
    if commands.in_file("--model.adapter"):
        return commands.file.text("--model.adapter"), []
    trained = commands.results("training_ppo.py", settings)
    if trained and commands.file is None:
        made = manifest.glance(trained[-1].parent)
        base, adapter = (figures.lookup(made, "config", "model", name) for name in ("base", "adapter"))
        adapter = adapter if figures.lookup(made, "inputs", "lora") is None else "auto"
    else:
        usual = config.preset(config.PPOTraining, settings.preset).model
        base, adapter = usual.base, usual.adapter
    fits = base == settings.model.base or paths.same(base, settings.model.base)
    if fits or adapter in (None, "none", "auto"):
        return adapter, []
    return "auto", ["--model.adapter", "auto"]


if __name__ == "__main__":
    sys.exit(cli.run(config.Preparation, main, description=__doc__))
