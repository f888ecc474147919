"""Tiny models and tokenizers with the file layouts of their big namesakes on the hub, written in a moment."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = (
    "the a and to is of in you he she it that was for on are with as they at be this have from or had "
    "by not but what all were when we there can your which said if do will each about how up out them "
    "then many some so these would other into has more her two like him see time could no make than "
    "first been its who now people my made over did down only way find use may long little very after "
    "words called just where most know get through back much before go good new write our me man too "
    "any day same right look think also around another came come work three word must because does part "
    "even place well such here take why things help put years different away again off went old number "
    "great tell men say small every found still between name should home big give air Summarize "
    "following conversation Summary Person1 Person2 wants talks asks idiot fool stupid rude clown "
    "insult"
).split()
CHARACTERS = [chr(code) for code in range(33, 127)]

FLAN_T5 = "google/flan-t5-base"
REWARD = "facebook/roberta-hate-speech-dynabench-r4-target"
JUDGE = "unitary/toxic-bert"
ADAPTER = "someone/flan-t5-base-dialogsum-lora"
DIALOGSUM = "knkarthick/dialogsum"


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, as users do."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def start_world(root: Path, *, train: int, validation: int, test: int) -> Path:
    """Write what a run starts from, under names that flags can have: `t5`, `lora`, `reward`, `dialogues`."""
    t5(root / "t5")
    lora(root / "lora", root / "t5")
    classifier(root / "reward")
    dialogsum(root / "dialogues", train=train, validation=validation, test=test)
    return root


def t5(
    folder: Path,
    *,
    gated: bool = True,
    tied: bool = False,
    seed: int = 0,
    d_model: int = 32,
    layers: int = 2,
    heads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a T5 with its tokenizer.

    Args:
        folder: is made.
        gated: gated-gelu as in v1.1 and Flan; else relu as in v1.0.
        tied: the head is the embedding, and outputs are scaled (v1.0); else a head of its own (v1.1, Flan).
        dtype: of the weights in the file.
    """
    size = _t5_tokenizer(folder)
    config = T5Config(
        vocab_size=-(-size // 64) * 64,
        d_model=d_model,
        d_kv=d_model // heads,
        d_ff=2 * d_model,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu" if gated else "relu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=32,
        dropout_rate=0.1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" and not name.endswith("embed_tokens.weight")
    }
    if not tied:
        tensors["lm_head.weight"] = torch.randn(config.vocab_size, d_model) * d_model**-0.5
    _save_weights(folder, tensors, dtype)
    _write(
        folder / "config.json",
        {
            "architectures": ["T5ForConditionalGeneration"],
            "d_ff": config.d_ff,
            "d_kv": config.d_kv,
            "d_model": d_model,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.1,
            "eos_token_id": 1,
            "feed_forward_proj": config.feed_forward_proj,
            "initializer_factor": 1.0,
            "is_encoder_decoder": True,
            "layer_norm_epsilon": 1e-06,
            "model_type": "t5",
            "n_positions": 512,
            "num_decoder_layers": layers,
            "num_heads": heads,
            "num_layers": layers,
            "output_past": True,
            "pad_token_id": 0,
            "relative_attention_max_distance": 32,
            "relative_attention_num_buckets": 8,
            "tie_word_embeddings": tied,
            "transformers_version": "4.23.1",
            "use_cache": True,
            "vocab_size": config.vocab_size,
        },
    )
    _write(
        folder / "generation_config.json",
        {"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    )
    return folder


def bart(folder: Path, *, seed: int = 0, d_model: int = 32, layers: int = 2) -> Path:
    """Write a BART with its byte-level tokenizer."""
    size = _roberta_tokenizer(folder, max_length=128)
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=size,
        d_model=d_model,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * d_model,
        decoder_ffn_dim=2 * d_model,
        max_position_embeddings=128,
        init_std=0.3,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


def other(folder: Path, kind: str, *, seed: int = 0, **changes: object) -> Path:
    """Write an encoder-decoder of another kind than T5 or BART, with a byte-level tokenizer.

    Args:
        kind: Pegasus, MBart, LED, BlenderbotSmall, LongT5, SwitchTransformers, T5Gemma, ProphetNet or bert2bert.
        changes: of its settings; None takes one out of its config.json.
    """
    size = _roberta_tokenizer(folder, max_length=120)
    ids = dict(vocab_size=size, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    torch.manual_seed(seed)
    if kind == "bert2bert":
        part = dict(vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        decoder = BertConfig(**part, is_decoder=True, add_cross_attention=True)
        model = EncoderDecoderModel(encoder=BertModel(BertConfig(**part)), decoder=BertLMHeadModel(decoder))
        model.config.pad_token_id, model.config.eos_token_id, model.config.decoder_start_token_id = 1, 2, 0
    else:
        bart = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, init_std=0.3)
        bart |= dict(decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, decoder_start_token_id=2)
        t5 = dict(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=1)
        gemma = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
        gemma |= dict(num_key_value_heads=1, **ids)
        prophet = dict(hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_encoder_attention_heads=2)
        prophet |= dict(
            num_decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=130
        )
        positions = dict(
            max_encoder_position_embeddings=128, max_decoder_position_embeddings=128, attention_window=[16]
        )
        experts = dict(num_decoder_layers=2, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=2)
        settings = {
            "LED": bart | positions,
            "LongT5": t5,
            "SwitchTransformers": t5 | experts,
            "T5Gemma": dict(encoder=dict(gemma), decoder=gemma | {"cross_attention_hidden_size": 16}),
            "ProphetNet": prophet | {"decoder_start_token_id": 0},
        }.get(kind, bart | {"max_position_embeddings": 130})
        settings = getattr(transformers, f"{kind}Config")(
            **ids | settings | {k: v for k, v in changes.items() if v is not None}
        )
        model = getattr(transformers, f"{kind}ForConditionalGeneration")(settings)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    _write(folder / "config.json", {key: value for key, value in content.items() if value is not None})
    return folder


def causal(folder: Path, *, seed: int = 0) -> Path:
    """Write a decoder-only model with its tokenizer."""
    size = _roberta_tokenizer(folder, max_length=64)
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def classifier(
    folder: Path,
    labels: Sequence[str] = ("nothate", "hate"),
    *,
    seed: int = 0,
    problem_type: str | None = None,
    positions: int = 130,
    max_length: int | None = None,
) -> Path:
    """Write a RoBERTa classifier with its byte-level tokenizer; its logits spread over several units.

    Args:
        folder: is made.
        labels: names by index.
        problem_type: `multi_label_classification` makes transformers' pipeline take sigmoids.
        positions: rows of the position embedding, two more than the tokens that it takes.
        max_length: the tokenizer's own limit; the model's unless given.
    """
    size = _roberta_tokenizer(folder, max_length or positions - 2)
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        type_vocab_size=1,
        initializer_range=0.3,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=problem_type,
    )
    model = RobertaForSequenceClassification(config)
    _save_weights(folder, model.state_dict(), torch.float32)
    settings = config.to_dict() | {"architectures": ["RobertaForSequenceClassification"]}
    _write(folder / "config.json", {key: value for key, value in settings.items() if value is not None})
    return folder


def bert_classifier(
    folder: Path, labels: Sequence[str] = ("toxic", "severe_toxic", "obscene"), *, seed: int = 0
) -> Path:
    """Write a BERT whose labels are independent, with its vocabulary of word pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *CHARACTERS,
        *(f"##{mark}" for mark in CHARACTERS),
    ]
    pieces += sorted({word.lower() for word in WORDS} - set(CHARACTERS))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    special |= {"mask_token": "[MASK]"}
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", special | {"do_lower_case": True, "model_max_length": 512})
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="multi_label_classification",
    )
    _save_weights(folder, BertForSequenceClassification(config).state_dict(), torch.float32)
    settings = config.to_dict() | {"architectures": ["BertForSequenceClassification"]}
    _write(folder / "config.json", {key: value for key, value in settings.items() if value is not None})
    return folder


def lora(
    folder: Path,
    base: Path | PreTrainedModel,
    *,
    r: int = 4,
    alpha: int = 8,
    targets: Sequence[str] = ("q", "v"),
    seed: int = 0,
    scale: float = 0.05,
    name: str | None = None,
    **options: object,
) -> Path:
    """Write a LoRA adapter, as if trained: its B is not zero.

    Args:
        folder: is made.
        base: folder of the base, or the base itself (which is not changed).
        scale: standard deviation of B.
        name: base name to record in place of the folder's.
        options: more of `LoraConfig`, such as `use_dora`.
    """
    from peft import LoraConfig, get_peft_model

    if isinstance(base, PreTrainedModel):
        model = type(base)(base.config)
    else:
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(base))
    torch.manual_seed(seed)
    settings = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        r=r,
        lora_alpha=alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
        **options,
    )
    get_peft_model(model, settings).save_pretrained(folder)
    trained_on = name or (str(base) if isinstance(base, Path) else "base")
    description = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _write(folder / "adapter_config.json", description | {"base_model_name_or_path": trained_on})
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    generator = torch.Generator().manual_seed(seed)
    for key in sorted(tensors):
        if "lora_B" in key:
            tensors[key] = torch.randn(tensors[key].shape, generator=generator) * scale
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def pickled(folder: Path, stem: str = "model", shards: int = 1) -> Path:
    """Put the weights of a folder into pickles, as `torch.save` wrote them before safetensors; return the folder."""
    weights = folder / f"{stem}.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    name = "adapter_model" if stem == "adapter_model" else "pytorch_model"
    if shards == 1:
        torch.save(OrderedDict(tensors), folder / f"{name}.bin")
        return folder
    files = [f"{name}-{number + 1:05d}-of-{shards:05d}.bin" for number in range(shards)]
    places = {key: files[number % shards] for number, key in enumerate(sorted(tensors))}
    for file in files:
        torch.save({key: tensor for key, tensor in tensors.items() if places[key] == file}, folder / file)
    _write(folder / f"{name}.bin.index.json", {"metadata": {}, "weight_map": places})
    return folder


def pickled_lora(folder: Path, base: Path, **options: object) -> Path:
    """Write a LoRA as PEFT 0.3 did: a pickle and the twelve settings that it knew."""
    lora(folder, base, **options)
    kept = (
        "base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights lora_alpha lora_dropout "
        "modules_to_save peft_type r target_modules task_type"
    ).split()
    description = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _write(folder / "adapter_config.json", {key: description[key] for key in kept})
    (folder / "README.md").unlink(missing_ok=True)
    return pickled(folder, "adapter_model")


def dialogsum(folder: Path, *, train: int = 48, validation: int = 12, test: int = 12, seed: int = 0) -> Path:
    """Write a dataset in the layout of `knkarthick/dialogsum`: CSV, three rows a dialogue in test."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def sentence(words: int) -> str:
        return " ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (words,), generator=generator)) + "."

    for split, dialogues in (("train", train), ("validation", validation), ("test", test)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "dialogue", "summary", "topic"])
            for number in range(dialogues):
                turns = 2 + int(torch.randint(4, (1,), generator=generator))
                dialogue = "\n".join(f"#Person{1 + turn % 2}#: {sentence(6)}" for turn in range(turns))
                references = 3 if split == "test" else 1
                for reference in range(references):
                    suffix = f"_{reference + 1}" if references > 1 else ""
                    rows.writerow([f"{split}_{number}{suffix}", dialogue, sentence(8), sentence(2).rstrip(".")])
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\nlanguage:\n- en\n---\n# Dialogues\n")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    return folder


TASKS = {
    "summarization": {
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 200,
        "min_length": 30,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "prefix": "summarize: ",
    },
    "translation_en_to_de": {
        "early_stopping": True,
        "max_length": 300,
        "num_beams": 4,
        "prefix": "translate English to German: ",
    },
}
"""What T5's config.json holds besides: habits of generation, which are not those of this job."""


def hub(root: Path) -> Path:
    """Write what the default preset takes from the hub, under its real names and in its real layouts, and an adapter.

    Layout: `models/<owner>/<name>/…` and `datasets/<owner>/<name>/…`.
    """
    base = t5(root / "models" / FLAN_T5)
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))
    _write(base / "config.json", settings | {"task_specific_params": TASKS})
    pickled_lora(root / "models" / ADAPTER, base, name=FLAN_T5)
    reward = classifier(root / "models" / REWARD, ("nothate", "hate"), positions=514)
    judge = bert_classifier(root / "models" / JUDGE, seed=1)
    for folder in (reward, judge):  # vocabulary alone, and the weights a second time, as a pickle
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            (folder / file).unlink()
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    with_quirks(dialogsum(root / "datasets" / DIALOGSUM))
    return root


