"""Small models and dialogues, and runs of every stage on them that between them go through every part of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import config
import data_preparation
from detox.stage import cli
from tests import tiny

EXTRA = "--reward.extra length=0.05 overlap-reference=0.5"
LIMIT = ("--data.max-query-tokens", "120")
TRAIN = (
    "--reward.model reward --rollout.max-new-tokens 10 --ppo.batch-size 4 --ppo.minibatch-size 2 --ppo.ppo-epochs 2 "
    "--ppo.learning-rate 1e-2 --ppo.lora-r 2 --save.every 1 --ppo.updates 2"
).split()
EVALUATE = (
    "--toxicity.model reward --judge.model judge --judge.label hate --evaluation.samples 2 --evaluation.best-of 2 "
    "--evaluation.max-new-tokens 10 --evaluation.examples 4 --evaluation.resamples 100 --evaluation.min-slice 2"
).split()

# Of each run: the base, which of two devices it runs on, and flags.
RUNS = {
    "packed": ("t5", 0, "--engine packed --dtype float32 --ppo.advantages gae --ppo.value-warmup 4"),
    "packed-bf16": ("t5", 1, "--engine packed --dtype bfloat16 --ppo.lora-scope all --ppo.kl-penalty full"),
    "hf": ("t5", 1, "--engine hf --dtype float32 --ppo.lora-scope all --ppo.lora-targets q,v --ppo.schedule linear"),
    "hf-bf16": ("t5", 0, "--engine hf --dtype bfloat16 --ppo.samples-per-dialogue 2 --ppo.advantages rloo " + EXTRA),
    "bart": ("bart", 0, "--dtype float32 --ppo.kl-penalty full --ppo.score-normalize --ppo.advantages gae"),
}


def make(root: Path) -> Path:
    """Write tiny models, a dialogue, and prepared dialogues for every run into a folder."""
    tiny.start_world(root, train=12, validation=4, test=6)
    tiny.bart(root / "bart")
    tiny.classifier(root / "judge", seed=5)
    (root / "dialogue.txt").write_text("#Person1#: you are a rude clown.\n#Person2#: no.\n")
    with tiny.inside(root):
        for base in ("t5", "bart"):
            argv = ["--model.base", base, "--data.dataset", "dialogues", "--run", f"of-{base}"]
            assert cli.run(config.Preparation, data_preparation.main, [*argv, *LIMIT]) == 0
        for run, base in [("lora", "t5"), ("moved", "t5"), *((run, base) for run, (base, _, _) in RUNS.items())]:
            shutil.copytree(f"checkpoints/of-{base}/prepared", f"checkpoints/{run}/prepared")
    return root


def commands(*devices: str) -> list[list[str]]:
    """Return the stages of all runs, each with its flags.

    Args:
        devices: the two that runs are told to take; may be one and the same.
    """
    made = []
    for run, (base, index, flags) in RUNS.items():
        where = ["--run", run, "--device", devices[index], "--threads", "1"]
        adapter = ["--model.base", base, "--model.adapter", "lora" if base == "t5" else "none"]
        made.append(["training_ppo", *where, *adapter, *TRAIN, *flags.split()])
    first = made[0]
    place, updates = first.index("--device"), first.index("--ppo.updates")
    made.append([*first[:place], *first[place + 2 : updates + 1], "3", *first[updates + 2 :]])  # goes on where it was
    for run, (_, index, flags) in RUNS.items():
        dtype = flags.split()[flags.split().index("--dtype") + 1]
        where = ["--run", run, "--device", devices[index], "--threads", "1", "--dtype", dtype]
        more = ["--export", f"exported-{run}"] if run == "packed" else []
        made.append(["evaluate_ppo", *where, *EVALUATE, *more])
    ask = ["--ask", "dialogue.txt", "--toxicity.model", "reward", "--judge.model", "judge", "--judge.label", "hate"]
    made.append(["evaluate_ppo", "--run", "hf", "--device", devices[1], "--evaluation.max-new-tokens", "10", *ask])
    if devices[0] != "cpu":
        moved = ["training_ppo", "--run", "moved", "--model.base", "t5", "--model.adapter", "lora", *TRAIN]
        made.append([*moved[:-1], "1", "--device", "cpu"])
        made.append([*moved, "--device", devices[1]])
    lora = "--run lora --model.base t5 --lora.max-steps 2 --lora.batch-size 4 --lora.r 2".split()
    made.append(["training_lora", *lora, "--device", devices[1]])
    return made
