"""A user's own model, dataset, columns, prompt, classifiers, labels and reward terms, each by its flag, end to end."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    pipeline,
)

import config
import data_preparation
import evaluate_ppo
import training_ppo
from detox.data.prepared import load_prepared
from detox.data.splits import SPLITS
from detox.ppo import batches
from detox.ppo.prompt_stream import PromptStream
from detox.stage import cli
from detox.stage.parallel import ALONE
from tests import tiny

COLUMNS = {"id": "number", "dialogue": "talk", "summary": "gist", "topic": "about"}
PROMPT = r"Say in short:\n{dialogue}\nIn short: "
OWN = "def own(summaries, dialogues, references):\n    return [len(text) / 10 for text in summaries]\n"
EXTRA = {"length": 0.5, "overlap-dialogue": 1.0, "overlap-reference": 2.0, "own.py:own": 0.25}

PREPARATION = [
    *("--data.dataset", "talks", "--data.prompt", PROMPT, "--data.max-query-tokens", "128"),
    *(word for name, column in COLUMNS.items() for word in (f"--data.{name}-column", column)),
]
TRAINING = (
    "--model.adapter supervised --reward.model polite --reward.label kind --rollout.max-new-tokens 8 --device cpu "
    "--dtype float32 --ppo.batch-size 6 --ppo.minibatch-size 3 --ppo.ppo-epochs 2 --ppo.updates 2 "
    "--ppo.advantages gae --ppo.value-warmup 6 "
    "--ppo.learning-rate 1e-2 --ppo.lora-r 4"
).split()
EVALUATION = (
    "--toxicity.model polite --toxicity.label curt --judge.model judge --judge.label rude --device cpu "
    "--dtype float32 --evaluation.max-new-tokens 8 --evaluation.samples 1 --evaluation.resamples 100 "
    "--evaluation.best-of 2"
).split()


def t5_1_0(folder: Path) -> tuple[str, ...]:
    """Write a T5 as of the first paper (tied head, relu); return the layers of its adapter."""
    tiny.t5(folder, gated=False, tied=True)
    return "q", "v"


def bart(folder: Path) -> tuple[str, ...]:
    """Write a BART with what facebook/bart-* bring: generation settings of their own, and a bias on the logits."""
    tiny.bart(folder)
    path = folder / "generation_config.json"
    settings = {"forced_bos_token_id": 0, "no_repeat_ngram_size": 3, "num_beams": 4, "early_stopping": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    weights = load_file(folder / "model.safetensors")
    size = weights["model.shared.weight"].shape[0]
    weights["final_logits_bias"] = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "q_proj", "v_proj"


def talks(folder: Path) -> None:
    """Write dialogues as JSON lines with column names of their own."""
    tiny.dialogsum(Path("dialogues"), train=12, validation=4, test=4)
    folder.mkdir()
    for split in SPLITS:
        with open(f"dialogues/{split}.csv", encoding="utf-8", newline="") as file:
            rows = [{COLUMNS[name]: text for name, text in row.items()} for row in csv.DictReader(file)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(*flags: str) -> int:
    return cli.run(config.PPOTraining, training_ppo.main, ["--run", "r", "--model.base", "base", *TRAINING, *flags])


def chain(place: Path, write_base, *training: str) -> Path:
    """Run the three stages in a new folder, and return it."""
    with tiny.inside(place):
        targets = write_base(Path("base"))
        tiny.lora(Path("supervised"), Path("base"), targets=targets)
        tiny.bert_classifier(Path("polite"), ("curt", "kind", "long"))
        tiny.classifier(Path("judge"), ("rude", "civil"), seed=1)
        talks(Path("talks"))
        Path("own.py").write_text(OWN)
        prepare = ["--run", "r", "--model.base", "base", *PREPARATION]
        assert cli.run(config.Preparation, data_preparation.main, prepare) == 0
        assert train(*training) == 0
        assert cli.run(config.EvaluationStage, evaluate_ppo.main, ["--run", "r", *EVALUATION]) == 0
    return place


@pytest.fixture(scope="module")
def t5_with_terms(tmp_path_factory) -> Path:
    extra = [f"{name}={weight}" for name, weight in EXTRA.items()]
    return chain(tmp_path_factory.mktemp("t5"), t5_1_0, "--reward.weight", "0.5", "--reward.extra", *extra)


@pytest.fixture(scope="module")
def with_bart(tmp_path_factory) -> Path:
    return chain(tmp_path_factory.mktemp("bart"), bart)


@pytest.fixture(params=["t5_with_terms", "with_bart"])
def finished(request) -> Path:
    return request.getfixturevalue(request.param)


def metrics(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "checkpoints/r/ppo/metrics.jsonl").read_text().splitlines()]


def test_columns_and_prompt_of_ones_own(finished):
    prepared = load_prepared(finished / "checkpoints/r/prepared")
    first = json.loads((finished / "talks/train.jsonl").read_text().splitlines()[0])
    row = prepared["train"][0]
    assert row["query"] == f"Say in short:\n{first['talk']}\nIn short: "
    assert (row["id"], row["summaries"], row["topic"]) == (first["number"], [first["gist"]], first["about"])
    assert len(prepared["test"]["summaries"][0]) == 3


def test_another_model_starts_at_its_reference(finished):
    first, second = metrics(finished)
    assert first["objective/ref_kl"] == pytest.approx(0, abs=1e-5)
    assert first["ppo/ratio_first"] == pytest.approx(1, abs=1e-5)
    assert second["objective/ref_kl"] != 0


def test_other_classifiers_and_labels_measure(finished):
    place = finished / "checkpoints/r/evaluation/step-0002"
    results = json.loads((place / "results.json").read_text())
    assert results["n"] == 4
    assert (results["toxicity"]["judge"], results["independent_judge"]["judge"]) == ("polite", "judge")
    line = json.loads((place / "examples.jsonl").read_text().splitlines()[0])["after"]["greedy"]

    def scores(name: str) -> dict[str, float]:
        model = AutoModelForSequenceClassification.from_pretrained(finished / name)
        classify = pipeline("text-classification", model, tokenizer=AutoTokenizer.from_pretrained(finished / name))
        return {entry["label"]: entry["score"] for entry in classify(line["summary"], top_k=None)}

    kind = torch.tensor(scores("polite")["kind"])
    assert line["toxicity"] == pytest.approx(scores("polite")["curt"], abs=1e-5)
    assert line["judge"] == pytest.approx(scores("judge")["rude"], abs=1e-5)
    assert line["reward"] == pytest.approx(kind.logit().item(), abs=1e-4)


def test_the_adapter_is_an_ordinary_one_for_the_other_model(finished):
    """What plain transformers and peft generate with it is what the evaluation read."""
    base = AutoModelForSeq2SeqLM.from_pretrained(finished / "base")
    model = PeftModel.from_pretrained(base, finished / "checkpoints/r/ppo/step-0002/adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "base")
    ids = {name: getattr(base.config, name) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    base.generation_config = GenerationConfig(**ids)  # greedy, as the evaluation is, whatever the model's own say
    prepared = load_prepared(finished / "checkpoints/r/prepared")["test"]
    file = finished / "checkpoints/r/evaluation/step-0002/examples.jsonl"
    for row, line in zip(prepared, map(json.loads, file.read_text().splitlines()), strict=True):
        made = model.generate(input_ids=torch.tensor([row["input_ids"]]), max_new_tokens=8)
        assert tokenizer.decode(made[0], skip_special_tokens=True).strip() == line["after"]["greedy"]["summary"].strip()


def test_the_score_is_the_sum_of_its_terms(t5_with_terms):
    for line in metrics(t5_with_terms):
        names = ("classifier", *EXTRA)  # a function of one's own goes by its own name
        terms = {name: line[f"objective/reward/{name.rpartition(':')[2]}_mean"] for name in names}
        assert -9 < terms["length"] < 0 <= terms["overlap-dialogue"] <= 1 and 0 <= terms["overlap-reference"] <= 1
        expected = 0.5 * terms["classifier"] + sum(weight * terms[name] for name, weight in EXTRA.items())
        assert line["objective/score_mean"] == pytest.approx(expected, abs=1e-5)


def test_terms_see_the_rows_that_the_prompts_came_from():
    column, seen = [[10], [11], [12]], []
    stream = PromptStream(column, seed=0)
    trainer = SimpleNamespace(
        processes=ALONE,
        rollout=lambda ids, *_: seen.extend(ids) or SimpleNamespace(response_ids=[]),
        tokenizer=SimpleNamespace(batch_decode=lambda ids, **_: []),
    )
    settings = config.PPOTraining(ppo=config.PPO(batch_size=7, minibatch_size=7, samples_per_dialogue=1))
    _, prompts, _ = batches.roll_out(trainer, stream, settings)
    assert [column[prompt.row] for prompt in prompts] == [ids.tolist() for ids in seen]
    assert [prompt.row for prompt in prompts] != [prompt.key % 3 for prompt in prompts]


def test_without_terms_the_metrics_are_as_ever(with_bart):
    assert not any(key.startswith("objective/reward/") for key in metrics(with_bart)[0])


@pytest.fixture
def place(t5_with_terms, tmp_path, monkeypatch) -> Path:
    shutil.copytree(t5_with_terms, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def test_other_terms_or_other_code_are_refused_by_name(place, capsys):
    weights = ["--reward.weight", "0.5", "--reward.extra"]
    same = [f"{name}={weight}" for name, weight in EXTRA.items()]
    assert train(*weights, *same) == 0
    assert "is complete" in capsys.readouterr().out
    assert train(*weights, *same[:-1]) == 2
    assert "--reward.extra was ['length=0.5'" in capsys.readouterr().err
    Path("own.py").write_text(OWN.replace("10", "11"))
    assert train(*weights, *same) == 2
    error = capsys.readouterr().err
    assert "own.py:own has other weights or code" in error and error.count("\n") == 1


def test_samples_of_a_dialogue_are_neighbours_with_numbers_of_their_own():
    seen, keys = [], []
    stream = PromptStream([[10], [11], [12], [13], [14]], seed=0)
    trainer = SimpleNamespace(
        processes=ALONE,
        rollout=lambda ids, given, *_: (seen.extend(ids), keys.extend(given), SimpleNamespace(response_ids=[]))[2],
        tokenizer=SimpleNamespace(batch_decode=lambda ids, **_: []),
    )
    settings = config.PPOTraining(ppo=config.PPO(batch_size=6, minibatch_size=6, samples_per_dialogue=3))
    for _ in range(2):
        batches.roll_out(trainer, stream, settings)
    assert [ids is seen[i // 3 * 3] for i, ids in enumerate(seen)] == [True] * 12
    assert len({int(ids) for ids in seen}) == 4 and stream.position == 4
    assert keys == list(range(12))
