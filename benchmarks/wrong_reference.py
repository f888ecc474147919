"""What the reference must be: the demo under stock TRL, with the supervised adapter trained or merged.

With a PEFT model TRL takes as reference "the model with its adapter off". If the adapter that PPO trains is the
supervised one, as in the tutorials, that is the bare base: the KL penalty pulls the summarizer back to a model that was
never fine-tuned. If the supervised adapter is merged and a fresh one is trained, it is the model that PPO starts from.
Everything else is the same in both runs: trl.PPOTrainer 0.11.4, batch 16, 20 updates.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import config
from benchmarks.stages import spread
from detox.data import preparation
from detox.model import adapters, loading, tokenizers
from detox.scoring.classifier import load_classifier
from detox.scoring.rouge import rouge

KINDS = {"bare base": "the supervised adapter is trained", "start": "it is merged, a fresh one is trained"}
NEW_TOKENS = 48


def make_trainer(kind: str, seed: int, kl_coef: float) -> Any:
    """Return stock TRL's trainer; the demo's learning rate, since TRL's own changes nothing in 20 updates."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import set_seed
    from trl import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer

    set_seed(seed)  # of the fresh adapter and the value head; TRL seeds what comes after
    adapted = adapters.load_adapter(loading.load_summarizer("demo:base"), "demo:lora")
    if kind == "start":
        lora = adapted.peft_config["default"]
        fresh = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM, r=lora.r, lora_alpha=lora.lora_alpha, target_modules=lora.target_modules
        )
        adapted = get_peft_model(adapted.merge_and_unload(), fresh)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
    settings = PPOConfig(
        seed=seed,
        learning_rate=1e-3,
        batch_size=16,
        mini_batch_size=8,
        ppo_epochs=4,
        init_kl_coef=kl_coef,
        vf_coef=0.01,  # at TRL's 0.1 the value loss drowns the reward
        accelerator_kwargs={"cpu": True},
    )
    policy = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(adapted)
    return PPOTrainer(settings, policy, None, tokenizers.load_tokenizer("demo:base"))


def train(kind: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one run; return the KL of each update and what the summaries are like before and after."""
    import torch
    from tqdm import tqdm

    from detox.model.hugging_face import HuggingFaceEngine
    from detox.ppo.prompt_stream import PromptStream
    from detox.scoring.classifier import probabilities
    from detox.scoring.reward import RewardModel

    trainer = make_trainer(kind, seed, arguments.kl_coef)
    tokenizer = trainer.tokenizer
    settings = config.preset(config.Preparation, "demo").data
    prepared, _ = preparation.prepare(settings, tokenizer, seed)
    held_out = prepared["validation"][: arguments.dialogues]
    classifier = load_classifier("demo:reward", None, "nothate")
    reward, hate = RewardModel(classifier), classifier.index("hate")
    engine = HuggingFaceEngine(trainer.model.pretrained_model)

    def look() -> dict[str, float]:
        trainer.model.eval()
        with torch.no_grad():
            encoded = engine.encode([torch.tensor(ids) for ids in held_out["input_ids"]])
            ids = engine.generate(encoded, NEW_TOKENS).responses
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return {
            "toxicity": float(probabilities(classifier, texts, 64)[:, hate].mean()),
            "rougeL": float(rouge(texts, held_out["summaries"])["rougeL"].mean()),
        }

    stream, kl, before = PromptStream(prepared["train"]["input_ids"], seed), [], look()
    for _ in tqdm(range(arguments.updates), desc=f"seed {seed}, {kind}", leave=False):
        queries = [prompt.query_ids for prompt in stream.take(16)]
        trainer.model.eval()
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        responses = trainer.generate(queries, batch_size=16, **options)
        # TRL leaves one end-of-sequence token; a response of that alone makes it fail.
        texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
        stats = trainer.step(queries, responses, list(reward.score(texts)))
        kl.append(float(stats["objective/kl"]))
    return {"reference": kind, "seed": seed, "kl": kl, "before": before, "after": look()}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table: the median over seeds and the range of each figure."""
    rows = (
        ("KL from the reference in the first update, nats a summary", lambda run: run["kl"][0], "{:.1f}"),
        ("KL in the last update", lambda run: run["kl"][-1], "{:.1f}"),
        ("mean toxicity, greedy, before", lambda run: run["before"]["toxicity"], "{:.3f}"),
        ("mean toxicity, greedy, after", lambda run: run["after"]["toxicity"], "{:.3f}"),
        ("ROUGE-L, greedy, before", lambda run: run["before"]["rougeL"], "{:.3f}"),
        ("ROUGE-L, greedy, after", lambda run: run["after"]["rougeL"], "{:.3f}"),
    )
    seeds = sorted({run["seed"] for run in runs})
    lines = [
        f"| median over seeds {', '.join(map(str, seeds))} (lowest to highest) | " + " | ".join(KINDS) + " |",
        "|" + "---|" * (len(KINDS) + 1),
    ]
    for title, number, form in rows:
        cells = []
        for kind in KINDS:
            values = [number(run) for run in runs if run["reference"] == kind]
            cells.append(spread(values, form))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(3))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--kl-coef", type=float, default=0.2, help="TRL's default")
    parser.add_argument("--dialogues", type=int, default=200, help="held-out dialogues of the validation split")
    parser.add_argument("--output", type=Path, help="write everything that was measured to this JSON file")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    loading.quiet()
    runs = []
    for seed in arguments.seeds:
        for kind in KINDS:
            runs.append(train(kind, seed, arguments))
            print(f"seed {seed}, {kind}: KL {runs[-1]['kl'][0]:.1f} to {runs[-1]['kl'][-1]:.1f}", file=sys.stderr)
    print(table(runs))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in vars(arguments).items() if key != "output"}
        found = {"settings": settings | {"seeds": list(arguments.seeds)}, "runs": runs}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
