"""Loading models from folders: what is whole and fits loads, everything else is one line that helps."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from detox.data.fingerprint import tokenizer_fingerprint
from detox.evaluation import bad_words
from detox.model import adapters, loading, tokenizers
from detox.scoring.classifier import load_classifier
from detox.stage.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """One of each kind; copy before you change it."""
    root = tmp_path_factory.mktemp("made")
    folders = {
        "t5": tiny.t5(root / "t5"),
        "bart": tiny.bart(root / "bart"),
        "gpt2": tiny.causal(root / "gpt2"),
        "classifier": tiny.classifier(root / "classifier"),
    }
    return folders | {"lora": tiny.lora(root / "lora", folders["t5"])}


def rewrite(folder: Path, file: str, **changes: object) -> None:
    """Change or (None) remove keys of a JSON file."""
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    for part in parts:
        assert part in message, message


# ------------------------------------------------------------------------------------------------------ loads


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_t5_layouts(tmp_path, gated, tied):
    folder = tiny.t5(tmp_path / "t5", gated=gated, tied=tied)
    model = loading.load_summarizer(str(folder))
    assert not model.training and model.dtype == torch.float32
    assert (model.lm_head.weight is model.shared.weight) == tied
    if not tied:
        assert torch.equal(model.lm_head.weight, load_file(folder / "model.safetensors")["lm_head.weight"])
    assert model.config.scale_decoder_outputs == tied, "v1.0 scales its outputs, v1.1 and Flan do not"
    assert model.name_or_path == model.config._name_or_path == str(folder)
    assert loading.resolved_revision(model) is None


def test_dtype_and_bart(made):
    model = loading.load_summarizer(str(made["bart"]), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_tokenizer_reads_and_pads_on_the_right(made):
    tokenizer = tokenizers.load_tokenizer(str(made["t5"]))
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("right", "right")
    text = "Summarize the following conversation. #Person1#: You fool, Tom!"
    ids = tokenizer(text).input_ids
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.decode(ids, skip_special_tokens=True) == text


def test_adapter_is_what_peft_loads(made):
    from peft import PeftModel

    ids = torch.tensor([[5, 6, 7, 1]])
    ours = adapters.load_adapter(loading.load_summarizer(str(made["t5"])), str(made["lora"]))
    theirs = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(made["t5"]).eval(), made["lora"]).eval()
    bare = loading.load_summarizer(str(made["t5"]))
    with torch.no_grad():
        outputs = [model(input_ids=ids, decoder_input_ids=ids).logits for model in (ours, theirs, bare)]
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 0.01
    assert not ours.training and not any(parameter.requires_grad for parameter in ours.parameters())


def test_classifier_knows_its_labels_and_limits(made):
    classifier = load_classifier(str(made["classifier"]), None, "hate")
    assert classifier.labels == ["nothate", "hate"] and classifier.label_id == 1
    assert classifier.max_length == 128, "130 rows of positions, two of them unused"
    other = classifier.with_label("nothate")
    assert other.label_id == 0 and other.model is classifier.model and classifier.label_id == 1


def test_quiet_hides_only_what_it_should(made, capfd):
    from trl import PPOConfig

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loading.quiet()
        PPOConfig()
        adapters.load_adapter(loading.load_summarizer(str(made["t5"])), str(made["lora"]))
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else is deprecated"]
    assert capfd.readouterr().err == ""


def test_sharded_weights(made, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(made["t5"], folder)
    loading.load_summarizer(str(made["t5"])).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert loading.load_summarizer(str(folder)) is not None
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as error:
        loading.load_summarizer(str(folder))
    one_line(error, "elsewhere.safetensors")


SENTENCEPIECE = {"T5": "spiece.model", "DeBERTa": "spm.model", "XLM-RoBERTa": "sentencepiece.bpe.model"}


@pytest.fixture
def with_sentencepiece(request, tmp_path) -> Path:
    """A model with a sentencepiece file for its only tokenizer."""
    folder = tmp_path / "model"
    kind = request.param
    if kind == "T5":
        tiny.t5(folder)
    else:
        prefix = {"DeBERTa": "DebertaV2", "XLM-RoBERTa": "XLMRoberta"}[kind]
        settings = getattr(transformers, f"{prefix}Config")(
            vocab_size=300,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            id2label={0: "nothate", 1: "hate"},
        )
        getattr(transformers, f"{prefix}ForSequenceClassification")(settings).save_pretrained(folder)
    return tiny.sentencepiece(folder, SENTENCEPIECE[kind])


@pytest.mark.parametrize("with_sentencepiece", SENTENCEPIECE, indirect=True)
def test_a_tokenizer_that_comes_as_a_sentencepiece_model_alone(with_sentencepiece):
    folder, text = with_sentencepiece, "the people talk"
    if (folder / "spiece.model").exists():
        tokenizer = tokenizers.load_tokenizer(str(folder))
        assert loading.load_summarizer(str(folder))
    else:
        tokenizer = load_classifier(str(folder), None, "hate").tokenizer
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text and len(ids) < len(text)
    assert tokenizer.is_fast and tokenizer_fingerprint(tokenizer)


@pytest.mark.parametrize("with_sentencepiece", SENTENCEPIECE, indirect=True)
@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_without_sentencepiece_the_line_names_it(with_sentencepiece, monkeypatch, package):
    def load(name, **options):
        raise ImportError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")

    monkeypatch.setattr(tokenizers.AutoTokenizer, "from_pretrained", load)
    monkeypatch.setitem(sys.modules, package, None)
    loader = tokenizers.load_tokenizer if (with_sentencepiece / "spiece.model").exists() else load_classifier
    with pytest.raises(UserError, match="needs `pip install sentencepiece protobuf`") as error:
        loader(str(with_sentencepiece))
    assert "tiktoken" not in str(error.value)


def test_byte_order_marks_that_editors_put_into_text_files(made, tmp_path):
    for kind in ("t5", "classifier", "lora"):
        folder = Path(shutil.copytree(made[kind], tmp_path / kind))
        for file in (*folder.glob("*.json"), *folder.glob("*.txt")):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    base, text = loading.load_summarizer(str(tmp_path / "t5")), "the people talk"
    assert vars(base.config) | {"_name_or_path": ""} == vars(loading.load_summarizer(str(made["t5"])).config) | {
        "_name_or_path": ""
    }
    adapters.load_adapter(base, str(tmp_path / "lora"))
    assert tokenizers.load_tokenizer(str(tmp_path / "t5"))(text) == tokenizers.load_tokenizer(str(made["t5"]))(text)
    found, same = (load_classifier(str(root["classifier"])) for root in ({"classifier": tmp_path / "classifier"}, made))
    assert found.tokenizer(text) == same.tokenizer(text) and found.labels == same.labels
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbffool\r\nclown\r\n")
    assert bad_words.load(str(tmp_path / "words.txt")) == ["fool", "clown"]


# --------------------------------------------------------------------------------------------------- refusals

Change = Callable[[Path], object]


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "DenseReluDense" in name))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _without_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")]:
        path.unlink()


def _without_padding(folder: Path) -> None:
    rewrite(folder, "tokenizer_config.json", pad_token=None, tokenizer_class="GPT2Tokenizer")
    rewrite(folder, "special_tokens_map.json", pad_token=None)


def _write(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text)


def _json(file: str, **changes: object) -> Change:
    return lambda folder: rewrite(folder, file, **changes)


SUMMARIZERS: list[tuple[str, str, Change, tuple[str, ...]]] = [
    ("a pickle", "t5", _pickled, ("pytorch_model.bin is refused", "could run code", "save_pretrained")),
    ("no weights", "t5", lambda f: (f / "model.safetensors").unlink(), ("has no weights",)),
    ("truncated weights", "t5", _truncated, ("cannot be loaded",)),
    ("a tensor is missing", "t5", _without_a_tensor, ("lack 1 tensors", "DenseReluDense", "random")),
    ("other shapes", "t5", _json("config.json", d_ff=128), ("has shape [64, 32]", "[128, 32] by its config.json")),
    ("no config", "t5", lambda f: (f / "config.json").unlink(), ("has no config.json",)),
    ("config is no JSON", "t5", _write("config.json", "{"), ("config.json cannot be read",)),
    ("config is a list", "t5", _write("config.json", "[]"), ("not a JSON object",)),
    ("config names no type", "t5", _json("config.json", model_type=None), ("names no model_type",)),
    ("unknown type", "t5", _json("config.json", model_type="t9"), ("type 't9'", "never run")),
    ("config of wrong types", "t5", _json("config.json", d_model="wide"), ("cannot be loaded",)),
    ("quantized", "t5", _json("config.json", quantization_config={"quant_method": "gptq"}), ("quantized",)),
    (
        "decoder-only",
        "gpt2",
        lambda f: None,
        ("GPT2LMHeadModel is not an encoder-decoder", "google/flan-t5-base"),
    ),
    (
        "a classifier",
        "classifier",
        lambda f: None,
        ("RobertaForSequenceClassification is not an encoder-decoder",),
    ),
    (
        "an encoder-decoder classifier",
        "bart",
        _json("config.json", architectures=["BartForSequenceClassification"]),
        ("BartForSequenceClassification is not an encoder-decoder",),
    ),
]


@pytest.mark.parametrize(
    ("base", "change", "says"), [case[1:] for case in SUMMARIZERS], ids=[case[0] for case in SUMMARIZERS]
)
def test_refused_summarizers(made, tmp_path, base, change, says):
    folder = tmp_path / "model"
    shutil.copytree(made[base], folder)
    change(folder)
    with pytest.raises(UserError) as error:
        loading.load_summarizer(str(folder))
    one_line(error, str(folder), *says)


def test_tokenizers_that_do_not_fit(made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made["bart"], folder)
    for file in ("vocab.json", "merges.txt", "tokenizer.json"):
        (folder / file).unlink(missing_ok=True)
    shutil.copy(made["t5"] / "tokenizer.json", folder)
    shutil.copy(made["t5"] / "tokenizer_config.json", folder)
    rewrite(folder, "config.json", vocab_size=300)
    with pytest.raises(UserError) as error:
        tokenizers.load_tokenizer(str(folder))
    one_line(error, "token id 37", "300 rows")

    shutil.copytree(made["t5"], tmp_path / "fits not")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "fits not" / file).unlink()
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(made["classifier"] / file, tmp_path / "fits not")
    with pytest.raises(UserError, match="does not fit"):
        loading.load_summarizer(str(tmp_path / "fits not"))


@pytest.mark.parametrize(
    ("base", "change", "says"),
    [
        ("t5", _without_tokenizer, "has no tokenizer"),
        ("t5", _write("tokenizer.json", "{}"), "cannot be loaded as a tokenizer"),
        ("t5", _write("tokenizer_config.json", "]"), "cannot be loaded as a tokenizer"),
        ("gpt2", _without_padding, "no padding token"),
    ],
    ids=["none", "empty", "broken settings", "no padding"],
)
def test_refused_tokenizers(made, tmp_path, base, change, says):
    folder = tmp_path / "model"
    shutil.copytree(made[base], folder)
    change(folder)
    with pytest.raises(UserError) as error:
        tokenizers.load_tokenizer(str(folder))
    one_line(error, str(folder), says)


@pytest.mark.parametrize(
    ("labels", "label", "says"),
    [
        (("nothate", "hate"), "toxic", "has no label 'toxic'; choose from: nothate, hate"),
        (("nothate", "hate"), "Hate", "has no label 'Hate'"),
        (("hate",), "nothate", "has no label 'nothate'; choose from: hate"),
        (("LABEL_0",), "hate", "has no label 'hate'; choose from: LABEL_0"),
        (("hate", "hate", "nothate"), "hate", "more than one label 'hate'"),
        (("good\x1b[31m\nbad", "hate"), "good", "good bad, hate"),
    ],
)
def test_refused_labels(tmp_path, labels, label, says):
    folder = tiny.classifier(tmp_path / "c", labels)
    with pytest.raises(UserError) as error:
        load_classifier(str(folder), None, label)
    one_line(error, says)


@pytest.mark.parametrize(
    ("base", "change", "says"),
    [
        ("t5", lambda f: None, "T5ForConditionalGeneration is not a sequence classifier"),
        ("classifier", _pickled, "pytorch_model.bin is refused"),
        ("classifier", _without_tokenizer, "has no tokenizer"),
    ],
)
def test_refused_classifiers(made, tmp_path, base, change, says):
    folder = tmp_path / "model"
    shutil.copytree(made[base], folder)
    change(folder)
    with pytest.raises(UserError) as error:
        load_classifier(str(folder), None, "hate")
    one_line(error, str(folder), says)


def _lora_pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


def _without_a_factor(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


ADAPTER = "adapter_config.json"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / ADAPTER).unlink(), "no PEFT adapter"),
        (_json(ADAPTER, peft_type="IA3"), "type IA3; only LoRA"),
        (_json(ADAPTER, task_type="CAUSAL_LM"), "a LoRA for CAUSAL_LM"),
        (_json(ADAPTER, use_dora=True), "use_dora=True"),
        (_json(ADAPTER, bias="all"), "bias=all"),
        (_json(ADAPTER, modules_to_save=["lm_head"]), "modules_to_save=['lm_head']"),
        (_json(ADAPTER, init_lora_weights="pissa"), "init_lora_weights=pissa"),
        (_json(ADAPTER, target_modules=["query"]), "cannot be loaded as a LoRA adapter"),
        (_json(ADAPTER, target_modules="("), "cannot be loaded as a LoRA adapter"),
        (_json(ADAPTER, target_modules=["q"]), "holds, unasked, 12 tensors"),
        (_json(ADAPTER, lora_alpha=float("nan")), "by nan; mend lora_alpha"),
        (_json(ADAPTER, alpha_pattern={"q": float("inf")}), "q by inf; mend lora_alpha"),
        (_json(ADAPTER, lora_alpha="many"), "cannot be loaded as a LoRA adapter"),
        (_json(ADAPTER, r="many"), "cannot be loaded as a LoRA adapter"),
        (_lora_pickled, "adapter_model.bin is refused"),
        (_without_a_factor, "lacks 1 tensors"),
        (_write("adapter_model.safetensors", "no"), "is damaged"),
    ],
)
def test_refused_adapters(made, tmp_path, change, says):
    folder = tmp_path / "lora"
    shutil.copytree(made["lora"], folder)
    change(folder)
    base = loading.load_summarizer(str(made["t5"]))
    with pytest.raises(UserError) as error:
        adapters.load_adapter(base, str(folder))
    one_line(error, str(folder), says)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: tiny.t5(root / "wide", d_model=64), "has size 64 at decoder.block.0"),
        (lambda root: tiny.t5(root / "deep", layers=3), "which the base does not have"),
        (lambda root: tiny.t5(root / "shallow", layers=1), "lacks 12 tensors"),
        (lambda root: tiny.bart(root / "bart"), "which the base does not have"),
    ],
    ids=["wider", "deeper", "shallower", "other architecture"],
)
def test_adapter_for_another_base(made, tmp_path, make, says):
    other = make(tmp_path)
    targets = ("q_proj", "v_proj") if other.name == "bart" else ("q", "v")
    folder = tiny.lora(tmp_path / "lora", other, targets=targets, name="someone/other-base")
    with pytest.raises(UserError) as error:
        adapters.load_adapter(loading.load_summarizer(str(made["t5"])), str(folder))
    one_line(error, str(folder), says)
    assert "trained on someone/other-base: take that" in str(error.value)


def test_real_dora_bias_and_saved_modules(made, tmp_path):
    base = loading.load_summarizer(str(made["t5"]))
    for index, options in enumerate(({"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"})):
        folder = tiny.lora(tmp_path / str(index), made["t5"], **options)
        with pytest.raises(UserError, match="train a plain LoRA"):
            adapters.load_adapter(base, str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_config_cannot_ask_for_code(made, tmp_path, key):
    """transformers would fetch compiled kernels from the repository that the config names, and run them."""
    folder = tmp_path / "model"
    shutil.copytree(made["t5"], folder)
    rewrite(folder, "config.json", **{key: "someone/kernel"})
    assert loading.load_summarizer(str(folder)).config._attn_implementation in ("sdpa", "eager")


def test_code_of_a_folder_is_not_run(made, tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(made["t5"], folder)
    rewrite(folder, "config.json", model_type="custom", auto_map={"AutoConfig": "code.Config"})
    (folder / "code.py").write_text("raise SystemExit('code of the model was run')\n")
    with pytest.raises(UserError) as error:
        loading.load_summarizer(str(folder))
    one_line(error, "never run")


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("demo:nothing", None, "no such embedded model"),
        ("demo:../models", None, "no such embedded model"),
        ("./nowhere", None, "no such folder"),
        ("/nowhere/model", None, "no such folder"),
        ("a/b/c", None, "no such folder"),
        ("{file}", None, "a file"),
        ("{folder}", "main", "has no revision"),
    ],
)
def test_refused_names(made, tmp_path, name, revision, says):
    (tmp_path / "file").touch()
    name = name.format(file=tmp_path / "file", folder=made["t5"])
    with pytest.raises(UserError) as error:
        tokenizers.load_tokenizer(name, revision)
    one_line(error, name, says)


@pytest.mark.parametrize(
    ("settings", "encoder", "decoder"),
    [
        ({"model_type": "t5", "n_positions": 512}, None, None),  # relative: what it was trained with, not a limit
        ({"max_position_embeddings": 50}, 50, 50),
        ({"max_encoder_position_embeddings": 160, "max_decoder_position_embeddings": 10}, 160, 10),
        (
            {
                "model_type": "encoder-decoder",
                "encoder": {"model_type": "bert", "max_position_embeddings": 512},
                "decoder": {"model_type": "xlm-roberta", "max_position_embeddings": 514},
            },
            512,
            512,
        ),
    ],
)
def test_positions_of_encoder_and_decoder(tmp_path, settings, encoder, decoder):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    found = [loading.positions(str(tmp_path), None, part) for part in ("encoder", "decoder")]
    assert found == [encoder, decoder]
