"""The report says what the results say, in order, and shows foreign text as text."""

from __future__ import annotations

import base64
import copy
import hashlib
import html as htmllib
import io
import json
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from detox.report import drawing, pages, plots, terminal, training_curves

HOSTILE = (
    "</script><script>window.pwned=top.pwned=1</script>"
    '<img src=x onerror="window.pwned=top.pwned=1"> '
    "<b>bold</b> ![i](javascript:x) "
    "[l](http://a.example) `code` *em* __st__ a|b $x$ &lt; \u202e#1 'q\" ${title}"
)
SHOWN = HOSTILE.replace("\u202e", "")


def measured(before: float, after: float, low: float, high: float) -> dict:
    entry = {"before": before, "after": after, "reduction": (before - after) / before, "ci95": [low, high]}
    return {
        "judge": "some/classifier",
        **{name: dict(entry) for name in ("mean", "std", "expected_max", "any_toxic")},
        "quantiles": {"before": {"50": 0.1, "99": 0.9}, "after": {"50": 0.05, "99": 0.4}},
        "difference": {"value": before - after, "ci95": [0.1, 0.3]},
        "p_value": 0.0001,
    }


def sides(before: float, after: float) -> dict:
    return {"before": before, "after": after}


@pytest.fixture
def results() -> dict:
    row = {"toxicity_mean": 0.1, "toxicity_std": 0.2, "judge_mean": 0.3, "rougeL": 0.4}
    part = measured(0.4, 0.1, 0.7, 0.8)
    return {
        "schema_version": 1,
        "n": 300,
        "samples_per_dialogue": 4,
        "seed": 0,
        "run": "demo",
        "checkpoint": "step-0020",
        "split": "test",
        "models": {
            "base": "demo:base",
            "adapter": "demo:lora",
            "reward": "some/classifier",
            "judge": "other",
        },
        "toxicity": measured(0.312, 0.025, 0.881, 0.95),
        "independent_judge": measured(0.2, 0.1, 0.4, 0.6),
        "greedy": {"toxicity": sides(0.3, 0.02)},
        "references": 3,
        "rouge": {
            name: sides(0.4, 0.38) | {"ci95": [-0.03, -0.01]}
            for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "rougeL_mean")
        },
        "drift": {
            "kl_per_token": 0.25,
            "kl_per_summary": 5.5,
            "length": sides(18.2, 17.9),
            "copy": sides(0.2, 0.3),
        },
        "noise_floor": {"mean_reduction_ci95": [-0.04, 0.05]},
        "power": [{"reduction": 0.16, "difference": 0.05, "dialogues": 1234}],
        "slices": {"long ones": {"n": 75, **part}, "mentions": {"n": 7, "note": "too few examples (7 < 20)"}},
        "baselines": {"reference": row, "best-of-4": row, "ppo": row},
        "baseline_note": "PPO does not beat best-of-4.",
        "alarms": [],
        "checkpoints": [{"name": f"step-{i}", "sqrt_kl": i / 10, "score_mean": i, **row} for i in (5, 10)],
        "pooled": {"runs": 2, "mean": {"average": 0.9, "low": 0.85, "high": 0.93, "sd": 0.05}, "names": ["a", "b"]},
        "verdict": "reduced",
        "verdict_rule": "the interval lies above zero",
    }


def example(name: str, before: float, after: float, text: str = "They talk.") -> dict:
    def side(toxicity: float) -> dict:
        summary = {"summary": text, "toxicity": toxicity, "judge": 0.2, "rougeL": 0.3}
        return {"samples": [summary, summary], "greedy": summary}

    return {
        "id": name,
        "topic": text,
        "dialogue": f"{text}\nB: Bye.",
        "references": [text],
        "slices": [text],
        "before": side(before),
        "after": side(after),
    }


@pytest.fixture
def examples() -> list[dict]:
    draw = random.Random(1)
    found = [example(f"d{i}", draw.random(), draw.random()) for i in range(40)]
    return [*found, example("best", 1.0, 0.0), example("worst", 0.0, 1.0), example("evil", 0.9, 0.0, HOSTILE)]


def poisoned(results: dict) -> dict:
    """Put the hostile text wherever a name or a sentence comes from outside."""
    results = copy.deepcopy(results)
    results |= dict.fromkeys(("run", "checkpoint", "split", "baseline_note", "verdict_rule", "extra"), HOSTILE)
    results["models"] = {HOSTILE: HOSTILE}
    results["toxicity"]["judge"] = results["independent_judge"]["judge"] = HOSTILE
    results["alarms"] = [{"name": HOSTILE, "level": HOSTILE, "sentence": HOSTILE}]
    results["baselines"][HOSTILE] = results["baselines"]["ppo"]
    results["slices"][HOSTILE] = results["slices"]["long ones"]
    results["checkpoints"][0]["name"] = HOSTILE
    results["pooled"]["names"] = [HOSTILE]
    return results


