"""detox.evaluation.quality against rouge-score itself, hand-counted texts, and a policy that stopped summarizing."""

from __future__ import annotations

import random
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from detox.evaluation import alarms, intervals, quality, results, two_models
from detox.evaluation.judge import disagreement
from detox.evaluation.slices import identity_mention, slices
from detox.scoring.rouge import ROUGE_TYPES, bert_score, needs_unicode, rouge, sentences
from detox.scoring.text_figures import copied, length, repetition

WORDS = (
    "the a person1 person2 meeting meets agreed running runs runner happily cancelled cancelling flights "
    "flight asks tells hotel booking booked because of problems with generously ordered U.S. don't 12.5 café "
    "naïve x"
).split()


def texts(rng, count, longest=3):
    def sentence():
        return " ".join(rng.choices(WORDS, k=rng.randint(3, 14))).capitalize() + rng.choice([".", "!", "?", "..."])

    return [" ".join(sentence() for _ in range(rng.randint(1, longest))) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------ ROUGE


def test_rouge_equals_rouge_score_exactly():
    rng = random.Random(0)
    predictions = [
        *texts(rng, 60),
        "",
        "...",
        "Ünïcode ßtraße İ",
        "One line.\nAnother line.\n\n",
        " The  end. ",
    ]
    references = [texts(rng, rng.randint(1, 3)) for _ in predictions]
    references[3] = [""]
    predictions[5] = references[5][0]
    found = rouge(predictions, references)
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    for i, (prediction, group) in enumerate(zip(predictions, references)):
        expected = scorer.score_multi([sentences(r) for r in group], sentences(prediction))
        for name in ROUGE_TYPES:
            assert found[name][i] == expected[name].fmeasure
        each = [scorer.score(sentences(r), sentences(prediction))["rougeL"].fmeasure for r in group]
        assert found["rougeL_mean"][i] == pytest.approx(np.mean(each))
    assert all(found[name][5] == 1.0 for name in ROUGE_TYPES)
    assert (found["rougeL_mean"] <= found["rougeL"] + 1e-12).all() and (found["rougeL_mean"] < found["rougeL"]).any()


def test_splitting_into_sentences_changes_rouge_lsum_alone():
    rng = random.Random(1)
    predictions, references = texts(rng, 30), texts(rng, 30)
    found = rouge(predictions, [[r] for r in references])
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    whole = [scorer.score(r, p) for p, r in zip(predictions, references)]
    for name in ("rouge1", "rouge2", "rougeL"):
        assert found[name].tolist() == [s[name].fmeasure for s in whole]
    assert found["rougeLsum"].tolist() != [s["rougeLsum"].fmeasure for s in whole]


def test_the_best_reference_counts_metric_by_metric():
    found = rouge(["the cat sat on the mat"], [["mat the on sat cat the", "the cat sat on a hill"]])
    assert found["rouge1"][0] == 1.0
    assert 0 < found["rouge2"][0] < 1


SUMMARIES = {
    "Chinese": "两人约好明天三点在公园见面。他们要去看电影。",
    "Japanese": "二人は明日三時に公園で会う約束をした。",
    "Korean": "두 사람은 내일 세 시에 공원에서 만나기로 했다.",
    "Russian": "Они договорились встретиться завтра в парке.",
    "Greek": "Συμφώνησαν να συναντηθούν αύριο στο πάρκο.",
    "Arabic": "اتفقا على اللقاء غدا في الحديقة.",
    "Hebrew": "הם קבעו להיפגש מחר בפארק.",
    "Hindi": "वे कल पार्क में मिलने के लिए सहमत हुए। वे फिल्म देखेंगे।",
    "Thai": "พวกเขาตกลงที่จะพบกันพรุ่งนี้ในสวน",
    "Georgian": "ისინი შეთანხმდნენ ხვალ შეხვედრაზე.",
    "Vietnamese": "Họ đồng ý gặp nhau vào ngày mai ở công viên.",
    "Polish": "Umówili się jutro w parku; łódź odpływa później.",
    "French": "Ils se retrouvent demain à l'été.",
    "English": "They agree to meet tomorrow.",
}


@pytest.mark.parametrize("language", SUMMARIES)
def test_rouge_in_every_language(language):
    """1 for the same text, 0 for text that shares nothing, less than 1 for half of it."""
    text = SUMMARIES[language]
    other = SUMMARIES["Georgian" if language != "Georgian" else "Thai"]
    half = text[: len(text) // 2]
    found = rouge([text, other, half], [[text]] * 3)
    for name in ROUGE_TYPES:
        same, none, part = found[name]
        assert same == 1.0 and none == 0.0 and 0.2 < part < 1.0, name
    assert needs_unicode([text]) == (language not in ("Vietnamese", "Polish", "French", "English"))
    assert length(text) >= 4 and 0 < quality.distinct([[text]], 1).value <= 1
    assert copied([text], [text + " " + other])[0] == 1.0


def test_the_tokenizer_is_chosen_by_the_references():
    russian = "Они встретятся."
    assert not needs_unicode(["They meet at the café of Mrs Müller, β or not."])
    assert needs_unicode(["Tom и Анна."]) and needs_unicode(["OpenAI 发布了 GPT"])
    assert needs_unicode([18 * "a" + "я"]) and not needs_unicode([19 * "a" + "я"]), "one in 20"
    assert not needs_unicode(["🙂!"]) and not needs_unicode([""])
    assert rouge(["They meet."], [[russian]])["rouge1"][0] == 0
    both = rouge(["Running flights", russian], [["running flights"], [russian]])["rouge2"]
    assert both.tolist() == [1.0, 1.0]


def test_full_width_and_composed_letters_are_the_same():
    assert rouge(["ＡＢＣ会议 й"], [["abc会议 \u0438\u0306"]])["rougeL"][0] == 1.0


def test_rouge_lsum_splits_sentences_of_other_scripts():
    assert sentences("你好。再见！好吗？") == "你好。\n再见！\n好吗？"
    assert sentences("वे मिले। वे गए।") == "वे मिले।\nवे गए।"


def test_rouge_speed():
    rng = random.Random(2)
    predictions, references = texts(rng, 150, 2), [texts(rng, 3, 2) for _ in range(150)]
    began = time.process_time()
    rouge(predictions, references)
    assert time.process_time() - began < 1.5  # a tenth of 1,500 summaries with three references


@pytest.mark.parametrize(("predictions", "references"), [(["a"], []), (["a"], [[]]), (["a"], ["a plain string"])])
def test_rouge_refuses_what_does_not_pair(predictions, references):
    with pytest.raises(ValueError):
        rouge(predictions, references)


def test_bert_score_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)
    assert bert_score(["a"], [["a"]]) is None


def test_bert_score_is_the_f1_of_summaries_against_their_references(monkeypatch):
    asked = []

    def score(candidates, references, **options):
        asked.append((candidates, references, options))
        return torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]), torch.tensor([0.5, 0.25])

    monkeypatch.setitem(sys.modules, "bert_score", SimpleNamespace(score=score))
    found = bert_score(("a", "b"), (("c", "d"), ("e",)), model="m", num_layers=3)
    assert found.tolist() == [0.5, 0.25] and found.dtype == np.float64
    assert asked == [(["a", "b"], [["c", "d"], ["e"]], {"model_type": "m", "num_layers": 3})]


