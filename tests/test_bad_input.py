"""Wrong input to the real stages: exit 2, one line (what, its value, what to do), nothing changed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file, save_file

import config
import data_preparation
import evaluate_ppo
import training_lora
import training_ppo
from detox.data.splits import by_hash
from detox.stage import cli
from tests import tiny
from tests.faults.world import FLAGS, tree

STAGES = {
    "data_preparation": (config.Preparation, data_preparation.main),
    "training_lora": (config.LoraTraining, training_lora.main),
    "training_ppo": (config.PPOTraining, training_ppo.main),
    "evaluate_ppo": (config.EvaluationStage, evaluate_ppo.main),
}
RUN = Path("checkpoints/r")
STEP = RUN / "ppo/step-0001"


class Case(NamedTuple):
    """One mistake.

    Attributes:
        stage: which is run.
        flags: on top of the stage's usual ones, whose values they replace.
        says: what the line must hold: the thing and its value, then what to do.
        change: makes the mistake on disk, where it is not one of flags.
    """

    stage: str
    flags: str
    says: tuple[str, ...]
    change: Callable[[], object] | None = None


def write(name: str, content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(data)


def remove(name: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def edit(name: str, **changes: object) -> Callable[[], object]:
    def change() -> None:
        content = json.loads(Path(name).read_text())
        for key, value in changes.items():
            content.pop(key, None)
            if value is not None:
                content[key] = value
        Path(name).write_text(json.dumps(content))

    return change


def both(*changes: Callable[[], object]) -> Callable[[], object]:
    return lambda: [change() for change in changes]


def cut(name: str) -> Callable[[], object]:
    return lambda: os.truncate(name, os.path.getsize(name) // 2)


def pickled(folder: str, stem: str) -> Callable[[], object]:
    def change() -> None:
        (Path(folder) / ("adapter_model" if "adapter" in stem else "model")).with_suffix(".safetensors").unlink()
        (Path(folder) / f"{stem}.bin").write_bytes(pickle.dumps({}))

    return change


def without_tensor() -> None:
    tensors = load_file("t5/model.safetensors")
    tensors.pop(next(name for name in tensors if "DenseReluDense" in name))
    save_file(tensors, "t5/model.safetensors", metadata={"format": "pt"})


def with_nan(file: str, value: float = float("nan")) -> Callable[[], object]:
    """Put a number that is not finite into the middle of the last tensor of a file."""

    def change() -> None:
        tensors = load_file(file)
        last = tensors[max(tensors)].view(-1)
        last[len(last) // 2] = value
        save_file(tensors, file, metadata={"format": "pt"})

    return change


def adapter_for_another_base() -> None:
    tiny.t5(Path("wide"), d_model=48)
    tiny.lora(Path("other"), Path("wide"))


def prepared_anew() -> None:
    flags = "--run r --model.base t5 --data.dataset dialogues --overwrite --data.max-examples 3".split()
    assert cli.run(config.Preparation, data_preparation.main, flags) == 0


HEAD = "id,dialogue,summary,topic\n"
TRAIN = "dialogues/train.csv"
DATA, LORA, PPO, EVAL = STAGES


def data(content: str | bytes, *says: str, flags: str = "") -> Case:
    return Case(DATA, flags, says, write(TRAIN, content))


def falling(*into: str) -> str:
    """Return a file of two rows, which fall into these splits by their hash."""
    rows = []
    for split in (into * 2)[:2]:
        fitting = (name for name in map(str, range(1000)) if by_hash(name, 0.1, 0.1) == split and name not in rows)
        rows.append(next(fitting))
    return HEAD + "".join(f"{n},{name},b,c\n" for n, name in enumerate(rows))


CASES = {
    # settings
    "unknown option": Case(PPO, "--ppo.kl-ceof 1", ("--ppo.kl-ceof", "--ppo.kl-coef")),
    "option of another stage": Case(DATA, "--ppo.updates 3", ("--ppo.updates", "in training_ppo.py")),
    "no number": Case(PPO, "--ppo.updates many", ("--ppo.updates='many'", "whole number")),
    "a fraction of an update": Case(PPO, "--ppo.updates 1.5", ("--ppo.updates='1.5'", "whole number")),
    "negative": Case(PPO, "--ppo.learning-rate -1", ("--ppo.learning-rate=-1", "greater than 0")),
    "not finite": Case(PPO, "--ppo.kl-coef nan", ("--ppo.kl-coef=nan", "must be finite")),
    "infinite": Case(PPO, "--ppo.learning-rate inf", ("--ppo.learning-rate=inf", "must be finite")),
    "no choice": Case(PPO, "--ppo.on-collapse ask", ("--ppo.on-collapse=ask", "choose stop or warn")),
    "no limit of KL": Case(PPO, "--ppo.max-ref-kl 0", ("--ppo.max-ref-kl=0", "greater than 0")),
    "does not divide": Case(PPO, "--ppo.minibatch-size 3", ("--ppo.minibatch-size=3", "must divide")),
    "biased sampling": Case(PPO, "--rollout.top-k 50", ("--rollout.top-k=50", "--rollout.force")),
    "plan of devices without a plan": Case(PPO, "--plan-processes 2", ("--plan-processes=2", "needs --plan")),
    "no devices": Case(PPO, "--plan --plan-processes 0", ("--plan-processes=0", "greater than 0")),
    "devices that share unevenly": Case(
        PPO, "--plan --plan-processes 1 16", ("--plan-processes=16", "must divide --ppo.minibatch-size")
    ),
    "devices by name": Case(PPO, "--plan --plan-processes two", ("--plan-processes=['two']", "see --help")),
    "rate of no devices": Case(PPO, "--plan --plan-gflops 100", ("--plan-gflops=100", "needs --plan-processes")),
    "no bandwidth": Case(PPO, "--plan --plan-processes 1 --plan-link-rate 0", ("--plan-link-rate=0", "greater than 0")),
    "preset": Case(DATA, "--preset gpt", ("--preset=gpt", "choose flan-t5 or demo")),
    "run outside": Case(DATA, "--run ../r", ("--run=../r", "letters, digits")),
    "seed": Case(LORA, "--seed -1", ("--seed=-1", "must lie in")),
    "value missing": Case(LORA, "--lora.r", ("--lora.r", "missing")),
    "twice": Case(LORA, "--seed 1 --seed 2", ("--seed", "given twice")),
    "bare word": Case(EVAL, "checkpoints", ("'checkpoints'", "see --help")),
    "threshold": Case(EVAL, "--evaluation.threshold 2", ("--evaluation.threshold=2", "between 0 and 1")),
    "prompt": Case(DATA, "--data.prompt Summarize", ("--data.prompt='Summarize'", "{dialogue}")),
    "checkpoints is a file": Case(DATA, "--checkpoints t5/config.json", ("t5/config.json", "choose another")),
    "LoRA targets": Case(LORA, "--lora.targets q,z", ("'q,z'", "choose from")),
    "PPO targets": Case(PPO, "--ppo.lora-targets z --overwrite", ("'z'", "choose from")),
    # devices
    "no such device": Case(LORA, "--device gpu", ("--device=gpu", "choose auto")),
    "device is absent": Case(PPO, "--device cuda:7", ("--device=cuda:7", "it has cpu")),
    "device of no kind": Case(EVAL, "--device tpu", ("--device=tpu", "choose auto")),
    # datasets
    "no such file": Case(DATA, "--data.dataset gone.csv", ("--data.dataset=gone.csv", "name a hub dataset")),
    "no such folder": Case(DATA, "--data.dataset ./gone", ("--data.dataset=./gone", "name a hub dataset")),
    "format": Case(DATA, "--data.dataset t5/README.txt", ("README.txt", ".csv"), write("t5/README.txt", "x")),
    "no train split": Case(
        DATA, "", ("dialogues", "train split", "has test.csv, validation.csv"), remove("dialogues/train.csv")
    ),
    "two train files": Case(DATA, "", ("train split", "leave one"), write("dialogues/train.json", "[]")),
    "revision of a folder": Case(DATA, "--data.revision main", ("--data.revision=main", "leave the revision out")),
    "empty file": data("", "train.csv", "is empty", "column names"),
    "header alone": data(HEAD, "--data.dataset=dialogues", "the train split is empty", "add rows to its file"),
    "a test file of a header alone": Case(
        DATA, "", ("the test split is empty", "add rows to its file, or remove that"), write("dialogues/test.csv", HEAD)
    ),
    "one file of a header alone": Case(
        DATA, "--data.dataset x.csv", ("the test split is empty", "no row in the file"), write("x.csv", HEAD)
    ),
    "too few rows to cut splits from": Case(
        DATA,
        "--data.dataset x.csv",
        ("the test split is empty", "of the 2 rows", "larger file", "--data.test-fraction=0.1"),
        write("x.csv", falling("train")),
    ),
    "too few rows for validation": Case(
        DATA,
        "--data.validation-fraction 1e-9",
        ("the validation split is empty", "of the 8 rows", "--data.validation-fraction=1e-09"),
        remove("dialogues/validation.csv"),
    ),
    "no row left to train on": Case(
        DATA,
        "--data.dataset x.csv",
        ("the train split is empty", "its 2 rows", "lower --data.validation-fraction and --data.test-fraction"),
        write("x.csv", falling("test", "validation")),
    ),
    "wrong columns": data("number,text\n1,a\n", "train.csv:2", "no column 'dialogue'", "--data.dialogue-column"),
    "id column setting": Case(DATA, "--data.id-column key", ("no column 'key'", "--data.id-column")),
    "a language that the tokenizer does not know": data(
        HEAD + "".join(f"{n},你好吗你在哪里 {n},他们在说话,\n" for n in range(9)),
        "--data.dataset=dialogues",
        "does not know",
        "hardly anything is left",
        "--model.base",
    ),
    "column setting": Case(DATA, "--data.summary-column gist", ("no column 'gist'", "--data.summary-column")),
    "Latin-1": data(HEAD.encode() + b"1,caf\xe9,b,c\n", "train.csv:2", "0xe9", "save the file as UTF-8"),
    "UTF-16 with its BOM": data((HEAD + "1,a,b,c\n").encode("utf-16"), "train.csv:1", "UTF-8"),
    "BOM, CRLF and a short row": data(
        b"\xef\xbb\xbfid,dialogue,summary,topic\r\n1,a\r\n", "train.csv:2", "2 fields", "check commas"
    ),
    "NUL": data(HEAD + "1,a\0,b,c\n", "train.csv:2", "NUL", "save the file"),
    "open quote": data(HEAD + '1,"a,b,c\n', "train.csv:2", "not valid CSV", "check the quotes"),
    "10 MB dialogue": data(HEAD + f'1,"{"so it is " * 1_200_000}",b,c\n', "1 too long", "--data.max-query-tokens"),
    "ids twice": data(HEAD + "1,a,b,c\n1,other,b,c\n", "train.csv:3", "id '1'", "give each its own"),
    "empty id": data(HEAD + ",a,b,c\n", "train.csv:2", "id is empty", "remove the row"),
    "no summaries": data(HEAD + "1,a,,c\n2,b,,c\n", "2 no summary", "check the data"),
    "nothing left": Case(DATA, "--data.max-query-tokens 3", ("no example left", "--data.max-query-tokens")),
    "escape sequences": data(
        HEAD + "\x1b[2Jx\x07,a,b,c\n\x1b[2Jx\x07,other,b,c\n", "train.csv:3", "id 'x'", "give each its own"
    ),
    "no JSON": Case(
        DATA,
        "--data.dataset x.jsonl",
        ("x.jsonl:1", "not valid JSON", "correct or remove"),
        write("x.jsonl", "{"),
    ),
    "JSON of numbers": Case(
        DATA, "--data.dataset x.json", ("x.json:1", "JSON int", "correct or remove"), write("x.json", "[1]")
    ),
    "no Parquet": Case(
        DATA, "--data.dataset x.parquet", ("x.parquet", "not a readable Parquet"), write("x.parquet", "PAR1")
    ),
    # the summarizer and its tokenizer
    "no such base": Case(DATA, "--model.base ./gone", ("./gone", "name an existing folder")),
    "base is a file": Case(LORA, "--model.base dialogues/test.csv", ("dialogues/test.csv", "name the folder")),
    "no embedded model": Case(PPO, "--model.base demo:large", ("demo:large", "there are")),
    "base of another tokenizer": Case(
        LORA, "--model.base gpt2", ("checkpoints/r/prepared", "tokenizer of t5", "data_preparation.py")
    ),
    "decoder-only": Case(
        LORA,
        "--model.base gpt2 --run g",
        ("gpt2", "not an encoder-decoder", "choose one such as"),
        lambda: cli.run(
            config.Preparation,
            data_preparation.main,
            "--run g --model.base gpt2 --data.dataset dialogues".split(),
        ),
    ),
    "no tokenizer": Case(DATA, "", ("t5", "has no tokenizer", "save one"), remove("t5/tokenizer.json")),
    "tokenizer is no JSON": Case(DATA, "", ("t5", "cannot be loaded"), write("t5/tokenizer.json", "{")),
    "tokenizer too large": Case(
        DATA, "", ("t5", "does not fit", "put the tokenizer"), edit("t5/config.json", vocab_size=64)
    ),
    "another tokenizer": Case(
        LORA,
        "",
        ("checkpoints/r/prepared", "tokenizer of t5", "--overwrite"),
        lambda: write("t5/tokenizer.json", Path("t5/tokenizer.json").read_text().replace("▁fool", "▁foal"))(),
    ),
    "no config": Case(LORA, "", ("t5", "has no config.json", "complete"), remove("t5/config.json")),
    "unknown type": Case(LORA, "", ("t5", "'t9'", "never run"), edit("t5/config.json", model_type="t9")),
    "no weights": Case(LORA, "", ("t5", "has no weights", "save_pretrained"), remove("t5/model.safetensors")),
    "weights cut": Case(LORA, "", ("t5", "cannot be loaded", "check the files"), cut("t5/model.safetensors")),
    "a tensor is missing": Case(LORA, "", ("t5", "lack 1 tensors", "name a model"), without_tensor),
    "pickled base": Case(
        LORA, "", ("t5", "pytorch_model.bin is refused", "save the model"), pickled("t5", "pytorch_model")
    ),
    "prompts beyond its positions": Case(
        DATA, "--model.base bart", ("--data.max-query-tokens=512", "bart takes 128"), lambda: tiny.bart(Path("bart"))
    ),
    "prompts beyond an encoder's own positions": Case(
        DATA,
        "--model.base led --data.max-summary-tokens 128",
        ("--data.max-query-tokens=512", "led takes 128", "set it to 128"),
        lambda: tiny.other(Path("led"), "LED"),
    ),
    "summaries beyond a decoder's own positions": Case(
        DATA,
        "--model.base led",
        ("--data.max-summary-tokens=128", "led takes 64", "set it to 64"),
        lambda: tiny.other(Path("led"), "LED", max_encoder_position_embeddings=512, max_decoder_position_embeddings=64),
    ),
    "prepared prompts beyond its positions": Case(
        PPO,
        "--overwrite",
        (
            "checkpoints/r/prepared: its longest prompt has ",
            "and t5 takes 20; run python data_preparation.py --run r --model.base t5 --data.max-query-tokens 20 "
            "--overwrite --config checkpoints/r/prepared/manifest.json, or choose another --model.base",
        ),
        edit("t5/config.json", max_position_embeddings=20),
    ),
    "prepared prompts beyond its positions in LoRA": Case(
        LORA, "", ("its longest prompt has", "and t5 takes 20"), edit("t5/config.json", max_position_embeddings=20)
    ),
    "prepared summaries beyond its positions": Case(
        LORA,
        "",
        ("its longest summary has", "and t5 takes 8", "--data.max-summary-tokens 8 --overwrite"),
        edit("t5/config.json", max_encoder_position_embeddings=512, max_decoder_position_embeddings=8),
    ),
    "summaries beyond its positions": Case(
        PPO,
        "--rollout.max-new-tokens 100 --overwrite",
        ("--rollout.max-new-tokens=100", "t5 takes 64 tokens; set it to 64"),
        edit("t5/config.json", max_position_embeddings=64),
    ),
    # adapters
    "no such adapter": Case(PPO, "--model.adapter ./gone --overwrite", ("./gone", "name an existing folder")),
    "no adapter": Case(PPO, "--model.adapter t5 --overwrite", ("t5", "no adapter_config.json", "`none`")),
    "another base": Case(
        PPO, "--model.adapter other --overwrite", ("other", "wide", "take that"), adapter_for_another_base
    ),
    "DoRA": Case(
        PPO,
        "--overwrite",
        ("lora", "use_dora", "plain LoRA"),
        edit("lora/adapter_config.json", use_dora=True),
    ),
    "no LoRA": Case(
        PPO, "--overwrite", ("lora", "IA3", "only LoRA"), edit("lora/adapter_config.json", peft_type="IA3")
    ),
    "pickled adapter": Case(
        PPO, "--overwrite", ("lora", "adapter_model.bin is refused", "save the model"), pickled("lora", "adapter_model")
    ),
    "adapter cut": Case(
        PPO, "--overwrite", ("lora", "damaged", "fetch or save"), cut("lora/adapter_model.safetensors")
    ),
    "adapter of NaN": Case(
        PPO,
        "--overwrite",
        ("lora", "not finite", "--model.adapter"),
        with_nan("lora/adapter_model.safetensors"),
    ),
    "base of NaN": Case(LORA, "", ("t5", "not finite", "name another"), with_nan("t5/model.safetensors")),
    "infinite classifier": Case(
        PPO,
        "--overwrite",
        ("reward", "not finite", "name another"),
        with_nan("reward/model.safetensors", float("-inf")),
    ),
    # classifiers
    "no such label": Case(PPO, "--reward.label nice --overwrite", ("reward", "'nice'", "choose from: nothate, hate")),
    "plan of no such label": Case(
        PPO, "--plan --reward.label nice", ("reward", "'nice'", "choose from: nothate, hate")
    ),
    "one label": Case(
        PPO,
        "--reward.model one --overwrite",
        ("one", "no label 'nothate'", "choose from: toxic"),
        lambda: tiny.classifier(Path("one"), ["toxic"]),
    ),
    "a regression that measures": Case(
        EVAL,
        "--judge.model one --judge.label x",
        ("one: is a regression", "choose a classifier"),
        lambda: tiny.classifier(Path("one"), ["x"], problem_type="regression"),
    ),
    "a reward model that measures": Case(
        EVAL,
        "--judge.model one --judge.label x",
        ("one: has one label", "choose a classifier", '"problem_type": "multi_label_classification"'),
        lambda: tiny.classifier(Path("one"), ["x"]),
    ),
    "a regression's probability": Case(
        PPO,
        "--reward.model one --reward.signal probability --overwrite",
        ("one: is a regression", "--reward.signal logit"),
        lambda: tiny.classifier(Path("one"), ["x"], problem_type="regression"),
    ),
    "no classifier": Case(PPO, "--reward.model t5 --overwrite", ("t5", "not a sequence classifier", "'nothate'")),
    "reward without weights": Case(
        PPO, "--overwrite", ("reward", "has no weights", "save_pretrained"), remove("reward/model.safetensors")
    ),
    "judge without the label": Case(EVAL, "--judge.label rude", ("judge", "'rude'", "choose from: fine, toxic")),
    "no judge": Case(EVAL, "--judge.model none", ("--judge.model=none", "can't be left out", "name another one")),
    "no such judge": Case(EVAL, "--judge.model ./gone", ("./gone", "name an existing folder")),
    "no bad words": Case(
        EVAL, "--evaluation.bad-words /nope", ("--evaluation.bad-words=/nope: No such file", "one word a line")
    ),
    "bad words in a folder": Case(
        EVAL, "--evaluation.bad-words t5", ("--evaluation.bad-words=t5: Is a directory", "one word a line")
    ),
    # further terms of the reward
    "term without weight": Case(PPO, "--reward.extra length", ("--reward.extra='length'", "NAME=WEIGHT")),
    "no such term": Case(PPO, "--reward.extra brevity=1", ("'brevity=1'", "choose length, overlap-dialogue")),
    "no such file of a term": Case(PPO, "--reward.extra gone.py:f=1", ("gone.py: no such file", "module:function")),
    "term of another name": Case(
        PPO, "--reward.extra own.py:g=1", ("own.py has no function 'g'", "name one"), write("own.py", "def f(): 0\n")
    ),
    "term that fails": Case(
        PPO,
        "--reward.extra own.py:f=1",
        ("--reward.extra=own.py:f", "ZeroDivisionError", "correct it"),
        both(write("own.py", "def f(**texts): 1 / 0\n"), remove(f"{RUN}/ppo")),
    ),
    "term that gives too little": Case(
        PPO,
        "--reward.extra own.py:f=1",
        ("--reward.extra=own.py:f", "returned 1 numbers for 4 summaries", "return one each"),
        both(write("own.py", "def f(**texts): return [1]\n"), remove(f"{RUN}/ppo")),
    ),
    "term that gives NaN": Case(
        PPO,
        "--reward.extra own.py:f=1",
        ("--reward.extra=own.py:f", "returned nan", "return finite numbers"),
        both(write("own.py", "def f(summaries, **_): return [float('nan')] * len(summaries)\n"), remove(f"{RUN}/ppo")),
    ),
    "other terms": Case(PPO, "--reward.extra length=1", ("--reward.extra was [], now ['length=1']", "another --run")),
    # the result goes on
    "export exists": Case(EVAL, "--export t5", ("--export=t5", "exists", "choose another")),
    "export over something else": Case(
        EVAL, "--export t5 --overwrite", ("--export=t5", "no earlier", "choose another folder")
    ),
    "export into a checkpoint": Case(
        EVAL, f"--export {STEP}/out --overwrite", (f"--export={STEP}/out", f"inside {STEP}", "choose a folder outside")
    ),
    "export deep into prepared data": Case(
        EVAL, f"--export {RUN}/prepared/train/out", (f"inside {RUN}/prepared", "choose a folder outside")
    ),
    "export to nowhere": Case(EVAL, "--export=", ("--export=''", "leave it out")),
    "export and several": Case(
        EVAL, f"--export out --checkpoint {STEP} {STEP}", ("--export=out", "takes one --checkpoint")
    ),
    "export and select": Case(EVAL, "--export out --select 0.9", ("--export=out", "--select first")),
    "no repository": Case(EVAL, "--push-to-hub mine", ("--push-to-hub=mine", "owner/name")),
    "repository outside": Case(EVAL, "--push-to-hub ../mine", ("--push-to-hub=../mine", "owner/name")),
    "ask and export": Case(EVAL, "--ask d.txt --export out", ("--ask=d.txt", "leave out --export")),
    "ask and power": Case(EVAL, "--ask d.txt --power 0.1", ("--ask=d.txt", "leave out --power")),
    "ask and several": Case(EVAL, f"--ask d.txt --checkpoint {STEP} {STEP}", ("--ask=d.txt", "takes one --checkpoint")),
    "nothing to ask": Case(EVAL, "--ask gone.txt", ("--ask=gone.txt", "No such file", "name a text file")),
    "ask a folder": Case(EVAL, "--ask t5", ("--ask=t5", "Is a directory", "name a text file")),
    "ask an empty file": Case(EVAL, "--ask d.txt", ("--ask=d.txt", "is empty", "a turn a line"), write("d.txt", " \n")),
    "ask in Latin-1": Case(
        EVAL, "--ask d.txt", ("0xe9 at byte 3", "save the file as UTF-8"), write("d.txt", b"caf\xe9")
    ),
    "ask a NUL": Case(EVAL, "--ask d.txt", ("--ask=d.txt", "NUL", "plain text"), write("d.txt", "a\0b")),
    "ask at length": Case(
        EVAL, "--ask d.txt", ("d.txt", "10,0", "512 at most", "shorten"), write("d.txt", "the " * 10_000)
    ),
    "ask without end": Case(
        EVAL, "--ask d.txt", ("d.txt", "1,000,000 bytes", "one dialogue"), write("d.txt", "the " * 300_000)
    ),
    # artefacts
    "nothing prepared": Case(
        LORA,
        "--run new",
        ("checkpoints/new/prepared", "run python data_preparation.py --run new --model.base t5 first"),
    ),
    "nothing prepared elsewhere": Case(
        PPO,
        "--preset demo --run new --checkpoints away",
        ("run python data_preparation.py --preset demo --run new --checkpoints away --model.base t5 first",),
    ),
    "prepared data are damaged": Case(
        PPO,
        "--overwrite",
        (
            "has changed",
            "run python data_preparation.py --run r --model.base t5 --overwrite --config "
            "checkpoints/r/prepared/manifest.json to make it anew",
        ),
        write(f"{RUN}/prepared/dataset_dict.json", '{"splits": ["test", "train", "validation"]}'),
    ),
    "prepared data are damaged, and a checkpoint knows them": Case(
        EVAL,
        "",
        (
            "prepared/manifest.json is not JSON; make it as it was (",
            "--run r --overwrite --model.base t5 --data.dataset",
        ),
        write(f"{RUN}/prepared/manifest.json", '{"schema'),
    ),
    "prepared data are damaged, and a checkpoint knows them, training": Case(
        PPO,
        "--ppo.updates 2",
        (
            "prepared/manifest.json is not JSON; make it as it was (",
            "--run r --overwrite --model.base t5 --data.dataset",
        ),
        write(f"{RUN}/prepared/manifest.json", '{"schema'),
    ),
    "the manifest of prepared data has changed, and a checkpoint knows them": Case(
        EVAL,
        "",
        ("prepared/manifest.json has changed; make it as it was (", "--overwrite --model.base t5 --data.dataset"),
        edit(f"{RUN}/prepared/manifest.json", seed=7),
    ),
    "prepared data are gone since training": Case(
        EVAL,
        "",
        (f"{RUN}/prepared: no such folder; make it as it was (", "--run r --overwrite --model.base t5 --data.dataset"),
        remove(f"{RUN}/prepared"),
    ),
    "prepared data are gone, and training goes on": Case(
        PPO,
        "--ppo.updates 2",
        (f"{RUN}/prepared: no such folder; make it as it was (", "--run r --overwrite --model.base t5 --data.dataset"),
        remove(f"{RUN}/prepared"),
    ),
    "empty revision": Case(DATA, "--model.revision=", ("--model.revision=''", "name a commit, tag or branch")),
    "prepared exists": Case(DATA, "--run r", ("checkpoints/r/prepared exists", "--overwrite")),
    "no checkpoint": Case(EVAL, "--run new", ("checkpoints/new/ppo", "run python training_ppo.py --run new first")),
    "no such step": Case(EVAL, "--checkpoint step-0009", (f"{RUN}/ppo has no such step", "it has step-0001")),
    "a step in other figures": Case(EVAL, "--checkpoint step-1", (f"{RUN}/ppo has no such step", "it has step-0001")),
    "a step of a run without any": Case(
        EVAL, "--run new --checkpoint step-0001", ("no such folder", "run python training_ppo.py --run new first")
    ),
    "a step of another run without any": Case(
        EVAL,
        "--run other --checkpoint checkpoints/new/ppo/step-0001",
        ("no such folder", "run python training_ppo.py --run new first"),
    ),
    "checkpoint is no folder": Case(EVAL, "--checkpoint ./gone", ("gone: no such folder", f"name {STEP}")),
    "one level too high": Case(EVAL, f"--checkpoint {RUN}/ppo", ("no checkpoint itself", f"name {STEP}")),
    "two levels too high": Case(EVAL, f"--checkpoint {RUN}", ("no checkpoint itself", f"name {STEP}")),
    "all runs": Case(EVAL, "--checkpoint checkpoints", ("no checkpoint itself", f"name {STEP}")),
    "the working directory": Case(EVAL, "--checkpoint .", ("no checkpoint itself", f"name {STEP}")),
    "a model as checkpoint": Case(EVAL, "--checkpoint t5", ("t5: no checkpoint", "no manifest.json", f"name {STEP}")),
    "one level too low": Case(EVAL, f"--checkpoint {STEP}/adapter", ("part of a checkpoint", f"name {STEP}")),
    "a file of a checkpoint": Case(EVAL, f"--checkpoint {STEP}/state.json", ("part of a checkpoint", f"name {STEP}")),
    "checkpoint without its manifest": Case(
        EVAL, f"--checkpoint {STEP}", (f"{STEP}: an incomplete checkpoint",), remove(f"{STEP}/manifest.json")
    ),
    "somebody's own manifest": Case(
        EVAL, "--checkpoint t5", ("t5/manifest.json", "name a folder"), write("t5/manifest.json", "{}")
    ),
    "interrupted checkpoint": Case(
        PPO, "", ("step-0001", "no manifest.json", "move the folder"), remove(f"{STEP}/manifest.json")
    ),
    "checkpoint of another stage": Case(
        EVAL, "--checkpoint checkpoints/r/prepared", ("'data_preparation'", "training_ppo.py")
    ),
    "newer schema": Case(
        EVAL,
        "",
        ("step-0001", "schema_version 9", "update the program"),
        edit(f"{STEP}/manifest.json", schema_version=9),
    ),
    "manifest is no JSON": Case(
        PPO, "", ("step-0001", "not JSON", "move the folder"), write(f"{STEP}/manifest.json", "{")
    ),
    "manifest leads outside": Case(
        PPO,
        "",
        ("step-0001", "'../x', which is outside", "move the folder"),
        edit(f"{STEP}/manifest.json", files=[{"path": "../x", "bytes": 1, "sha256": "0"}]),
    ),
    "checkpoint cut": Case(
        PPO, "", ("step-0001", "optimizer.safetensors", "move the folder"), cut(f"{STEP}/optimizer.safetensors")
    ),
    "other settings": Case(PPO, "--ppo.gamma 0.9", ("--ppo.gamma was 1.0, now 0.9", "another --run")),
    "other weights": Case(
        PPO, "", ("reward has other weights", "--overwrite"), lambda: tiny.classifier(Path("reward"), seed=3)
    ),
    "other data": Case(PPO, "", ("checkpoints/r/prepared has changed", "--overwrite"), prepared_anew),
    "base changed since training": Case(
        EVAL, "", ("t5: not the model", "step-0001", "put it back"), lambda: tiny.t5(Path("t5"), d_model=16, layers=2)
    ),
    "adapter changed since training": Case(
        EVAL, "", ("lora: not the model", "put it back"), edit("lora/adapter_config.json", lora_alpha=64)
    ),
    "adapter gone since training": Case(EVAL, "", ("lora: no such folder", "step-0001", "put it back"), remove("lora")),
    "tokenizer changed since training": Case(
        EVAL,
        "",
        ("checkpoints/r/prepared", "tokenizer of t5", "--overwrite"),
        lambda: write("t5/tokenizer.json", Path("t5/tokenizer.json").read_text().replace("▁fool", "▁foal"))(),
    ),
    "a file for a run": Case(
        DATA, "--run afile", ("checkpoints/afile", "another --run"), write("checkpoints/afile", "")
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny models, and a run with prepared data and one checkpoint of two updates."""
    root = tmp_path_factory.mktemp("world") / "made"
    tiny.t5(root / "t5", d_model=16, layers=1)
    tiny.causal(root / "gpt2")
    tiny.lora(root / "lora", root / "t5")
    tiny.classifier(root / "reward")
    tiny.classifier(root / "judge", ("fine", "toxic"), seed=1)
    tiny.dialogsum(root / "dialogues", train=8, validation=3, test=3)
    with tiny.inside(root):
        assert run(DATA) == 0
        assert run(PPO, "--ppo.updates 1") == 0
    return root.rename(root.with_name("moved"))  # where training ran, nothing is to be found