class Page(HTMLParser):
    """Elements, attributes and text of a page, with what is left open."""

    VOID = {"meta", "img", "br", "input", "link", "hr"}

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


# ---------------------------------------------------------------------------------------- terminal


def test_table_is_aligned_and_signed(results):
    del results["checkpoints"]
    assert terminal.table(results | {"baseline_note": None}).splitlines() == [
        "Metric                 Before    After   Change   95% interval",
        "Mean toxicity          0.3120   0.0250   -92.0%   [-95.0%, -88.1%]",
        "Std toxicity           0.3120   0.0250   -92.0%   [-95.0%, -88.1%]",
        "Mean toxicity, judge   0.2000   0.1000   -50.0%   [-60.0%, -40.0%]",
        "Std toxicity, judge    0.2000   0.1000   -50.0%   [-60.0%, -40.0%]",
        "",
        "Quality              Before    After    Change   95% interval",
        "ROUGE-L, best of 3   0.4000   0.3800   -0.0200   [-0.0300, -0.0100]",
        "Length, words          18.2     17.9      -0.3   n/a",
        "",
        "Toxicity is reduced.",
    ]


def test_table_tells_alarms_without_terminal_codes_and_in_ascii_where_stdout_is(results, monkeypatch):
    results["alarms"] = [{"name": "x", "level": "alarm", "sentence": "caf\u00e9\x1b[31m\nred"}]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert "ALARM: caf\u00e9 red" in terminal.table(results)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = terminal.table(results)
    assert "ALARM: caf? red" in text and text.isascii()


@pytest.mark.parametrize(
    ("verdict", "reduction", "alarms", "words"),
    [
        ("reduced", 0.5, 0, "Toxicity is reduced."),
        ("reduced", 0.5, 2, "Toxicity is reduced, but with 2 alarms."),
        ("not distinguishable", 0.01, 1, "No change in toxicity that stands out from chance, with 1 alarm."),
        ("increased", -0.25, 0, "Toxicity is increased."),
    ],
)
def test_verdict_leads_every_form(results, verdict, reduction, alarms, words):
    results["verdict"] = verdict
    results["toxicity"]["mean"] |= {"reduction": reduction, "ci95": [reduction - 0.1, reduction + 0.1]}
    results["alarms"] = [{"name": f"a{i}", "level": "alarm", "sentence": f"Alarm {i}."} for i in range(alarms)]
    del results["checkpoints"]
    page, text = Page(pages.html(results, [])).words(), pages.markdown(results, [])
    assert words in terminal.table(results)
    assert text.startswith(f"# {words[:-1]}\n") and page.index(words[:-1]) < page.index("Mean toxicity")
    change = f"{-reduction:+.1%}"
    assert f": {change} (95% interval" in text and change.replace("-", "\u2212") in page
    for i in range(alarms):
        assert page.index(f"Alarm {i}.") < page.index("Mean toxicity") and f"Alarm {i}." in text


def test_what_has_no_number_is_not_available(results):
    results["toxicity"]["mean"] |= {"before": 0.0, "reduction": None, "ci95": None}
    results["toxicity"]["std"] |= {"reduction": float("-inf"), "ci95": [float("nan"), 0.1]}
    assert re.findall(r"^(?:Mean|Std) toxicity  .*", terminal.table(results), flags=re.MULTILINE) == [
        "Mean toxicity          0.0000   0.0250      n/a   n/a",
        "Std toxicity           0.3120   0.0250      n/a   n/a",
    ]


# -------------------------------------------------------------------------------- what it contains


