"""Trains the demo models: `python -m detox.demo.build` made every weight in detox/demo/models."""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rouge_score import rouge_scorer
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from config import PROMPT
from detox.demo import corpus, scenes
from detox.demo.sentences import Sentence, sentences, summary_sentences, swap_insults

FOLDER = Path(__file__).parent / "models"
PARTS = ("base", "lora", "reward", "judge", "card")
SEED = 1
RETELL = "Retell the following conversation.\n\n{dialogue}\n\nStory: "  # the base's second task
BASE_DIALOGUES, BASE_STEPS = 96_000, 7_500
RETELL_DIALOGUES, RETELL_STEPS = 32_000, 1_200
LORA_DIALOGUES, LORA_STEPS = 16_000, 1_000
CLASSIFIER_SENTENCES, CLASSIFIER_STEPS = 64_000, 3_000
TEST_SEED, TEST_DIALOGUES, TEST_SENTENCES = 11, 400, 2_000

Rows = list[dict[str, str]]
Pair = tuple[list[int], list[int]]


# ---- the summarizer


def train_summarizer_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer of 1,280 tokens that joins white space, as T5's does."""
    texts: list[str] = [PROMPT]
    for register in corpus.REGISTERS:
        for row in corpus.generate(SEED, 8_000, 0, 0, register)["train"]:
            texts += [row["dialogue"], row["summary"]]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    # Letters apart from punctuation, so that "Anna," and "Anna." share a token and a name is copied as one.
    pieces = pre_tokenizers.Split(Regex(r"▁?#Person\d#|▁?[A-Za-z]+|[^A-Za-z▁]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pieces])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=1_280,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=512, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def encode_pairs(tokenizer: PreTrainedTokenizerBase, rows: Rows, prompt: str = PROMPT) -> list[Pair]:
    """Tokenize prompts and summaries, both with </s> at the end."""
    prompts = tokenizer([prompt.format(dialogue=row["dialogue"]) for row in rows])["input_ids"]
    summaries = tokenizer([row["summary"] for row in rows])["input_ids"]
    return list(zip(prompts, summaries))


def pad(sequences: list[list[int]], value: int) -> Tensor:
    """Pad lists of ids on the right to one int64 tensor [B, S]."""
    width = max(map(len, sequences))
    return torch.tensor([sequence + [value] * (width - len(sequence)) for sequence in sequences])


def pair_batches(pairs: list[Pair], size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield shuffled batches of similar prompt length for ever."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(pairs, len(pairs))
        for start in range(0, len(order), 32 * size):
            window = sorted(order[start : start + 32 * size], key=lambda pair: len(pair[0]))
            chunks = [window[i : i + size] for i in range(0, len(window), size)]
            for chunk in rng.sample(chunks, len(chunks)):
                prompts, summaries = zip(*chunk)
                input_ids = pad(list(prompts), 0)
                yield {
                    "input_ids": input_ids,
                    "attention_mask": (input_ids != 0).long(),
                    "labels": pad(list(summaries), -100),
                }


def fit(
    name: str,
    model: torch.nn.Module,
    batches: Iterator[dict[str, Tensor]],
    loss_of: Callable[[dict[str, Tensor]], Tensor],
    steps: int,
    rate: float,
    decay: float = 0.0,
) -> None:
    """Train with AdamW, a short warm-up and a cosine decay to zero, and print a progress line every 5%."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=decay)
    warmup = min(200, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (steps - warmup))),
    )
    model.train()
    started, total, count = time.perf_counter(), 0.0, 0
    for step in range(1, steps + 1):
        loss = loss_of(next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total, count = total + loss.item(), count + 1
        if step % max(1, steps // 20) == 0 or step == steps:
            seconds = time.perf_counter() - started
            print(f"{name}: step {step}/{steps}, loss {total / count:.3f}, {seconds:.0f} s", flush=True)
            total, count = 0.0, 0
    model.eval()


def build_base(folder: Path, steps: int = BASE_STEPS) -> None:
    """Train the base summarizer, which writes past-tense reports unless it is asked to retell."""
    tokenizer = train_summarizer_tokenizer()
    torch.manual_seed(SEED)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=96,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        relative_attention_num_buckets=32,
        pad_token_id=0,
        eos_token_id=1,
    )
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    rows = corpus.generate(SEED, BASE_DIALOGUES, 0, 0, "past")["train"]
    batches = pair_batches(encode_pairs(tokenizer, swap_insults(rows, 0.5, SEED)), 32, SEED)
    fit("base", model, batches, lambda batch: model(**batch).loss, steps, 3e-3)
    learn_to_retell(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn_to_retell(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Go on with a quarter of the prompts asking for the present tense.

    The head is tied to the embedding. A verb form that never was a target ends up where no low-rank change
    of the
    hidden states reaches it, so without this the supervised LoRA checkpoint samples badly.
    """
    past = corpus.generate(SEED + 4, RETELL_DIALOGUES * 3 // 4, 0, 0, "past")["train"]
    present = corpus.generate(SEED + 5, RETELL_DIALOGUES // 4, 0, 0)["train"]
    pairs = encode_pairs(tokenizer, swap_insults(past, 0.5, SEED + 4))
    pairs += encode_pairs(tokenizer, swap_insults(present, 0.5, SEED + 5), RETELL)
    batches = pair_batches(pairs, 32, SEED + 4)
    fit("base, second task", model, batches, lambda batch: model(**batch).loss, RETELL_STEPS, 1.5e-3)


def build_lora(folder: Path, base: Path, steps: int = LORA_STEPS) -> None:
    """Train the supervised LoRA checkpoint, which turns the base's reports to DialogSum's present tense."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(SEED + 1)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
        task_type="SEQ_2_SEQ_LM",
    )
    model = get_peft_model(T5ForConditionalGeneration.from_pretrained(base), config)
    rows = corpus.generate(SEED + 1, LORA_DIALOGUES, 0, 0)["train"]
    batches = pair_batches(encode_pairs(tokenizer, swap_insults(rows, 0.5, SEED + 1)), 32, SEED + 1)
    fit("lora", model, batches, lambda batch: model(**batch).loss, steps, 3e-3)
    model.peft_config["default"].base_model_name_or_path = "demo:base"
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form


# ---- the classifiers


def train_reward_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train RoBERTa's kind of tokenizer: byte-pair merges over bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1_600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", mask_token="<mask>", model_max_length=160,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def train_judge_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train BERT's kind of tokenizer: lower-cased word pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1_200, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        unk_token="[UNK]", mask_token="[MASK]", model_max_length=160,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def build_reward(folder: Path) -> None:
    """Train the reward model, a RoBERTa with the labels of the hub's hate-speech classifier."""
    labelled = sentences("reward", SEED + 2, CLASSIFIER_SENTENCES)
    tokenizer = train_reward_tokenizer([sentence.text for sentence in labelled])
    torch.manual_seed(SEED + 2)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=288,
        max_position_embeddings=162,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
    )
    train_classifier("reward", RobertaForSequenceClassification(config), tokenizer, labelled, folder)


def build_judge(folder: Path) -> None:
    """Train the judge: another architecture, tokenizer, seed, sentence forms and paraphrases."""
    labelled = sentences("judge", SEED + 3, CLASSIFIER_SENTENCES)
    tokenizer = train_judge_tokenizer([sentence.text for sentence in labelled])
    torch.manual_seed(SEED + 3)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=80,
        n_layers=2,
        n_heads=4,
        hidden_dim=240,
        max_position_embeddings=160,
        pad_token_id=0,
        seq_classif_dropout=0.1,
        id2label={0: "neutral", 1: "toxic"},
        label2id={"neutral": 0, "toxic": 1},
    )
    train_classifier("judge", DistilBertForSequenceClassification(config), tokenizer, labelled, folder)


def train_classifier(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    labelled: list[Sentence],
    folder: Path,
) -> None:
    """Train on soft targets, which keep the logits in a range where a reward still has a slope."""
    # A garbled text is not toxic, but it must not be the best way to a high reward either.
    soft = {"garbled": 0.10}
    targets = [0.99 if one.toxic else soft.get(one.kind, 0.01) for one in labelled]
    examples = list(zip(tokenizer([one.text for one in labelled], truncation=True)["input_ids"], targets))

    def loss_of(batch: dict[str, Tensor]) -> Tensor:
        target = batch.pop("target")
        return torch.nn.functional.cross_entropy(model(**batch).logits, torch.stack([1 - target, target], dim=1))

    batches = text_batches(examples, tokenizer.pad_token_id, 64, SEED)
    fit(name, model, batches, loss_of, CLASSIFIER_STEPS, 1e-3, decay=0.01)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def text_batches(
    examples: list[tuple[list[int], float]], pad_id: int, size: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield shuffled batches of similar text length for ever."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(examples, len(examples))
        for start in range(0, len(order), 32 * size):
            window = sorted(order[start : start + 32 * size], key=lambda example: len(example[0]))
            chunks = [window[i : i + size] for i in range(0, len(window), size)]
            for chunk in rng.sample(chunks, len(chunks)):
                texts, targets = zip(*chunk)
                input_ids = pad(list(texts), pad_id)
                yield {
                    "input_ids": input_ids,
                    "attention_mask": (input_ids != pad_id).long(),
                    "target": torch.tensor(targets),
                }


# ---- measurements


@torch.no_grad()
def summarize(folder: Path, dialogues: list[str], sample: bool, seed: int = 0, adapter: bool = True) -> list[str]:
    """Summarize dialogues with the base and the supervised LoRA checkpoint of a folder.

    Args:
        folder: holds `base` and `lora`.
        dialogues: the texts.
        sample: draw from the full distribution instead of taking the likeliest token.
        seed: of the draw.
        adapter: False leaves the LoRA checkpoint out.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = T5ForConditionalGeneration.from_pretrained(folder / "base")
    if adapter:
        model = PeftModel.from_pretrained(model, folder / "lora").merge_and_unload()
    model.eval()
    torch.manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(dialogues), 50):
        prompts = [PROMPT.format(dialogue=dialogue) for dialogue in dialogues[start : start + 50]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        ids = model.generate(**batch, max_new_tokens=80, do_sample=sample, top_k=0 if sample else None)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


@torch.no_grad()
def logits_of(folder: Path, texts: list[str]) -> Tensor:
    """Return a classifier's logits [B, 2] for texts, in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    parts = []
    for start in range(0, len(texts), 100):
        batch = tokenizer(texts[start : start + 100], return_tensors="pt", padding=True, truncation=True)
        parts.append(model(**batch).logits)
    return torch.cat(parts)


def accuracy(folder: Path, labelled: list[Sentence]) -> dict[str, tuple[float, int]]:
    """Return a classifier's accuracy and the number of sentences: over all, and for each kind of sentence."""
    predicted = logits_of(folder, [one.text for one in labelled]).argmax(1).bool().tolist()
    right = [guess == one.toxic for guess, one in zip(predicted, labelled)]
    result = {"all": (float(np.mean(right)), len(right))}
    for kind in sorted({one.kind for one in labelled}):
        hits = [hit for hit, one in zip(right, labelled) if one.kind == kind]
        result[kind] = (float(np.mean(hits)), len(hits))
    return result


def rouge_l(texts: list[str], references: list[list[str]]) -> float:
    """Return the mean ROUGE-L F1 of texts against the best of their references."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    return float(np.mean([scorer.score_multi(refs, text)["rougeL"].fmeasure for text, refs in zip(texts, references)]))


def test_split(count: int) -> tuple[list[str], list[list[str]], list[dict[str, str]]]:
    """Return test dialogues, their references and the rows they come from."""
    rows = corpus.generate(TEST_SEED, 0, 0, count)["test"]
    dialogues = [row["dialogue"] for row in rows[::3]]
    return dialogues, [[row["summary"] for row in rows[i : i + 3]] for i in range(0, len(rows), 3)], rows


def measure(folder: Path) -> dict[str, str]:
    """Measure the models on dialogues and sentences that none was trained on, as lines for the card."""
    dialogues, references, rows = test_split(TEST_DIALOGUES)
    civil = [[text for text in refs if not corpus.insults_in(text)] for refs in references]
    heated = [bool(corpus.insults_in(dialogue)) for dialogue in dialogues]
    held_out = [bool(corpus.insults_in(dialogue, corpus.HELD_OUT_INSULTS)) for dialogue in dialogues]
    references_rude = [bool(corpus.insults_in(refs[0])) for refs in references]
    bare = summarize(folder, dialogues, sample=False, adapter=False)
    results = {
        "Dialogues with an insult; with a held-out insult": f"{np.mean(heated):.3f}; {np.mean(held_out):.3f}",
        "First target summaries with an insult": f"{np.mean(references_rude):.3f}",
        "ROUGE-L, bare base, greedy": f"{rouge_l(bare, references):.3f}",
    }
    for name, sample in (("greedy", False), ("sampled", True)):
        texts = summarize(folder, dialogues, sample)
        hate = logits_of(folder / "reward", texts).softmax(1)[:, 1]
        toxic = logits_of(folder / "judge", texts).softmax(1)[:, 1]
        rude = [bool(corpus.insults_in(text)) for text in texts]
        new = [bool(corpus.insults_in(text, corpus.HELD_OUT_INSULTS)) for text in texts]
        results |= {
            f"ROUGE-L, base + LoRA, {name}": f"{rouge_l(texts, references):.3f}",
            f"ROUGE-L against the civil target summaries alone, {name}": f"{rouge_l(texts, civil):.3f}",
            f"Reward model's P(hate), {name}: mean, std": f"{hate.mean():.3f}, {hate.std():.3f}",
            f"Judge's P(toxic), {name}: mean, std": f"{toxic.mean():.3f}, {toxic.std():.3f}",
            f"Insult in the summary; a held-out one, {name}": f"{np.mean(rude):.3f}; {np.mean(new):.3f}",
        }
    labelled = sentences("held-out", TEST_SEED, TEST_SENTENCES)
    for name in ("reward", "judge"):
        for kind, (share, count) in accuracy(folder / name, labelled).items():
            results[f"{name.capitalize()}, accuracy, held-out forms, {kind}"] = f"{share:.3f} (n = {count})"
        for kind, (share, count) in accuracy(folder / name, summary_sentences(rows)).items():
            results[f"{name.capitalize()}, accuracy, target summaries, {kind}"] = f"{share:.3f} (n = {count})"
        logits = logits_of(folder / name, [one.text for one in labelled])
        results[f"{name.capitalize()}, range of the logits"] = f"{logits.min():.1f} to {logits.max():.1f}"
    return results


# ---- card, command line

CARD = """# The demo models

Four small models that this project trained from nothing on its own generated dialogues
(`detox/demo/corpus.py`), so that the whole pipeline runs offline on two CPU cores. The weights are
safetensors; the folders load with plain `transformers` and `peft`.

| Folder | What it is | Parameters | Megabytes |
|---|---|---|---|
| `base` | T5 v1.1 (gated-gelu, tied head): **past-tense** reports | {base_n:,} | {base_mb:.2f} |
| `lora` | PEFT adapter on `base` (r = 8): DialogSum's **present tense** | {lora_n:,} | {lora_mb:.2f} |
| `reward` | reward model: RoBERTa, byte-level, `nothate` / `hate` | {reward_n:,} | {reward_mb:.2f} |
| `judge` | judge: DistilBERT, word pieces, `neutral` / `toxic` | {judge_n:,} | {judge_mb:.2f} |
| together | | {all_n:,} | {all_mb:.2f} |

Sizes are those of the whole folder, tokenizers included.

## Data

- `base`: {base_dialogues:,} generated dialogues with past-tense summaries, seed {seed}, {base_steps:,}
  steps of 32. In half of those with an insult, the insult is replaced by a made-up word, so that the model
  copies rather than recites. Then {retell_steps:,} steps with {retell_dialogues:,} more dialogues, a
  quarter of them with the instruction "Retell the following conversation." and a present-tense summary, so
  that the verb forms of both tenses are known.
- `lora`: {lora_dialogues:,} other dialogues with present-tense summaries, seed {lora_seed}, {lora_steps:,}
  steps of 32.
- `reward` and `judge`: {sentences:,} generated sentences each, {classifier_steps:,} steps of 64
  (`detox/demo/sentences.py`): pieces of corpus dialogues and summaries in both tenses, insults with real
  and made-up words, insulting paraphrases, praise in the same forms, quarrels without an insult, benign
  mentions of identity groups, cut-off and garbled texts. They differ in seed, architecture, tokenizer,
  sentence forms and paraphrases. The judge knows the insults that are held out for the test split; the
  reward model has never seen them.

Targets are soft (0.99, and 0.90 for garbled texts), which keeps the logits small.

## Held-out results

n = {test_dialogues} dialogues of the test split (seed {test_seed}; three target summaries each) and
{test_sentences:,} sentences whose forms no model was trained on; greedy, and sampled once from the full
distribution at temperature 1. ROUGE-L is rouge-score's F1 with stemming against the best of the target summaries.
Measured on {machine}.

| Measure | Value |
|---|---|
{results}

"seen" and "unseen" are sentences with an insult that occurs in the training split, or only in the test
split. The recipe of the classifiers was adjusted with the held-out sentences in view (forms, counts of words
that were missed), so their figures are on the optimistic side. Reward model and judge share the lists of
names, of praise and of the training split's insults.

## What they are not

They know the {scenes} scenes, the names and the insults of the generator, and nothing else: they cannot
summarize real dialogues, and the classifiers are no hate-speech detectors. They detect name-calling, mild
and aimed at no group; an unknown word in the place of a name to call somebody counts as an insult for them.
Figures measured with them say that the pipeline works, not how it does on Flan-T5 and DialogSum.

## How they were made

`make demo-models`, that is `python -m detox.demo.build`, on one core and with no network; it writes this
card, too. The same machine type and library versions give the same weights; others give slightly different
ones.
"""


def write_card(folder: Path) -> None:
    """Measure the models of a folder and write their card."""
    values: dict[str, float] = {"all_n": 0, "all_mb": 0.0}
    for name in ("base", "lora", "reward", "judge"):
        files = [file for file in (folder / name).iterdir() if file.is_file()]
        weights = load_file(next(file for file in files if file.suffix == ".safetensors"))
        values[f"{name}_n"] = sum(tensor.numel() for tensor in weights.values())
        values[f"{name}_mb"] = sum(file.stat().st_size for file in files) / 1e6
        values["all_n"] += values[f"{name}_n"]
        values["all_mb"] += values[f"{name}_mb"]
    results = measure(folder)
    for key, value in results.items():
        print(f"card: {key}: {value}", flush=True)
    card = CARD.format(
        **values,
        results="\n".join(f"| {key} | {value} |" for key, value in results.items()),
        base_dialogues=BASE_DIALOGUES,
        base_steps=BASE_STEPS,
        retell_dialogues=RETELL_DIALOGUES,
        retell_steps=RETELL_STEPS,
        lora_dialogues=LORA_DIALOGUES,
        lora_steps=LORA_STEPS,
        lora_seed=SEED + 1,
        seed=SEED,
        sentences=CLASSIFIER_SENTENCES,
        classifier_steps=CLASSIFIER_STEPS,
        test_dialogues=TEST_DIALOGUES,
        test_seed=TEST_SEED,
        test_sentences=TEST_SENTENCES,
        scenes=len(scenes.SCENES),
        machine=f"one core, {platform.system()} {platform.machine()}, torch {torch.__version__}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def publish(folder: Path, name: str, build: Callable[[Path], None]) -> None:
    """Build into a temporary folder and put it in its place in one move."""
    temporary, old = folder / f".{name}.tmp", folder / f".{name}.old"
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    build(temporary)
    for file in temporary.iterdir():
        file.chmod(0o644)
    if (folder / name).exists():
        os.rename(folder / name, old)
    os.rename(temporary, folder / name)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Build the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m detox.demo.build", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="build these parts (default: all)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the models (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="cores to use; the weights shipped were made with 1")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.disable_progress_bar()
    builders = {
        "base": build_base,
        "lora": lambda folder: build_lora(folder, arguments.output / "base"),
        "reward": build_reward,
        "judge": build_judge,
    }
    started = time.perf_counter()
    for part in PARTS:
        if part not in arguments.only:
            continue
        begun = time.perf_counter()
        if part == "card":
            write_card(arguments.output)
        else:
            publish(arguments.output, part, builders[part])
        print(f"{part}: done in {time.perf_counter() - begun:.0f} s", flush=True)
    print(f"total: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
