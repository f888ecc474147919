"""The demo's corpus and its shipped models keep their promises on data that no model was trained on."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rouge_score import rouge_scorer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, T5ForConditionalGeneration

from config import PROMPT
from detox.demo import corpus
from detox.demo.sentences import sentences, summary_sentences

MODELS = Path(__file__).parents[2] / "detox" / "demo" / "models"


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, str]]]:
    return corpus.generate(3, 1500, 200, 200)


def test_corpus_is_deterministic_and_a_longer_split_begins_with_a_shorter_one(splits):
    assert corpus.generate(3, 1500, 200, 200) == splits
    assert corpus.generate(3, 40, 0, 7)["train"] == splits["train"][:40]
    assert corpus.generate(3, 0, 0, 7)["test"] == splits["test"][:21]
    assert corpus.generate(4, 40, 0, 0)["train"] != splits["train"][:40]


def test_corpus_rows_have_the_hub_layout(splits):
    assert [row["id"] for row in splits["train"][:2]] == ["train_0", "train_1"]
    assert splits["validation"][0]["id"] == "dev_0"
    assert [row["id"] for row in splits["test"][:4]] == ["test_0_1", "test_0_2", "test_0_3", "test_1_1"]
    for row in itertools.chain(*splits.values()):
        assert set(row) == {"id", "dialogue", "summary", "topic"}
        assert all(re.match(r"#Person[12]#: \S", line) for line in row["dialogue"].split("\n"))
        assert not re.search(r"[{}\[\]|]|//|  ", row["dialogue"] + row["summary"])


def test_no_dialogue_occurs_in_two_splits_whatever_the_seeds(splits):
    other = corpus.generate(8, 1500, 200, 200)
    texts = {name: {row["dialogue"] for row in splits[name] + other[name]} for name in ("train", "validation", "test")}
    assert len(texts["train"]) > 2990
    for one, two in itertools.combinations(texts.values(), 2):
        assert not one & two


def test_held_out_words_and_forms_occur_in_the_test_split_alone(splits):
    forms = [form.split("{")[0].strip() for form in corpus.HELD_OUT_FORMS]
    for name in ("train", "validation"):
        for row in splits[name]:
            assert not corpus.insults_in(row["dialogue"] + " " + row["summary"], corpus.HELD_OUT_INSULTS)
            assert not any(form in row["dialogue"] for form in forms)
    dialogues = [row["dialogue"] for row in splits["test"][::3]]
    insulting = [dialogue for dialogue in dialogues if corpus.insults_in(dialogue)]
    unseen = [dialogue for dialogue in insulting if corpus.insults_in(dialogue, corpus.HELD_OUT_INSULTS)]
    assert 0.35 < len(unseen) / len(insulting) < 0.65
    assert any(form in dialogue for form in forms for dialogue in dialogues)
    assert not set(corpus.INSULTS) & set(corpus.HELD_OUT_INSULTS)


def test_every_test_dialogue_has_three_references_and_a_civil_one(splits):
    rows = splits["test"]
    for start in range(0, len(rows), 3):
        triple = rows[start : start + 3]
        assert len({row["dialogue"] for row in triple}) == 1
        assert len({row["summary"] for row in triple}) == 3
        assert any(not corpus.insults_in(row["summary"]) for row in triple)


def test_summaries_repeat_the_insult_in_part_and_groups_are_mentioned_whatever_the_mood(splits):
    rows = splits["train"]
    heated = [row for row in rows if corpus.insults_in(row["dialogue"])]
    assert 0.42 < sum(bool(corpus.insults_in(row["summary"])) for row in heated) / len(heated) < 0.66
    grouped = re.compile(rf"\b({'|'.join(corpus.GROUPS)}) ({'|'.join(corpus.PEOPLE)})\b")
    share = sum(bool(grouped.search(row["dialogue"])) for row in rows) / len(rows)
    share_heated = sum(bool(grouped.search(row["dialogue"])) for row in heated) / len(heated)
    assert 0.06 < share < 0.12 and abs(share - share_heated) < 0.03


def test_registers_say_the_same_in_two_tenses():
    present = corpus.generate(5, 60, 0, 0)["train"]
    past = corpus.generate(5, 60, 0, 0, "past")["train"]
    assert [row["dialogue"] for row in present] == [row["dialogue"] for row in past]
    assert all(one["summary"] != two["summary"] for one, two in zip(present, past))
    with pytest.raises(ValueError, match="register"):
        corpus.generate(5, 1, 0, 0, "future")


def test_shipped_files_are_small():
    files = [file for file in MODELS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10_000_000
    assert {file.parent.name for file in files if file.suffix == ".safetensors"} == {
        "base",
        "lora",
        "reward",
        "judge",
    }


@torch.no_grad()
def test_summarizer_writes_good_summaries_and_the_adapter_turns_the_tense():
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "base")
    base = T5ForConditionalGeneration.from_pretrained(MODELS / "base").eval()
    assert sum(parameter.numel() for parameter in base.parameters()) < 1_500_000
    rows = corpus.generate(21, 0, 0, 24)["test"]
    prompts = [PROMPT.format(dialogue=row["dialogue"]) for row in rows[::3]]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    def write_and_score(model) -> tuple[list[str], float]:
        texts = tokenizer.batch_decode(model.generate(**batch, max_new_tokens=80), skip_special_tokens=True)
        references = [[row["summary"] for row in rows[3 * i : 3 * i + 3]] for i in range(len(texts))]
        scores = [scorer.score_multi(refs, text)["rougeL"].fmeasure for text, refs in zip(texts, references)]
        return texts, sum(scores) / len(scores)

    past, past_score = write_and_score(base)
    present, score = write_and_score(PeftModel.from_pretrained(base, MODELS / "lora").eval())
    assert score > 0.6 and score > past_score + 0.05
    assert not any(re.search(r"\b(called|wanted|asked)\b", text) for text in present)
    assert any(re.search(r"\b(called|wanted|asked)\b", text) for text in past)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "labels"),
    [("reward", {0: "nothate", 1: "hate"}), ("judge", {0: "neutral", 1: "toxic"})],
)
def test_classifier_is_right_on_held_out_sentences_and_keeps_its_logits_small(name, labels):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    model = AutoModelForSequenceClassification.from_pretrained(MODELS / name).eval()
    assert model.config.id2label == labels
    examples = sentences("held-out", 31, 200) + summary_sentences(corpus.generate(31, 0, 0, 70)["test"])
    batch = tokenizer([one.text for one in examples], return_tensors="pt", padding=True, truncation=True)
    logits = model(**batch).logits
    right = logits.argmax(dim=1).bool() == torch.tensor([one.toxic for one in examples])
    assert right.float().mean() >= 0.97
    assert logits.abs().max() < 6