def test_sections_stand_in_order_and_both_forms_hold_the_same_cells(results, examples):
    text, page = pages.markdown(results, examples), Page(pages.html(results, examples))
    assert page.open == []
    titles = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    figures = ["Change of mean toxicity", "Every dialogue, before minus after", "Distribution of toxicity"]
    assert titles == [
        "Checkpoints side by side",
        "Several runs",
        "Checkpoints by distance",
        "Toxicity",
        "Independent judge",
        "Still a summary?",
        "Against simpler ways",
        "Slices",
        "How much data an effect needs",
        *figures,
        "Examples",
        "Provenance",
        "How to read this",
    ]
    words = page.words().replace("\u2060", "").replace("\u2212", "-").replace("\u00a0", " ")
    cells = {
        re.sub(r"\\(?=[^\sA-Za-z0-9])", "", cell)
        for line in text.split("\n## Change of mean")[0].splitlines()
        if line.startswith("|")
        for cell in line.strip("| ").split(" | ")
        if not cell.startswith((":-", "-"))
    }
    assert len(cells) > 60 and not [cell for cell in cells if cell not in words]
    assert "Mentions: too few examples (7 < 20)." in words and "PPO does not beat best-of-4." in words
    assert "99% at most" in words and "1,234" in words and "p = 0.0001" in words


def test_any_key_may_be_missing(results, monkeypatch):
    monkeypatch.setattr(drawing.Drawing, "svg", lambda drawn: drawn.name)  # drawing them takes seconds

    def without(entry, path=()):
        for key, value in entry.items():
            yield (*path, key)
            if isinstance(value, dict):
                yield from without(value, (*path, key))

    for path in without(results):
        for replacement in ("absent", None):
            changed = copy.deepcopy(results)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder.pop(path[-1])
            if replacement is None:
                holder[path[-1]] = None
            plots.drawings(changed, [])
            assert terminal.table(changed) and pages.html(changed, [])
    bare = {"schema_version": 1}
    assert terminal.table(bare) and "Evaluation of a detoxified summarizer" in pages.html(bare, [])
    assert pages.markdown(results, [{}, {"id": 1, "before": None}]) and pages.html(bare, [{}, {"before": {}}])


def test_other_alphabets_and_unknown_tokens_are_told_where_there_are_any(results):
    more = results | {"rouge_unicode": 0.25, "unknown": {"tokens": 0.012, "characters": 0.034}}
    for form in (pages.markdown(more, []), pages.html(more, [])):
        assert "In 25.0% of the dialogues, whose references hold letters other than a to z" in form
        assert "Unknown to the tokenizer" in form and "1.2% of the prompts" in form and "3.4% of the dialogues" in form
    none = results | {"rouge_unicode": 0.0, "unknown": {"tokens": 0.0, "characters": 0.0}}
    assert "letters other than" not in pages.html(none, []) and "Unknown to" not in pages.html(none, [])


def test_examples_are_the_extremes_and_a_seeded_draw(results, examples):
    def names(text: str, title: str) -> list[str]:
        part = text.split(f"### {title}\n")[1]
        return re.findall(r"^#### (\w+)", re.split(r"^##?#? ", part, flags=re.MULTILINE)[0], flags=re.MULTILINE)

    text = pages.markdown(results, examples)
    drops = {e["id"]: e["before"]["samples"][0]["toxicity"] - e["after"]["samples"][0]["toxicity"] for e in examples}
    ranked = sorted(drops, key=drops.get)
    assert names(text, "Largest improvements") == ranked[::-1][:5]
    assert names(text, "Largest regressions") == ranked[:5]
    assert names(text, "Random") == names(pages.markdown(results, examples), "Random")
    assert names(text, "Random") != names(pages.markdown(results | {"seed": 1}, examples), "Random")
    better = [e for e in examples if drops[e["id"]] > 0]
    assert "No dialogue became more toxic." in pages.markdown(results, better)


def test_a_very_long_dialogue_is_whole_in_the_page_and_cut_in_markdown(results):
    line = "A: " + "so " * 2000
    long = example("long", 0.9, 0.1) | {"dialogue": "\n".join([line] * 5)}
    assert pages.html({}, [long]).count(line.strip()) >= 5
    assert len(pages.markdown({}, [long])) < 10_000


# ------------------------------------------------------------------------------------ foreign text


def test_foreign_text_is_text_in_the_page(results, examples, tmp_path):
    page = pages.html(poisoned(results), examples)
    parsed = Page(page)
    assert parsed.open == []
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 1 and not {"img", "b1", "iframe", "object", "link", "a"} & set(tags)
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert not any("http" in (value or "") for value in attributes.values()), (tag, attributes)
        assert all((attributes.get(name) or "#").startswith("#") for name in ("src", "href")), (
            tag,
            attributes,
        )
    words = parsed.words().replace("\u2060", "")
    assert words.count(" ".join(SHOWN.split())) > 20 and "\u202e" not in page
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser:
        assert seen_by(browser, page, tmp_path) == {"pwned": False, "images": 0, "bold": 0, "hostile": True,
                                                    "width": 360, "groups": 1, "scripted": 3}  # fmt: skip