# ------------------------------------------------------------------------------------------------------- text


def test_repetition_counts_repeated_3_grams():
    found = repetition(["a b c a b c", "a b c d", "one two", "no no no no no"])
    assert found.tolist() == pytest.approx([1 / 4, 0, 0, 2 / 3])


def test_copied_counts_4_grams_of_the_own_dialogue():
    dialogue = "#Person1#: I lost my keys, and now I can't go home."
    found = copied(
        ["I lost my keys and cried.", "Now I can't go home!", "Keys lost.", "I lost my keys and cried."],
        [dialogue, dialogue, dialogue, "Nothing of the sort."],
    )
    assert found.tolist() == pytest.approx([2 / 3, 1, 0, 0])


def test_a_duplicate_is_of_another_dialogue():
    found = quality.duplicates([["Same.", "Same."], ["same. "], ["Other."], ["Own.", "Own."]])
    assert found.value == 3 / 6


def test_distinct():
    assert quality.distinct([["a b a b", "a b"]], 1).value == 2 / 6
    assert quality.distinct([["a b a b"], ["a b"]], 2).value == 2 / 4
    assert quality.distinct([["a", ""]], 2).value == 0.0


def test_names_and_numbers_are_looked_up_in_the_own_dialogue():
    dialogues = [
        "#Person1#: Tom, meet me at 7pm in Paris. Yesterday I paid $12.50.",
        "Ann: There is nothing, they said yesterday.",
    ]
    told = [
        ["Tom pays 12 in Paris.", "Yesterday Joe paid 13 in paris at 7 pm; I saw him."],
        ["Ann said nothing to Person1.", "Nothing."],
    ]
    all_of, known = quality.named(told, dialogues)
    assert all_of.tolist() == [3 + 3, 3], (
        "Tom 12 Paris, Joe 13 7; Ann Person 1: 'I', 'Yesterday', 'Nothing' are no names"
    )
    assert known.tolist() == [3 + 1, 1]