def run(stage, flags=""):
    given = {"--run": "r", "--model.adapter": "lora"} if stage == PPO else {"--run": "r"}
    words = FLAGS[stage].split()
    given |= dict(zip(words[::2], words[1::2], strict=True))
    more = flags.split()
    for flag in more:
        given.pop(flag, None)
    kind, main = STAGES[stage]
    return cli.run(kind, main, [*(word for pair in given.items() for word in pair), *more])


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_told_in_one_line_and_changes_nothing(world, tmp_path, monkeypatch, capsys, case):
    stage, flags, says, change = CASES[case]
    place = tmp_path / "w"
    shutil.copytree(world, place)
    monkeypatch.chdir(place)
    if stage == DATA and "--run" not in flags:
        flags += " --run fresh"
    if change is not None:
        change()
    capsys.readouterr()
    before = tree(place)
    assert run(stage, flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    assert error[:-1].isprintable()
    assert "remove the folder" not in error and "delete" not in error
    for words in says:
        assert words in error, error
    assert tree(place) == before


@pytest.mark.parametrize("stage", [LORA, PPO, EVAL])
def test_a_forgotten_preset_is_named(world, tmp_path, monkeypatch, capsys, stage):
    place = tmp_path / "w"
    shutil.copytree(world, place)
    monkeypatch.chdir(place)
    RUN.rename(RUN.with_name("demo"))
    before = tree(place)
    kind, main = STAGES[stage]
    assert cli.run(kind, main, []) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you forget --preset demo? there is checkpoints/demo; or run " in error
    assert tree(place) == before


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60
