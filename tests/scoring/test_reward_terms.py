"""The score as a sum: what each term says, and what becomes of a user's own function, whole or broken."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

import config
from detox.scoring import reward_terms
from detox.scoring.reward import WeightedReward
from detox.stage import notes
from detox.stage.errors import UserError

DIALOGUE = "#Person1#: Why are you asking me?\n#Person2#: My neighbour's dogs were barking, and I couldn't sleep."


def say(name: str, summary: str, dialogue: str = DIALOGUE, references: tuple[str, ...] = ("a b c d",)) -> float:
    return reward_terms.measure({name: reward_terms.load(name)}, [summary], [dialogue], [references])[name].item()


def write(path: str, code: str) -> str:
    Path(path).write_text(code)
    return path


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_settings_know_the_terms_that_there_are():
    assert tuple(reward_terms.BUILT_IN) == config.REWARD_TERMS


@pytest.mark.parametrize(
    ("summary", "references", "expected"),
    [
        ("one two three four", ("a b c d",), 0.0),
        ("", ("a b c d",), -1.0),
        ("one two three", ("a b c d",), -0.25),
        ("one two three four five six seven eight nine ten eleven twelve", ("a b c d",), -2.0),
        ("one two", ("a b c d", "a b"), 0.0),
        ("one", ("",), 0.0),
    ],
)
def test_length_is_the_relative_deviation(summary, references, expected):
    assert say("length", summary, references=references) == expected


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("Person2 asked about the dog of a neighbour.", 1.0),
        ("Person2's dog barked at a burglar; the burglar left.", 0.5),
        ("Everybody is friendly, respectful and kind.", 0.0),
        ("She is the one who had it.", 0.0),
        ("", 0.0),
    ],
)
def test_overlap_with_the_dialogue_counts_content_words(summary, expected):
    assert say("overlap-dialogue", summary) == expected


def test_overlap_with_the_reference_is_rouge_l():
    references = ("Person1 asks the neighbours about dogs.", "A dog is barking, and person2 can't sleep at night.")
    summary = "Person2 could not sleep: dogs barked."
    expected = RougeScorer(["rougeL"], use_stemmer=True).score_multi(references, summary)["rougeL"].fmeasure
    assert 0 < expected < 1
    assert say("overlap-reference", summary, references=references) == pytest.approx(expected)


class Classifier:
    """Scores summaries by number."""

    def score(self, summaries):
        return torch.arange(len(summaries), dtype=torch.float32) - 0.5


EXAMPLES = Dataset.from_dict({"dialogue": ["zero", "one", "two"], "summaries": [["z z z z"], ["o o"], ["t"]]})


def test_the_score_is_the_weighted_sum_over_the_rows_that_were_summarized():
    settings = config.Reward(model="m", weight=2.0, extra=("length=0.5", "overlap-dialogue=-1"))
    reward = WeightedReward(settings, Classifier(), EXAMPLES)
    scores, terms = reward.score([2, 0, 2], ["two", "zero", "no match"])
    assert {name: values.tolist() for name, values in terms.items()} == {
        "classifier": [-0.5, 0.5, 1.5],
        "length": [0.0, -0.75, -1.0],
        "overlap-dialogue": [1.0, 1.0, 0.0],
    }
    assert scores.tolist() == [-1.0 - 1.0, 1.0 - 0.375 - 1.0, 3.0 - 0.5] and scores.dtype == torch.float32
    assert reward.settings.describe() == "2 * logit of 'nothate' by m + 0.5 * length + -1 * overlap-dialogue"


def test_the_classifier_alone_is_what_it_says():
    reward = WeightedReward(config.Reward(model="m"), Classifier(), EXAMPLES)
    scores, terms = reward.score([0, 1], ["a", "b"])
    assert (scores.tolist(), terms, reward.settings.describe()) == ([-0.5, 0.5], {}, "logit of 'nothate' by m")


def test_a_function_of_a_file_or_a_module_is_called_by_keyword(place):
    (place / "lib").mkdir()
    write("lib/neighbour_of_term.py", "import torch\n\ndef tensor(values): return torch.tensor(values)\n")
    code = (
        "from dataclasses import dataclass\nfrom neighbour_of_term import tensor\n\n"
        "@dataclass\nclass Of:\n    x: int = 3\n\n"
        "def own(*, references, dialogues, summaries):\n"
        "    values = [len(s) + 10 * len(d) + 100 * len(r) for s, d, r in zip(summaries, dialogues, references)]\n"
        "    summaries.clear()\n    references[0].clear()\n"
        "    return tensor(values)\n"
    )
    write("lib/own_term.py", code)
    write("a_module_of_terms.py", "def own(summaries, dialogues, references): return (0.5 for _ in summaries)\n")
    names = ("lib/own_term.py:own", "a_module_of_terms:own")
    summaries, references = ["ab", ""], [["x", "y"], ["z"]]
    found = reward_terms.measure({n: reward_terms.load(n) for n in names}, summaries, ["abc", "d"], references)
    assert [values.tolist() for values in found.values()] == [[232.0, 110.0], [0.5, 0.5]]
    assert summaries == ["ab", ""] and references == [["x", "y"], ["z"]], "what a function does to its lists is its own"


def test_the_hash_of_its_file_tells_a_function_from_another(place):
    write("one.py", "def own(**texts): return texts['summaries']\n")
    write("two.py", "def own(**texts): return texts['dialogues']\n")
    write("same.py", Path("one.py").read_text())
    one, two, same = (reward_terms.identity(f"{name}.py:own") for name in ("one", "two", "same"))
    assert one == same != two
    before = reward_terms.identity("math:hypot")
    assert before == reward_terms.identity("math:hypot")


OWN = "def own(**texts): return texts['summaries']\n"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("term_a.py:own", "import near_a"),
        ("term_a.py:own", "from near_a import *"),
        ("term_a.py:own", "import math, far_a\nfrom detox import scoring"),
        ("term_a.py:own", "from package_a import inner"),
        ("term_a.py:own", "import package_a.inner as there"),
        ("term_a.py:own", "def later():\n    import near_a"),
        ("package_a.term:own", "from . import inner"),
        ("package_a.term:own", "from .inner import VALUE"),
        ("package_a.term:own", "from near_a import VALUE"),
    ],
)
def test_a_change_of_what_a_function_imports_tells_it_from_another(place, name, code):
    write("near_a.py", "VALUE = 1\n")
    write("far_a.py", "import near_a\nimport term_a\n")
    (place / "package_a").mkdir()
    write("package_a/__init__.py", "")
    write("package_a/inner.py", "VALUE = 1\n")
    write(name.rpartition(":")[0].removesuffix(".py").replace(".", "/") + ".py", f"{code}\n{OWN}")
    before = reward_terms.identity(name)
    assert before == reward_terms.identity(name)
    write("near_a.py", "VALUE = 2\n")
    write("package_a/inner.py", "VALUE = 2\n")
    assert before != reward_terms.identity(name)


def test_what_is_not_of_ones_own_does_not_change_the_hash(place):
    write("json.py", "raise RuntimeError('not the standard one')\n")
    write("beside.py", "VALUE = 1\n")
    path = Path(write("term.py", f"import json, math, torch, config\nimport detox.scoring.rouge\n{OWN}"))
    assert reward_terms.identity("term.py:own") == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "def own(**texts):\n    return inner(texts)\ndef inner(texts): raise ValueError('no\\nluck')",
            "failed on 2 summaries (ValueError: no luck, {place}/broken.py:3)",
        ),
        (
            "import json\ndef own(**texts):\n    return json.loads('[')",
            "value: line 1 column 2 (char 1), {place}/broken.py:3)",
        ),
        ("def own(summaries): return [1.0, 2.0]", "failed on 2 summaries (TypeError: own() got an unexpected"),
        ("def own(**texts): return 1.0", "failed on 2 summaries (TypeError: 'float' object is not iterable"),
        ("def own(**texts): return ['good', 1]", "failed on 2 summaries (ValueError: could not convert"),
        ("def own(**texts): raise SystemExit", "failed on 2 summaries (SystemExit"),
        ("def own(**texts): return [1e39, 1.0]", "returned 1e+39 for 'a'; return finite numbers"),
        ("def own(**texts): return [1.0]", "returned 1 numbers for 2 summaries; return one each"),
        ("def own(**texts): return [1.0, float('nan')]", "returned nan for 'b'; return finite numbers"),
        ("def own(**texts): return [-float('inf'), 1]", "returned -inf for 'a'; return finite numbers"),
    ],
)
def test_a_function_that_fails_is_named(code, says, place):
    name = f"{write('broken.py', code)}:own"
    with pytest.raises(UserError) as refusal:
        reward_terms.measure({name: reward_terms.load(name)}, ["a", "b"], ["", ""], [["r"], ["r"]])
    assert str(refusal.value).startswith("--reward.extra=broken.py:own: it ")
    assert says.replace("{place}", str(place.resolve())) in str(refusal.value)


def test_a_long_error_is_cut(place):
    name = f"{write('broken.py', 'def own(**texts): raise ValueError(500 * chr(120))')}:own"
    with pytest.raises(UserError) as refusal:
        reward_terms.measure({name: reward_terms.load(name)}, ["a"], [""], [["r"]])
    (reason,) = re.findall(r"\((ValueError: x+…)\); correct it", str(refusal.value))
    assert len(reason) == 300


def test_a_function_is_tried_on_four_summaries_before_the_run(place):
    write(
        "counts.py",
        "seen = []\ndef own(summaries, **texts):\n    seen.append(summaries)\n    return [0] * len(summaries)\n",
    )
    examples = Dataset.from_dict({"dialogue": list("abcdef"), "summaries": [[f"{i}", "no"] for i in range(6)]})
    settings = config.Reward(model="m", extra=("counts.py:own=1",))
    reward = WeightedReward(settings, Classifier(), examples)
    assert reward.terms["counts.py:own"].__globals__["seen"] == [["0", "1", "2", "3"]]


def test_the_metrics_name_a_term_by_its_function(place):
    write("one.py", "def short(**texts): return [1.0] * len(texts['summaries'])\n")
    write(
        "two.py",
        "def short(summaries, **texts): return [2.0] * len(summaries)\n"
        "def brief(summaries, **texts): return [3.0] * len(summaries)\n",
    )
    names = ("one.py:short", "two.py:short", "two.py:brief", "length")
    assert list(reward_terms.labels(names).values()) == ["one.py:short", "two.py:short", "brief", "length"]
    assert reward_terms.labels(["a.py:classifier"]) == {"a.py:classifier": "a.py:classifier"}, (
        "which has a name already"
    )
    settings = config.Reward(model="m", extra=("two.py:brief=1",))
    _, terms = WeightedReward(settings, Classifier(), EXAMPLES).score([0, 1], ["a", "b"])
    assert list(terms) == ["classifier", "brief"] and terms["brief"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("gone.py:own", "", "gone.py: no such file; name file.py:function or module:function"),
        ("no_such_module:own", "", "no_such_module: cannot be imported (ModuleNotFoundError: No module named"),
        ("code.py:other", "def own(): pass", "code.py has no function 'other'"),
        ("code.py:own", "own = 3", "code.py has no function 'own'"),
        ("code.py:own", "def own(:", "code.py: cannot be imported (SyntaxError"),
        ("code.py:own", "raise RuntimeError('broken')", "code.py: cannot be imported (RuntimeError: broken, "),
        ("code.py:own", "import sys; sys.exit('use it as a script')", "cannot be imported (SystemExit: use it"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, code, says):
    write("code.py", code)
    with pytest.raises(UserError) as refusal:
        reward_terms.load(name)
    assert str(refusal.value).startswith("--reward.extra=") and says in str(refusal.value)


def test_a_label_that_speaks_of_ill_is_pointed_out(capsys):
    notes.forget()
    examples = Dataset.from_list([{"dialogue": "a", "summaries": ["b"]}])
    for label in ("nothate", "hate"):
        WeightedReward(config.Reward(label=label), None, examples)
    told = capsys.readouterr().err
    assert told == "note: --reward.label=hate: PPO makes this label more likely, and its name speaks of ill\n"