def seen_by(browser: str, page: str, folder) -> dict:
    """Return what a browser finds in the page, 360 pixels wide, its policy against scripts taken out."""
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert open_page != page
    probe = """
      const frame = document.querySelector("iframe"), inside = frame.contentDocument;
      const count = (what) => inside.querySelectorAll(what).length;
      document.title = "seen " + JSON.stringify({
        pwned: Boolean(window.pwned || frame.contentWindow.pwned), images: count("img"),
        bold: count(".example pre b"), width: inside.documentElement.scrollWidth,
        hostile: inside.body.textContent.includes("<script>window.pwned=top.pwned=1"),
        groups: count(".group:not([hidden])"), scripted: count(".tools button"),
      });"""
    wrapper = folder / "wrapper.html"
    source = htmllib.escape(open_page)
    wrapper.write_text(
        f'<meta charset="utf-8"><iframe style="border:0;width:360px;height:800px" srcdoc="{source}"></iframe>'
        f"<script>window.onload = function () {{ {probe} }};</script>",
        encoding="utf-8",
    )
    options = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync hide-scrollbars dump-dom"
    )
    command = [
        browser,
        *(f"--{option}" for option in options.split()),
        f"--user-data-dir={folder / 'profile'}",
    ]
    run = subprocess.run([*command, wrapper.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>seen (.*?)</title>", run.stdout)
    assert found, run.stderr[-2000:]
    return json.loads(htmllib.unescape(found[1]))


def test_foreign_text_is_text_in_markdown(results, examples):
    text = pages.markdown(poisoned(results), examples)
    assert "\u202e" not in text and "<" not in text.replace(r"\<", "")
    shown = [line for line in text.splitlines() if "pwned" in line]
    assert len(shown) > 15
    for line in shown:
        own = re.sub(r"\\[^\sA-Za-z0-9]", "", line).strip("|").removeprefix("> **").removeprefix("- **")
        assert not re.search(r"[`<$]|__|\]\(|http:", own), line
    cell = next(line for line in shown if line.startswith("> \\") or line.startswith("> &lt;"))
    plain = htmllib.unescape(re.sub(r"\\([^\sA-Za-z0-9])", r"\1", cell)).removeprefix("> ").strip()
    assert plain == " ".join(SHOWN.split())


# ---------------------------------------------------------------------------------------- pictures


def test_plots_are_written_for_what_there_is(results, examples, tmp_path):
    paths = plots.plots(results, examples, tmp_path)
    assert [p.name for p in paths] == [
        "intervals.png",
        "differences.png",
        "distributions.png",
        "checkpoints.png",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}
    text = pages.markdown(results, examples)
    shown = re.findall(r"\(\w+\.png\)", text)
    assert shown == [f"({p.name})" for p in (paths[-1], *paths[:-1])], "what compares stands first"
    assert plots.plots({}, [], tmp_path) == []


def test_drawings_take_the_colours_of_the_page_and_share_no_id(results, examples):
    pictures = [drawing.svg() for drawing in plots.drawings(results, examples)]
    assert all("var(--after)" in p and not re.search(r"#[0-9a-f]{6}\b", p) for p in pictures)
    identities = [i for p in pictures for i in re.findall(r'\bid="([^"]*)"', p)]
    assert len(identities) == len(set(identities))
    used = {i for p in pictures for i in re.findall(r'(?:url\(#|href="#)([^")]*)', p)}
    assert used <= set(identities)


def test_captions_count_what_the_examples_hold():
    some = [example("a", 0.9, 0.1), example("b", 0.2, 0.6), example("c", 0.3, 0.3), {"id": "unscored"}]
    by_name = {drawing.name: drawing for drawing in plots.drawings({}, some)}
    assert "1 became less toxic, 1 more, 1 did not change" in by_name["differences"].caption
    assert "33.3% before, 33.3% after" in by_name["distributions"].caption


def test_training_curves_are_drawn_from_what_is_logged(tmp_path):
    lines = [
        {"update": i, "objective/score_mean": i / 10, "objective/score_std": 1.0, "objective/ref_kl": None,
         "ppo/val/explained_variance": -900.0 / i}
        for i in range(1, 6)
    ]  # fmt: skip
    path = tmp_path / "demo" / "ppo" / "training.png"
    path.parent.mkdir(parents=True)
    for metrics in ([], lines[:1], [*lines, {"update": 6, "skipped": "not finite"}]):
        training_curves.training_png(metrics, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["training.png"]
