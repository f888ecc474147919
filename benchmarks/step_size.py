"""Does a step find its size on models of every width, from any learning rate?

Randomly initialised T5 v1.1 models, a random classifier, the settings of the default preset: after each update the KL
of the policy from the one that sampled the rollout is measured by a forward pass of its own, beside the wanted one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import ppo_step  # noqa: E402


def run(shape: str, rate: float, schedule: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return, for each update, KL and wanted KL (nats a token), learning rate and steps back."""
    import torch

    from detox.model.devices import choose_dtype
    from detox.model.policy import make_policy
    from detox.ppo.ppo_config import Seq2SeqPPOConfig
    from detox.ppo.rewards import kl_penalty
    from detox.ppo.trainer import Seq2SeqPPOTrainer

    torch.manual_seed(0)
    made, device = ppo_step.SHAPES[shape], torch.device("cpu")
    ppo = replace(ppo_step.OURS, learning_rate=rate, schedule=schedule, updates=20)
    policy = make_policy(ppo_step.make_t5(made), ppo, dtype=choose_dtype(arguments.dtype, device))
    settings = Seq2SeqPPOConfig.from_settings(ppo, seed=0, engine="auto", cpu=True)
    trainer = Seq2SeqPPOTrainer(settings, policy, tokenizer=ppo_step.make_tokenizer())
    lengths = ppo_step.prompt_lengths(ppo.batch_size, 40, 200, 100)
    updates = []
    for update in range(arguments.updates):
        draw = torch.Generator().manual_seed(update)
        queries = [torch.randint(3, made.vocabulary, (length,), generator=draw) for length in lengths]
        keys = range(update * len(queries), (update + 1) * len(queries))
        rollout = trainer.rollout(queries, keys, arguments.new_tokens)
        # A score that the policy can learn: the share of ids in the lower half of the vocabulary.
        scores = torch.tensor([4 * float((ids < made.vocabulary // 2).float().mean()) for ids in rollout.response_ids])
        before = logprobs(trainer, rollout)
        metrics = trainer.update(rollout, scores)
        after = logprobs(trainer, rollout)
        counts = before != 0
        kl = kl_penalty(before[counts].double(), after[counts].double(), "k3")
        updates.append(
            {
                "kl": float(kl.mean()),
                "wanted": metrics.get("ppo/policy/step_kl_target"),
                "rate": metrics["ppo/learning_rate"],
                "clipped": metrics["ppo/policy/clip_fraction"],
                "steps_back": metrics.get("ppo/policy/steps_back"),
            }
        )
    return {"shape": shape, "rate": rate, "schedule": schedule, "dtype": arguments.dtype, "updates": updates}


def logprobs(trainer: Any, rollout: Any) -> Any:
    """Return what the policy as it is says of the responses, [B, T]; 0 beyond their ends."""
    import torch

    with torch.no_grad():
        return trainer.engine.logprobs(rollout.encoded, rollout.response_ids).logprobs


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table, a line a run."""
    lines = ["| shape | first rate | schedule | KL, update by update | clipped in the first | last rate | steps back |"]
    lines.append("|---" * 7 + "|")
    for found in runs:
        updates = found["updates"]
        moved = " ".join(f"{entry['kl']:.3g}" for entry in updates)
        back = "none" if updates[0]["steps_back"] is None else str(sum(entry["steps_back"] for entry in updates))
        cells = [found["shape"], f"{found['rate']:g}", found["schedule"], moved, f"{updates[0]['clipped']:.0%}"]
        lines.append("| " + " | ".join([*cells, f"{updates[-1]['rate']:.1e}", back]) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=tuple(ppo_step.SHAPES), default=("tiny", "small"))
    parser.add_argument("--rates", type=float, nargs="+", default=(1e-6, 1e-4, 1e-2))
    parser.add_argument("--schedules", nargs="+", choices=("kl", "constant"), default=("kl",))
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    arguments = parser.parse_args(argv)
    runs = [
        run(shape, rate, schedule, arguments)
        for shape in arguments.shapes
        for rate in arguments.rates
        for schedule in arguments.schedules
    ]
    print(table(runs))
    if arguments.output:
        arguments.output.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