def with_quirks(folder: Path) -> Path:
    """Give a DialogSum what the real one has: a dialogue that occurs twice, a fourth summary, a prompt too long."""
    for split, source, changes in (
        ("train", 0, {"id": "train_again"}),
        ("train", 1, {"id": "train_long", "dialogue": "#Person1#: " + "the people talk " * 300}),
        ("test", 0, {"id": "test_0_4", "summary": "The fourth of them."}),
    ):
        file = folder / f"{split}.csv"
        with file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        with file.open("a", newline="", encoding="utf-8") as opened:
            csv.DictWriter(opened, [*rows[0]]).writerow(rows[source] | changes)
    return folder


# ------------------------------------------------------------------------------------------------- tokenizers


def _t5_tokenizer(folder: Path) -> int:
    """Write a unigram tokenizer in T5's layout; return its size. Text comes back but for line breaks."""
    extra = [f"<extra_id_{index}>" for index in range(99, -1, -1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -5.0 - 0.01 * rank) for rank, word in enumerate(WORDS)]
    pieces += [(character, -8.0) for character in CHARACTERS]
    size = len(pieces) + len(extra)
    tokenizer = Tokenizer(Unigram([*pieces, *((token, 0.0) for token in extra)], unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", *extra])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    special = {
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": extra[::-1],
    }
    _write(folder / "special_tokens_map.json", special)
    settings = {
        "extra_ids": 100,
        "model_max_length": 512,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    }
    _write(folder / "tokenizer_config.json", special | settings)
    return size


def _roberta_tokenizer(folder: Path, max_length: int) -> int:
    """Write a byte-level tokenizer in RoBERTa's layout (vocab.json, merges.txt); return its size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    merges: list[str] = []
    for word in WORDS:
        left = "Ġ"
        for character in word:
            merge, left = f"{left} {character}", left + character
            if left not in tokens:
                tokens.append(left)
                merges.append(merge)
    tokens.append("<mask>")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges])  # raises where merges and tokens do not agree
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
    _write(folder / "special_tokens_map.json", special)
    settings = {
        "add_prefix_space": False,
        "model_max_length": max_length,
        "tokenizer_class": "RobertaTokenizer",
    }
    _write(folder / "tokenizer_config.json", special | settings)
    return len(tokens)


def sentencepiece(folder: Path, name: str = "spiece.model") -> Path:
    """Put a sentencepiece model in the place of a folder's tokenizer, as T5's and DeBERTa's repositories hold one."""
    import sentencepiece

    for file in ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    made = io.BytesIO()
    texts = [" ".join(WORDS[start : start + 9]) for start in range(len(WORDS))]
    special = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    if name == "spm.model":
        special = dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]")
        special |= dict(unk_piece="[UNK]", user_defined_symbols=["[MASK]"])
    if name == "sentencepiece.bpe.model":
        special = dict(pad_id=-1, bos_id=1, eos_id=2, unk_id=0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=made, vocab_size=200, minloglevel=2, **special
    )
    (folder / name).write_bytes(made.getvalue())
    return folder


def _save_weights(folder: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    contiguous = {name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
