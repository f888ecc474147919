"""Adapters and weights as people have them: pickles, other tools' names, tied heads, an adapter beside a model."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import config
from detox.evaluation.scorers import load_scorers
from detox.model import adapters, engines, loading, policy, sources
from detox.report import plain_model
from detox.scoring.classifier import load_classifier
from detox.stage import notes
from detox.stage.errors import UserError

IDS = torch.tensor([[5, 6, 7, 1]])


@pytest.fixture(autouse=True)
def quiet():
    loading.quiet()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """One of each kind; copy before you change it."""
    root = tmp_path_factory.mktemp("made")
    folders = {"t5": tiny.t5(root / "t5"), "tied": tiny.t5(root / "tied", gated=False, tied=True)}
    folders |= {"bart": tiny.bart(root / "bart"), "classifier": tiny.classifier(root / "classifier")}
    return folders | {"lora": tiny.lora(root / "lora", folders["t5"])}


@pytest.fixture
def lora(made, tmp_path) -> Path:
    return Path(shutil.copytree(made["lora"], tmp_path / "lora"))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, decoder_input_ids=IDS).logits


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel

    return logits(PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), adapter))


def by_us(base: Path, adapter: Path) -> torch.Tensor:
    return logits(adapters.load_adapter(loading.load_summarizer(str(base)), str(adapter)))


def rename(folder: Path, change, **more: torch.Tensor) -> None:
    """Give the tensors of an adapter other names, and add some."""
    file = folder / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(file).items()} | more, file)


# ---------------------------------------------------------------------------------------------------- pickles


class Hostile:
    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_adapter_is_the_adapter(made, tmp_path, capsys, legacy):
    folder = tiny.pickled_lora(tmp_path / "old", made["t5"])
    assert len(json.loads((folder / "adapter_config.json").read_text())) == 12
    if legacy:
        tensors = torch.load(folder / "adapter_model.bin", weights_only=True)
        torch.save(tensors, folder / "adapter_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(by_us(made["t5"], folder), by_us(made["t5"], made["lora"]))
    by_us(made["t5"], folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder}/adapter_model.bin is a pickle" in said and "no code of it" in said
    assert f"{folder}/adapter_model.bin" in notes.pickles


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["t5", "tied", "bart", "classifier"])
def test_pickled_models(made, tmp_path, kind, shards):
    folder = Path(shutil.copytree(made[kind], tmp_path / kind))
    load = load_classifier if kind == "classifier" else loading.load_summarizer
    before = load(str(folder))
    tiny.pickled(folder, shards=shards)
    identity = sources.identity(str(folder))
    after = load(str(folder))
    old, new = (
        getattr(one, "model", one).state_dict() if kind == "classifier" else one.state_dict() for one in (before, after)
    )
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    for file in folder.glob("pytorch_model*.bin"):
        torch.save({key: tensor + 1 for key, tensor in torch.load(file, weights_only=True).items()}, file)
    assert sources.identity(str(folder)) != identity, "the weights are part of it"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda place: {"weight": Hostile(place)}, "mkdir"),
        (lambda place: Hostile(place), "mkdir"),
        (lambda place: {"weight": torch.zeros(2), "step": 7}, "it holds a int named 'step'"),
        (lambda place: {"state_dict": {"weight": torch.zeros(2)}}, "it holds a dict named 'state_dict'"),
        (lambda place: [torch.zeros(2)], "it holds a list"),
        (lambda place: {}, "a dict without entries"),
    ],
)
@pytest.mark.parametrize("role", ["adapter", "base", "classifier"])
def test_a_pickle_of_anything_but_tensors_is_refused_unread(made, lora, tmp_path, role, content, says):
    place = tmp_path / "run by the pickle"
    if role == "adapter":
        (lora / "adapter_model.safetensors").unlink()
        torch.save(content(place), lora / "adapter_model.bin")
        load = lambda: by_us(made["t5"], lora)  # noqa: E731
    else:
        folder = Path(shutil.copytree(made["t5" if role == "base" else role], tmp_path / "model"))
        (folder / "model.safetensors").unlink()
        torch.save(content(place), folder / "pytorch_model.bin")
        loader = loading.load_summarizer if role == "base" else load_classifier
        load = lambda: loader(str(folder))  # noqa: E731
    with pytest.raises(UserError, match="_model.bin is refused") as error:
        load()
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not place.exists()


def test_a_plain_pickle_and_noise_are_refused(made, lora, tmp_path):
    (lora / "adapter_model.safetensors").unlink()
    for content in (pickle.dumps(Hostile(tmp_path / "made")), b"noise", b""):
        (lora / "adapter_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="adapter_model.bin is refused"):
            by_us(made["t5"], lora)
    assert not (tmp_path / "made").exists()


# ------------------------------------------------------------------------------------------- names of tensors


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.replace(".weight", ".civil.weight"),
        lambda key: f"module.{key}",
        lambda key: f"pretrained_model.{key}",
        lambda key: f"module.pretrained_model.{key}",
        lambda key: f"_orig_mod.{key}",
        lambda key: key.replace("base_model.model.", "base_model.model._fsdp_wrapped_module."),
        lambda key: key.replace("layer.0", "layer.0._orig_mod"),
        lambda key: f"base_model.model.{key}",
        lambda key: key.removeprefix("base_model.model."),
    ],
)
def test_names_that_other_tools_write(made, lora, change):
    rename(lora, change)
    assert torch.equal(by_us(made["t5"], lora), by_peft(made["t5"], made["lora"]))


def test_a_value_head_and_copies_of_the_base_beside_an_adapter(made, lora):
    own = AutoModelForSeq2SeqLM.from_pretrained(made["t5"]).state_dict()
    head = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    copies = {"base_model.model.shared.weight": own["shared.weight"].clone()}
    rename(
        lora,
        lambda key: key,
        **head,
        **copies,
        **{"base_model.model.lm_head.base_layer.weight": own["lm_head.weight"].half()},
    )
    base = Path(shutil.copytree(made["t5"], lora.parent / "t5"))
    save_file(
        {name: tensor.half().float() for name, tensor in load_file(base / "model.safetensors").items()},
        base / "model.safetensors",
    )
    with pytest.raises(UserError, match="holds base_model.model.shared.weight: weights of its own"):
        by_us(base, lora)
    rename(lora, lambda key: key, **{"base_model.model.shared.weight": own["shared.weight"].half()})
    assert torch.equal(by_us(base, lora), by_peft(base, made["lora"]))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["base_model.model.shared.lora_embedding_A"], "a LoRA on an embedding"),
        (["base_model.model.encoder.block.0.layer.0.SelfAttention.q.ia3_l"], "no part of a LoRA"),
        (["base_model.model.decoder.final_layer_norm.weight"], "weights of its own for that layer"),
    ],
)
def test_what_is_refused_is_told_by_its_reason(made, lora, names, says):
    rename(lora, lambda key: key, **{name: torch.ones(4) for name in names})
    with pytest.raises(UserError, match=says) as error:
        by_us(made["t5"], lora)
    assert "trained on" not in str(error.value)


@pytest.mark.parametrize(
    ("layer", "shape"), [("layer.0.layer_norm", (4, 32)), ("layer.0.SelfAttention.q", (32,)), ("layer.0", (4, 32))]
)
def test_a_factor_needs_a_linear_layer_and_two_dimensions(made, lora, layer, shape):
    place = f"encoder.block.0.{layer}"
    rename(lora, lambda key: key, **{f"base_model.model.{place}.lora_A.weight": torch.ones(shape)})
    with pytest.raises(UserError, match=f"adapts {place}, which is no linear layer of the base"):
        by_us(made["t5"], lora)


def test_two_adapters_in_one_file(made, lora):
    tensors = load_file(lora / "adapter_model.safetensors")
    both = {
        key.replace(".weight", f".{name}.weight"): tensor.clone()
        for name in ("a", "b")
        for key, tensor in tensors.items()
    }
    save_file(both, lora / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"holds several adapters \(a, b\)"):
        by_us(made["t5"], lora)


@pytest.mark.parametrize("nearby", [False, True])
def test_the_base_that_it_was_trained_on_is_not_advised_to_who_took_it(made, lora, monkeypatch, nearby):
    tensors = load_file(lora / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, lora / "adapter_model.safetensors")
    monkeypatch.chdir(made["t5"].parent)
    with pytest.raises(
        UserError, match="lacks 1 tensors .* the file is incomplete, so save the adapter again"
    ) as error:
        by_us("t5" if nearby else made["t5"], lora)
    assert "take that" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"use_rslora": True}, None),
        ({"rank_pattern": {"encoder.block.0.layer.0.SelfAttention.q": 2}}, None),
        ({"layers_to_transform": [1], "layers_pattern": "block"}, None),
        ({}, {"a_setting_of_tomorrow": None, "another": False}),
        ({"init_lora_weights": "gaussian"}, {"lora_dropout": 0.5}),
        ({}, {"target_modules": r".*Attention\.(q|v)"}),
    ],
)
def test_what_peft_takes(made, tmp_path, settings, change, recwarn):
    folder = tiny.lora(tmp_path / "lora", made["t5"], **settings)
    description = json.loads((folder / "adapter_config.json").read_text()) | (change or {})
    (folder / "adapter_config.json").write_text(json.dumps(description))
    ours = by_us(made["t5"], folder)
    assert not any("Unexpected" in str(warning.message) for warning in recwarn)
    assert torch.equal(ours, by_peft(made["t5"], folder))


def test_a_setting_that_peft_does_not_know_is_told(made, lora, capsys):
    notes.forget()
    description = json.loads((lora / "adapter_config.json").read_text()) | {"a_setting_of_tomorrow": True}
    (lora / "adapter_config.json").write_text(json.dumps(description))
    by_us(made["t5"], lora)
    assert "does not know a_setting_of_tomorrow=True, and the adapter is used without" in capsys.readouterr().err


def test_a_rank_that_the_file_does_not_have_is_told_in_full(made, lora):
    description = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(description | {"r": description["r"] + 1}))
    with pytest.raises(UserError, match="cannot be loaded as a LoRA adapter .*size mismatch for .*adapter_config.json"):
        by_us(made["t5"], lora)


def test_folders_around_an_adapter_name_it(made, lora, tmp_path):
    shutil.move(lora, tmp_path / "runs" / "checkpoint-500")
    with pytest.raises(UserError, match=r"no PEFT adapter; name .*runs/checkpoint-500"):
        by_us(made["t5"], tmp_path / "runs")
    with pytest.raises(UserError, match="it is an adapter: give the summarizer's as --model.adapter"):
        loading.load_summarizer(str(tmp_path / "runs" / "checkpoint-500"))
    with pytest.raises(UserError, match=r"has no config.json; name a folder inside of it, such as .*made\d+/"):
        loading.load_summarizer(str(made["t5"].parent))


# ------------------------------------------------------------------------------------------------- tied heads


def drop_copies(folder: Path) -> dict[str, torch.Tensor]:
    """Take out what PEFT copies of the base into an adapter of its head; versions before 0.6 did not."""
    tensors = load_file(folder / "adapter_model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if ".lora_" in key}
    save_file(kept, folder / "adapter_model.safetensors")
    return kept


@pytest.mark.parametrize("kind", ["tied", "t5", "bart"])
@pytest.mark.parametrize("brings_the_embedding", [False, True])
def test_a_lora_on_the_head_changes_the_head_alone(made, tmp_path, kind, brings_the_embedding):
    targets = ("q_proj", "lm_head") if kind == "bart" else ("q", "v", "lm_head")
    folder = tiny.lora(tmp_path / "lora", made[kind], targets=targets)
    kept = drop_copies(folder)
    own = AutoModelForSeq2SeqLM.from_pretrained(made[kind]).state_dict()["lm_head.weight"]
    name = "base_model.model.lm_head.base_layer.weight"
    save_file(kept | ({name: own.clone()} if brings_the_embedding else {}), folder / "adapter_model.safetensors")
    wanted = by_peft(made[kind], folder)
    assert (wanted - logits(AutoModelForSeq2SeqLM.from_pretrained(made[kind]))).abs().max() > 0.01
    settings = config.Model(base=str(made[kind]), adapter=str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        start, _ = policy.load_start(settings)
    assert torch.allclose(logits(start), wanted, atol=1e-5)
    assert torch.equal(start.get_input_embeddings().weight, own if kind != "t5" else start.shared.weight)
    for name in ("hf", "packed") if kind != "bart" else ("hf",):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            adapted = adapters.fold_head(adapters.load_adapter(loading.load_summarizer(str(made[kind])), str(folder)))
        runs = engines.make_engine(name, adapted)
        found = runs.logprobs(runs.encode([IDS[0]]), [IDS[0, 1:]]).logprobs[0]
        start_id = start.config.decoder_start_token_id
        with torch.no_grad():
            ids = torch.cat([torch.tensor([[start_id]]), IDS[:, 1:-1]], dim=1)
            expected = start(input_ids=IDS, decoder_input_ids=ids).logits.log_softmax(-1)[0]
        assert torch.allclose(found, expected.gather(1, IDS[0, 1:, None])[:, 0], atol=1e-4), name


@pytest.mark.parametrize("kind", ["tied", "bart"])
def test_an_export_of_it_is_what_the_adapter_is(made, tmp_path, kind):
    targets = ("q_proj", "lm_head") if kind == "bart" else ("q", "v", "lm_head")
    folder = tiny.lora(tmp_path / "lora", made[kind], targets=targets)
    drop_copies(folder)
    wanted = by_peft(made[kind], folder)
    start, _ = policy.load_start(config.Model(base=str(made[kind]), adapter=str(folder)))
    (tmp_path / "out").mkdir()
    plain_model.save(start, tmp_path / "out", config.Base(base=str(made[kind])), config.PROMPT, 8)
    plain_model.check(start, tmp_path / "out")
    assert torch.allclose(logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")), wanted, atol=1e-5)
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["tie_word_embeddings"] is False and not described.get("scale_decoder_outputs")


# ------------------------------------------------------------------------------ an adapter beside a whole model


def merged_beside_its_adapter(folder: Path, kind: str) -> Path:
    """Save a merged model into the folder that its adapter was saved to, as people do."""
    from peft import LoraConfig, get_peft_model

    auto = AutoModelForSequenceClassification if kind == "classifier" else AutoModelForSeq2SeqLM
    targets = ["query", "value"] if kind == "classifier" else ["q", "v"]
    task = "SEQ_CLS" if kind == "classifier" else "SEQ_2_SEQ_LM"
    adapted = get_peft_model(auto.from_pretrained(folder), LoraConfig(task_type=task, r=4, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    adapted.merge_and_unload().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["classifier", "t5", "tied"])
def test_a_model_beside_its_adapter_is_loaded_as_its_config_says(made, tmp_path, capsys, kind):
    both = merged_beside_its_adapter(Path(shutil.copytree(made[kind], tmp_path / "both")), kind)
    load = load_classifier if kind == "classifier" else loading.load_summarizer
    found = load(str(both))
    tensors = (found.model if kind == "classifier" else found).state_dict()
    for name, tensor in load_file(both / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor), name
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "holds an adapter beside a whole model; the model is loaded alone" in said
    clean = Path(shutil.copytree(both, tmp_path / "clean", ignore=shutil.ignore_patterns("adapter_*")))
    load(str(clean))
    assert capsys.readouterr().err == ""


def test_the_scorers_of_an_evaluation_load_it_so_too(made, tmp_path):
    both = merged_beside_its_adapter(Path(shutil.copytree(made["classifier"], tmp_path / "both")), "classifier")
    clean = Path(shutil.copytree(both, tmp_path / "clean", ignore=shutil.ignore_patterns("adapter_*")))
    values = []
    for folder in (both, clean):
        judge = shutil.copytree(folder, tmp_path / f"judge-{folder.name}")
        told = json.loads((judge / "config.json").read_text())
        (judge / "config.json").write_text(json.dumps({**told, "name": "another one"}))
        roles = config.Toxicity(model=str(folder)), config.Judge(model=str(judge), label="hate")
        _, scorers = load_scorers(*roles, config.Reward(model=str(folder)), torch.device("cpu"))
        values.append([scorers[role](["you are a fool"]) for role in ("toxicity", "judge", "reward")])
    assert values[0] == values[1]
