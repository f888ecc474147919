"""What rounding and what a mistake make of the probability ratio of the first minibatch, where it should be 1.

The trainer refuses to go on where the model does not repeat its own log-probabilities. How far it may be off is a
limit between two groups of figures, which this prints: those of rounding, on the CPU and with matrix products that
depend on what else is in the batch, as on a GPU (a simulated one); and those of planted mistakes.

python benchmarks/ratio_check.py --shape base --output benchmarks/results/ratio-check.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config
from benchmarks import ppo_step

# Of each row of rounding: the dtype of the weights, and the dtype in which parts of a product are summed, if they are.
ROUNDING = (("float32", None), ("float32", "float32"), ("bfloat16", None), ("bfloat16", "float32"))
ROUNDING += (("bfloat16", "bfloat16"),)
MISTAKES = (
    "dropout in the update",
    "old log-probabilities one token late",
    "another adapter in the update",
    "old log-probabilities at temperature 0.9",
    "one optimizer step in between",
)
ENDING = 30
"""One token of so many ends a response, so that responses differ in length, and batches in what they hold."""
SHARPNESS = 6
"""Logits are spread so many times as widely as those of the other benchmarks: about as a trained model's are."""
MINIBATCHES = 4


def make_trainer(shape: str, dtype: str, device: str, rate: float) -> Any:
    """Return a trainer of a model of random weights."""
    import torch

    from detox.model import policy
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.trainer import Seq2SeqPPOTrainer

    ppo = replace(config.PPO(), learning_rate=rate)
    model = ppo_step.make_t5(ppo_step.SHAPES[shape])
    model.lm_head.weight.data.mul_(SHARPNESS)
    made = policy.make_policy(model, ppo, dtype=getattr(torch, dtype))
    settings = Seq2SeqPPOConfig.from_settings(ppo, seed=0, engine="packed", cpu=device == "cpu")
    trainer = Seq2SeqPPOTrainer(settings, made.to(device), tokenizer=ppo_step.make_tokenizer())
    trainer.engine.eos = torch.arange(1, ppo_step.SHAPES[shape].vocabulary, ENDING, device=device)
    return trainer


def deviations(trainer: Any, rollout: Any, experience: Any) -> list[float]:
    """Return mean and largest |ratio - 1| as the trainer checks them, and the worst of minibatches of others."""
    from detox.model.engine import by_length
    from detox.ppo.update import accumulate, deal

    together = by_length(rollout.lengths, trainer.microbatch_size)[0]
    others = [deal(len(experience.lengths), trainer.minibatch_size, [seed])[0] for seed in range(MINIBATCHES)]
    found = []
    for rows in (together, *others):
        stats = accumulate(trainer, rollout, experience, rows, entropy=False)
        found.append([float(stats["ratio_deviation"]), float(stats["ratio_max_deviation"])])
    return [*found[0], *map(max, zip(*found[1:]))]


@contextlib.contextmanager
def planted(mistake: str, trainer: Any, rollout: Any, experience: Any) -> Iterator[Any]:
    """Yield the experience with a mistake made, and leave the trainer as it was."""
    import torch

    from detox.model.engines import make_engine
    from detox.ppo.teacher_forcing import forced
    from detox.ppo.update import minibatch

    engine, before = trainer.engine, [parameter.detach().clone() for parameter in trainer.parameters]
    if mistake == MISTAKES[0]:  # the packed engine has no dropout to forget
        trainer.engine = make_engine("hf", trainer.policy.pretrained_model, trainer.policy.v_head)
        trainer.policy.train()
    elif mistake == MISTAKES[1]:
        experience = replace(experience, old_logprobs=experience.old_logprobs.roll(1, 1))
    elif mistake == MISTAKES[2]:
        generator = torch.Generator().manual_seed(1)
        for parameter in trainer.parameters:
            noise = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.add_(noise.to(parameter.device))
    elif mistake == MISTAKES[3]:
        plain = engine.head_input
        engine.head_input = lambda hidden: plain(hidden) / 0.9
        with torch.no_grad():
            measured, _ = forced(engine, rollout, rollout.encoded.select, trainer.microbatch_size)
            experience = replace(experience, old_logprobs=measured)
        del engine.head_input
    else:
        minibatch(trainer, rollout, experience, list(range(trainer.minibatch_size)), entropy=False)
        trainer.optimizer.step()
    try:
        yield experience
    finally:
        trainer.engine = engine
        trainer.policy.eval()
        for parameter, value in zip(trainer.parameters, before):
            parameter.data.copy_(value)


def run_child(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Measure one dtype, on the CPU or with products in parts."""
    device, simulator = arguments.device, None
    if arguments.parts:
        from tests import devices

        device, simulator = "cuda", devices.install("cuda")
    import torch

    from detox.model import devices as ours

    ours.take(device)
    if simulator is not None:
        simulator.products = getattr(torch, arguments.parts)
    torch.set_num_threads(arguments.threads)
    trainer = make_trainer(arguments.shape, arguments.child, device, arguments.rate)
    generator = torch.Generator().manual_seed(0)
    vocabulary = ppo_step.SHAPES[arguments.shape].vocabulary
    lengths = ppo_step.prompt_lengths(16, 60, 400, 184)
    prompts = [torch.randint(3, vocabulary, (length,), generator=generator) for length in lengths]
    rollout = trainer.rollout(prompts, range(len(prompts)), arguments.new_tokens)
    with torch.no_grad():
        experience = trainer.experience(rollout, torch.randn(len(prompts), generator=generator))
    found = {"rounding": deviations(trainer, rollout, experience)}
    for mistake in MISTAKES if not arguments.parts else ():
        with planted(mistake, trainer, rollout, experience) as changed:
            found[mistake] = deviations(trainer, rollout, changed)
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return Markdown."""
    lines = ["| mean (largest) of abs(ratio - 1) | weights | products | as checked | in other company |"]
    lines.append("|---|---|---|---|---|")
    rows: list[tuple[str, dict[str, Any]]] = [(what, run) for run in found for what in run["deviations"]]
    for what, run in sorted(rows, key=lambda row: row[0] != "rounding"):
        mean, largest, other_mean, other_largest = run["deviations"][what]
        parts = f"sums of parts in {run['parts']}" if run["parts"] else "whole"
        cells = f"{mean:.2g} ({largest:.2g}) | {other_mean:.2g} ({other_largest:.2g})"
        lines.append(f"| {what} | {run['dtype']} | {parts} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(ppo_step.SHAPES), default="base")
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of the step in between")
    parser.add_argument("--device", default="cpu", help="that of the rows without parts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write everything that was measured to this JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--parts", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(arguments)))
        if arguments.parts:
            from tests import devices

            devices.leave()
        return
    found = []
    for dtype, parts in ROUNDING:
        flags = ["--child", dtype, *(["--parts", parts] if parts else [])]
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *flags], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append({"dtype": dtype, "parts": parts, "deviations": json.loads(done.stdout.splitlines()[-1])})
    print(table(found))
    if arguments.output:
        arguments.output.write_text(json.dumps({"settings": vars(arguments), "found": found}, indent=1, default=str))


if __name__ == "__main__":
    main()
