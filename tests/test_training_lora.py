"""The optional stage: a supervised LoRA from a prepared dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Seq2SeqTrainer

import config
import training_lora
from detox.data import preparation
from detox.data.prepared import load_prepared, save_prepared
from detox.data.sources import locate
from detox.model import adapters, loading, tokenizers
from detox.stage import artifacts, cli
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.t5(tmp_path_factory.mktemp("models") / "t5", d_model=16, layers=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, base) -> Path:
    """Return a checkpoints folder with the prepared dataset of the run `flan-t5`."""
    root = tmp_path_factory.mktemp("prepared")
    source = tiny.dialogsum(root / "source", train=16, validation=4, test=2)
    settings = config.Preparation(data=config.Data(str(source), max_query_tokens=2000, max_summary_tokens=500))
    tokenizer = tokenizers.load_tokenizer(str(base))
    dataset, _ = preparation.prepare(settings.data, tokenizer, 0)
    target = root / "checkpoints" / "flan-t5" / "prepared"
    with artifacts.publish(target, stage="data_preparation", settings=settings) as draft:
        save_prepared(dataset, draft.path, locate(settings.data, 0), tokenizer, str(base))
    return root / "checkpoints"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, prepared) -> Path:
    """Work in a folder that holds nothing but the prepared dataset."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared, tmp_path / "checkpoints")
    return tmp_path


def train(base: Path, *arguments: str) -> int:
    fixed = ("--model.base", str(base), "--device", "cpu", "--lora.batch-size", "4", "--lora.r", "4")
    return cli.run(config.LoraTraining, training_lora.main, [*fixed, *arguments])


def test_an_interruption_after_the_end_tells_what_comes_next(base, place, capsys, monkeypatch):
    def interrupt(settings):
        monkeypatch.setattr(training_lora, "next_step", lambda settings: "the next command")
        monkeypatch.setattr(
            training_lora, "print", lambda text: (_ for _ in ()).throw(KeyboardInterrupt), raising=False
        )
        return "the next command"

    monkeypatch.setattr(training_lora, "next_step", interrupt)
    assert train(base, "--lora.max-steps", "1") == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "interrupted: checkpoints/flan-t5/lora is whole; next: the next command"


def test_an_interruption_behind_the_last_file_does_not_ask_for_it_again(base, capsys, monkeypatch):
    monkeypatch.setattr(training_lora, "next_step", lambda settings: (_ for _ in ()).throw(KeyboardInterrupt))
    assert train(base, "--lora.max-steps", "1") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: checkpoints/flan-t5/lora is whole"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights(place: Path) -> dict[str, torch.Tensor]:
    return load_file(place / "checkpoints/flan-t5/lora/adapter_model.safetensors")


def test_the_adapter_is_an_ordinary_peft_folder_that_fits_the_base(base, place, capsys):
    before = files(place)
    assert train(base, "--lora.epochs", "2", "--lora.learning-rate", "0.01") == 0
    names = ("manifest.json", "adapter_config.json", "adapter_model.safetensors")
    assert files(place) - before == {f"checkpoints/flan-t5/lora/{name}" for name in names}
    saved = json.loads((place / "checkpoints/flan-t5/lora/adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(base)
    assert (saved["peft_type"], saved["task_type"], saved["r"], saved["lora_alpha"]) == (
        "LORA",
        "SEQ_2_SEQ_LM",
        4,
        32,
    )

    model = loading.load_summarizer(str(base))
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(("encoder.", "decoder."))
    }
    assert {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in weights(place)} == linear
    adapted = adapters.load_adapter(model, str(place / "checkpoints/flan-t5/lora"))
    manifest = artifacts.read_manifest(place / "checkpoints/flan-t5/lora", "training_lora")
    counts = manifest["counts"]
    assert counts["validation_loss"] < counts["validation_loss_before"] - 0.01
    assert (counts["train"], counts["validation"], counts["steps"]) == (16, 4, 8)
    assert manifest["inputs"]["prepared"]["path"] == "../prepared"

    tokenizer = tokenizers.load_tokenizer(str(base))
    validation = load_prepared(place / "checkpoints/flan-t5/prepared")["validation"]
    with torch.no_grad():
        loss = adapted(**training_lora.collator(tokenizer)(validation.to_list())).loss
    assert loss.item() == pytest.approx(counts["validation_loss"], abs=1e-5)
    out, err = capsys.readouterr()
    assert out.count("validation loss") == 3 and "next: python training_ppo.py" in out
    assert err == "" and "\nLoRA: 8 of 8 in " in out


def test_the_same_seed_gives_the_same_weights_and_another_does_not(base, place):
    found = []
    for seed in ("0", "0", "1"):
        assert train(base, "--lora.max-steps", "3", "--seed", seed, "--overwrite") == 0
        found.append(weights(place))
    first, again, other = found
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_named_targets_alone_are_adapted(base, place):
    assert train(base, "--lora.max-steps", "1", "--lora.targets", "q,v") == 0
    assert {key.rpartition(".lora_")[0].rpartition(".")[2] for key in weights(place)} == {"q", "v"}


def test_labels_count_the_end_of_the_summary_and_nothing_after_it(base):
    tokenizer = tokenizers.load_tokenizer(str(base))
    texts = ["the fool", "the fool wants to go back again"]
    examples = [{"input_ids": tokenizer(text)["input_ids"], "summaries": [text, "another"]} for text in texts]
    batch = training_lora.collator(tokenizer)(examples)
    short, long = (tokenizer(text)["input_ids"] for text in texts)
    assert batch["labels"].tolist() == [short + [-100] * (len(long) - len(short)), long]
    assert batch["input_ids"].tolist() == [short + [tokenizer.pad_token_id] * (len(long) - len(short)), long]
    assert batch["attention_mask"].sum(1).tolist() == [len(short), len(long)]


@pytest.mark.parametrize("where", ["train", "_move_model_to_device"])
def test_lack_of_memory_is_one_line_on_every_device(base, place, capsys, monkeypatch, where):
    def full(*_, **__):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB). Tried to allocate 1.00 GB.")

    before = files(place)
    monkeypatch.setattr(Seq2SeqTrainer, where, full)
    assert train(base, "--lora.max-steps", "1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: out of memory: ")
    assert ("--lora.batch-size=4" in error) == (where == "train")
    assert files(place) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "nothing"), "run python data_preparation.py"),
        (("--lora.targets", "nothing"), "no linear layer is called nothing"),
        (
            ("--lora.learning-rate", "1e30", "--lora.max-steps", "2"),
            "--lora.learning-rate=1e+30: the validation loss became",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_nothing_on_disk(base, place, capsys, arguments, message):
    before = files(place)
    assert train(base, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert files(place) == before


def test_another_tokenizer_is_told_before_weights_are_loaded(base, place, capsys, tmp_path_factory):
    other = shutil.copytree(base, tmp_path_factory.mktemp("other") / "t5")
    (other / "model.safetensors").unlink()
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][10][0] = "▁changed"
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert train(other) == 2
    assert "prepared with the tokenizer of" in capsys.readouterr().err