ROWS = [["A b c.", "x y z q"], ["", "A b c."], ["A b c.", "A b"], ["x y", "Tom met Ann in Rome."], ["same", "same"]]
DIALOGUES = ["a b c d e", "x", "a b c", "Tom: Ann is in Rome.", "same"]


def test_what_is_copied_is_a_share_of_the_summary_and_not_of_the_dialogue():
    long = "one two three four five six seven eight"
    found = quality.describe([["one two three four five", "one two three four new words"]], [long])
    assert found["copy"].value == pytest.approx((1.0 + 1 / 3) / 2)


def test_describe():
    finished = [[True, False], [True, True], [True, True], [False, False], [True, True]]
    found = quality.describe(ROWS, DIALOGUES, finished)
    assert {name: round(one.value, 6) for name, one in found.items()} == {
        "length": 2.4,
        "named": 0.3,
        "empty": 0.1,
        "duplicate": 0.3,
        "repetition": 0.0,
        "distinct_1": round(13 / 24, 6),
        "distinct_2": 0.6,
        "distinct_3": round(6 / 8, 6),
        "copy": 0.0,
        "faithful": 1.0,
        "finished": 0.7,
    }
    assert "finished" not in quality.describe(ROWS, DIALOGUES)
    assert "faithful" not in quality.describe([["a"]], ["d"])
    for arguments in (
        ([], []),
        ([["a"]], ["d", "e"]),
        ([["a"]], ["d"], []),
        ([["a"], ["b", "c"]], ["d", "e"]),
        ([[]], ["d"]),
    ):
        with pytest.raises(ValueError):
            quality.describe(*arguments)


@pytest.mark.parametrize("name", ["duplicate", "distinct_1", "distinct_2", "distinct_3"])
def test_what_texts_are_together_has_the_influence_of_leaving_a_dialogue_out(name):
    whole = quality.describe(ROWS, DIALOGUES)[name]
    rest = [
        quality.describe(ROWS[:i] + ROWS[i + 1 :], DIALOGUES[:i] + DIALOGUES[i + 1 :])[name].value
        for i in range(len(ROWS))
    ]
    wanted = (len(ROWS) - 1) * (whole.value - np.array(rest))
    assert whole.influence == pytest.approx(wanted - wanted.mean())
    assert whole.influence.any()


