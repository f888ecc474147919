"""Optional stage: makes the supervised LoRA checkpoint, for those who have none.

Reads the prompts of data_preparation.py and the base model; fits a LoRA adapter to the target summaries;
writes checkpoints/<run>/lora, an ordinary PEFT adapter that training_ppo.py finds by itself.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import config
from detox.stage import artifacts, cli, commands, lack_of_memory, run_lock, run_preset
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, Seq2SeqTrainer, TrainerCallback

IGNORED = -100


def main(settings: config.LoraTraining) -> None:
    from detox.data.fingerprint import tokenizer_fingerprint
    from detox.data.prepared import check_positions, load_prepared
    from detox.model import devices, loading, threads, tokenizers
    from detox.stage import notes, parallel

    processes = parallel.start("cpu")
    if processes.count > 1:
        raise UserError(
            f"training_lora.py runs as one process, and a launcher has started {processes.count}; start it as "
            f"{commands.again('training_lora.py', settings)}"
        )
    loading.quiet()
    device = devices.take(settings.device)
    run = Path(settings.checkpoints) / settings.run_name
    with (
        run_lock.hold(run),
        artifacts.publish(
            run / "lora",
            stage="training_lora",
            settings=settings,
            device=str(device),
            overwrite=settings.overwrite,
        ) as draft,
        tempfile.TemporaryDirectory() as scratch,
    ):
        artifacts.read_manifest(run / "prepared", "data_preparation", verify=False, reader=settings)
        tokenizer = tokenizers.load_tokenizer(settings.model.base, settings.model.revision)
        threads.take(settings.threads, device, settings.model.base, settings.model.revision)
        dataset = load_prepared(run / "prepared", tokenizer_fingerprint(tokenizer), settings)
        check_positions(dataset, run / "prepared", settings, tokenizer)
        draft.inputs["prepared"] = run / "prepared"
        model = add_lora(settings)
        print(f"LoRA on    {settings.model.base}, {model.num_parameters(only_trainable=True):,} parameters")
        print(f"runs on    {device}{threads.describe(device)}")
        trainer = make_trainer(settings, model, tokenizer, dataset, device, scratch)
        before, after = fit(trainer)
        save(model, draft.path)
        draft.notes.update(notes.for_manifest())
        draft.counts.update(
            train=len(dataset["train"]),
            validation=len(dataset["validation"]),
            steps=trainer.state.global_step,
            validation_loss_before=before,
            validation_loss=after,
        )
    cli.safe = f"{run / 'lora'} is whole"
    if after > before:
        rate = settings.lora.learning_rate
        print(f"warning: the validation loss rose; lower --lora.learning-rate={rate}", file=sys.stderr)
    print(f"wrote {run / 'lora'}")
    following = f"next: {next_step(settings)}"
    cli.safe += f"; {following}"
    print(following)


def next_step(settings: config.LoraTraining) -> str:
    """Return what to type next: PPO from this adapter, whatever preset or file name."""
    is_usual = config.preset(config.PPOTraining, settings.preset).model.adapter == "auto"
    is_usual &= not commands.in_file("--model.adapter") and not commands.results("training_ppo.py", settings)
    own = [] if is_usual else ["--model.adapter", "auto"]
    shared = (*commands.BASE, *commands.MACHINE)
    return commands.following("training_ppo.py", settings, lambda flag: flag in shared, "lora", own)


def add_lora(settings: config.LoraTraining) -> PeftModel:
    """Load the base and put a fresh LoRA, drawn from the seed, on linear layers of encoder and decoder."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import set_seed

    from detox.model import loading, policy, supported

    base = loading.load_summarizer(settings.model.base, settings.model.revision)
    supported.check(base)
    lora = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=policy.linear_layers(base, "all", settings.lora.targets),
        revision=settings.model.revision,
    )
    set_seed(settings.seed)
    model = get_peft_model(base, lora)
    model.peft_config["default"].base_model_name_or_path = settings.model.base
    return model


def make_trainer(
    settings: config.LoraTraining,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: dict,
    device: torch.device,
    scratch: str,
) -> Seq2SeqTrainer:
    """Set up Hugging Face's trainer on one device; what it writes goes to the scratch folder."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    arguments = Seq2SeqTrainingArguments(
        output_dir=scratch,
        num_train_epochs=settings.lora.epochs,
        max_steps=settings.lora.max_steps or -1,
        per_device_train_batch_size=settings.lora.batch_size,
        per_device_eval_batch_size=settings.lora.batch_size,
        learning_rate=settings.lora.learning_rate,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        prediction_loss_only=True,
        label_names=["labels"],
        eval_strategy="epoch",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    arguments.__dict__["_setup_devices"] = device  # of several GPUs, transformers would take the first
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device, not torch's DataParallel over all
    trainer = Seq2SeqTrainer(
        model,
        arguments,
        data_collator=collator(tokenizer),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        callbacks=[progress_callback()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], dict[str, Tensor]]:
    """Return the function that makes a batch of examples.

    A batch holds `input_ids` [B,S], `attention_mask` [B,S] (1 = counts), `labels` [B,T] (-100: does not).
    """

    def collate(examples: list[dict]) -> dict[str, Tensor]:
        queries = tokenizer.pad({"input_ids": [example["input_ids"] for example in examples]}, return_tensors="pt")
        texts = [example["summaries"][0] for example in examples]
        summaries = tokenizer(text_target=texts, padding=True, return_tensors="pt")
        # The mask, not the padding id, tells what counts: T5 starts the decoder with that id.
        labels = summaries["input_ids"].masked_fill(summaries["attention_mask"] == 0, IGNORED)
        return {
            "input_ids": queries["input_ids"],
            "attention_mask": queries["attention_mask"],
            "labels": labels,
        }

    return collate


def progress_callback() -> TrainerCallback:
    """Return what prints the validation losses, and how far training is."""
    from transformers import TrainerCallback

    from detox.stage.progress import Progress

    class Report(TrainerCallback):
        bar = None

        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = Progress(total=state.max_steps, desc="LoRA", unit="step")

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update()

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            place = f"epoch {state.epoch or 0:5.2f}  step {state.global_step:6,}"
            Progress.write(f"{place}  validation loss {metrics['eval_loss']:.4f}")

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    return Report()


def fit(trainer: Seq2SeqTrainer) -> tuple[float, float]:
    """Train; return the validation loss (nats a token) before and after."""

    with lack_of_memory.told(f"lower --lora.batch-size={trainer.args.per_device_train_batch_size}"):
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    if not math.isfinite(losses[-1]):
        rate = trainer.args.learning_rate
        raise UserError(f"--lora.learning-rate={rate}: the validation loss became {losses[-1]}; lower it")
    return before, losses[-1]


def save(model: PeftModel, folder: Path) -> None:
    """Write an ordinary PEFT adapter: its settings and its weights, nothing else."""
    # "auto" would ask the hub whether the base's vocabulary has grown.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(cli.run(config.LoraTraining, main, description=__doc__, of_run=run_preset.words))