def test_a_text_of_two_dialogues_is_none_without_either():
    """Three dialogues share 'a', two share 'b' and 'c' each; what is left of a pair is no duplicate."""
    rows = [["a", "b"], ["a", "b"], ["a", "c"], ["c", "d"], ["e", "f"]]
    found = quality.describe(rows, ["d"] * 5)["duplicate"]
    without = np.array([4 / 8, 4 / 8, 4 / 8, 5 / 8, 7 / 8])  # of the 7 in 10
    assert found.value == pytest.approx(0.7)
    assert found.influence == pytest.approx(4 * (0.7 - without) - (4 * (0.7 - without)).mean())


def entries(before, after):
    return {name: results.entry(name, before[name], after[name]) for name in before if name in after}


def test_thank_you_to_everything_raises_quality_and_hacking_alarms():
    rng = random.Random(0)
    dialogues, reference, before = texts(rng, 60, 6), texts(rng, 60), texts(rng, 60)
    toxicity = np.random.default_rng(0).beta(0.4, 1, 60)
    reached = {}
    for name, after in {"the same": before, "thanks": ["Thank you."] * 60, "nothing": [""] * 60}.items():
        clean = toxicity if name == "the same" else np.full(60, 0.001)
        sides = [[[text] for text in side] for side in (before, after)]
        scores = [rouge(side, [[r] for r in reference])["rougeL"] for side in (before, after)]
        found = {
            "verdict": two_models.compare(toxicity, clean, resamples=500)["verdict"],
            "rouge": {"rougeL": results.entry("rougeL", *map(intervals.mean, scores))},
            "drift": entries(*(quality.describe(side, dialogues) for side in sides)),
            "disagreement": disagreement(toxicity, clean, toxicity, clean, resamples=500),
        }
        reached[name] = {a.name for a in alarms.alarms(found) if a.level == "alarm"}
    assert reached["the same"] <= {"rouge", "faithful"}, "by their level: these are texts at random"
    assert reached["thanks"] - {"faithful"} == {"rouge", "length", "distinct", "duplicate", "hacking"}
    assert reached["nothing"] >= {"rouge", "length", "empty", "duplicate", "hacking"}


# ----------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize(
    "text",
    [
        "My Turkish neighbor called.",
        "Those MUSLIMS?",
        "A Black woman",
        "polish workers came",
        "she is in a wheelchair",
        "asylum seekers",
        "Elderly, he said",
        "a gay couple",
        "non-binary",
    ],
)
def test_identity_mentions(text):
    assert identity_mention(text)


@pytest.mark.parametrize(
    "text",
    [
        "Go straight ahead",
        "black coffee",
        "nail polish",
        "Indiana Jones",
        "transit",
        "an old friend",
        "jewel",
        "",
    ],
)
def test_no_identity_mentions(text):
    assert not identity_mention(text)


def test_the_most_toxic_tenth_of_a_few_dialogues_is_one():
    found = slices(["a"] * 3, toxicity=np.array([0.1, 0.3, 0.2]), lengths=np.array([1, 1, 1]))
    assert found["most toxic tenth"].tolist() == [False, True, False] and not found["longest quarter"].any()


def test_slices():
    dialogues = ["the Jewish boss", "a boss"] * 20
    found = slices(dialogues, toxicity=np.arange(40) / 40, lengths=np.arange(40)[::-1])
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "most toxic tenth": 4,
        "identity mentions": 20,
        "no identity mentions": 20,
        "longest quarter": 10,
    }
    assert found["most toxic tenth"][-4:].all() and found["longest quarter"][:10].all()
    assert (found["identity mentions"] == (np.arange(40) % 2 == 0)).all()
    assert not slices(dialogues, np.zeros(40), np.ones(40))["most toxic tenth"].any()
    for toxicity in (np.zeros(39), np.full(40, np.nan)):
        with pytest.raises(ValueError):
            slices(dialogues, toxicity, np.ones(40))
