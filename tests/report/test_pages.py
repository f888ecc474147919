"""The report says what the results say, in order, and shows foreign text as text."""

from __future__ import annotations

import base64
import copy
import hashlib
import html as htmllib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from detox.report import drawing, headline, pages, plots, provenance, terminal
from detox.report import examples as examples_module
from tests.report.invented import HOSTILE, example

SHOWN = HOSTILE.replace("\u202e", "")


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


def test_the_headline_tells_the_verdict_then_alarms_then_what_got_worse(results):
    del results["checkpoints"]
    results |= {"verdict": "reduced", "worse": ["rougeL", "distinct_1", "distinct_2"]}
    results["alarms"] = [{"name": "a", "level": "warning", "sentence": "A."}]
    results["toxicity"]["difference"] |= {"ci95": None, "note": "Too few dialogues carry it."}
    assert headline.headline(results) == (
        "Toxicity is reduced by the sign-flip test, too few toxic dialogues for an interval, but with 1 warning; "
        "worse: ROUGE-L and distinct n-grams"
    )


# -------------------------------------------------------------------------------- what it contains


def test_sections_stand_in_order_and_both_forms_hold_the_same_cells(results, examples):
    text, page = pages.markdown(results, examples), Page(pages.html(results, examples))
    assert page.open == []
    titles = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    assert titles == [
        "Checkpoints side by side",
        "Several runs",
        "Examples",
        "Toxicity",
        "Independent judge",
        "Still a summary?",
        "Against simpler ways",
        "Slices",
        "How much data an effect needs",
        "Provenance",
        "How to read this",
    ]
    words = page.words().replace("\u2060", "").replace("\u2212", "-").replace("\u00a0", " ")
    cells = {
        re.sub(r"\\(?=[^\sA-Za-z0-9])", "", cell)
        for line in re.sub(r"\n## Examples.*?(?=\n## )", "", text, flags=re.DOTALL).splitlines()
        if line.startswith("|")
        for cell in line.strip("| ").split(" | ")
        if not cell.startswith((":-", "-"))
    }
    assert len(cells) > 60 and not [cell for cell in cells if cell not in words]
    assert "Mentions: too few examples (7 < 20)." in words and "PPO does not beat best-of-4." in words
    assert "99% of summaries have at most" in words and "1,234" in words and "p = 0.0001" in words


def test_the_contents_lead_to_every_section_and_terms_to_the_glossary(results, examples):
    page = pages.html(results, examples)
    contents = re.search(r"<nav.*?</nav>", page, flags=re.DOTALL)[0]
    listed = re.findall(r'<li><a href="#([^"]*)">', contents)
    assert listed == re.findall(r'<section id="([^"]*)"', page) and "examples" in listed
    text = pages.markdown(results, examples)
    titles = re.findall(r"^## (.*)", text, flags=re.MULTILINE)
    assert re.findall(r"^- \[(.*?)\]\(#", text, flags=re.MULTILINE) == titles
    assert "- [Still a summary?](#still-a-summary)" in text

    places = re.findall(r'<dt id="([^"]*)"', page)
    for section in re.split(r"<section id=", page):
        links = re.findall(r'<a class="term" href="#([^"]*)">([^<]*)</a>', section)
        assert {place for place, _ in links} <= set(places)
        words = [word.lower() for _, word in links]
        assert len(words) == len(set(words)), "the first use alone"
    judge = re.search(r'<section id="independent-judge">(.*?)</section>', page, flags=re.DOTALL)[1]
    assert '<a class="term" href="#term-std-toxicity">Std toxicity</a>' in judge, "the longest term wins"
    assert 'href="#term-interval">95% interval</a></th>' in judge
    assert '<a class="term" href="#term-before-after">Before</a></th>' in judge
    assert "before," in re.search(r"<p><a [^>]*>Greedy</a> summaries.*?</p>", page)[0], "an ordinary word"
    drawn = re.search(r'<section id="toxicity">.*?<svg (.*?)</svg>', page, flags=re.DOTALL)[1]
    assert "<a " not in drawn
    shown = re.search(r'<section id="examples">(.*?)<section id="toxicity">', page, flags=re.DOTALL)[1]
    assert 'class="term"' not in shown, "what models wrote is left as it is"


def test_the_count_of_dialogues_that_moved_beyond_chance_stands_over_the_examples(results, examples):
    for form in (pages.html(results, examples), pages.markdown(results, examples)):
        said = form.index("By more than 0.2500, 17 dialogues became less toxic and 4 more toxic.")
        assert "Chance alone moves 5 by more than that" in form and said < form.index("Largest improvements")
    del results["moved"]
    assert "Chance alone moves" not in pages.html(results, examples)


def test_examples_of_pooled_runs_keep_each_summary_in_its_row():
    made = example("one", 0.8, 0.1)
    before, after = made["before"], made["after"]
    before["samples"], after["samples"] = before["samples"][:1], [dict(after["samples"][0], summary=s) for s in "xyz"]
    rows = examples_module.side_by_side(made).rows
    assert [row[0] for row in rows] == ["sample 1", "sample 2", "sample 3", "greedy"]
    assert [row[3] for row in rows] == ["x", "y", "z", after["greedy"]["summary"]]
    assert [row[1] for row in rows] == [before["samples"][0]["summary"], "", "", before["greedy"]["summary"]]


def test_only_slices_with_an_interval_hold_jointly(results):
    part = results["slices"]["long ones"]
    results["slices"] |= {name: part for name in ("short ones", "loud ones")}
    bare = {key: value for key, value in part.items() if key != "mean"} | {"mean": part["mean"] | {"ci95": None}}
    for count, told in ((3, "The 3 intervals hold jointly"), (2, "The 2 intervals hold jointly"), (1, ""), (0, "")):
        shown = dict(zip(results["slices"], [part] * count + [bare] * (3 - count)))
        page = pages.markdown(results | {"slices": shown}, [])
        assert (told in page) and ("hold jointly" in page) is bool(told)


def test_a_commit_with_changes_behind_it_is_told(results):
    for commit, told in (("abc", "abc"), ("abc-dirty", "abc, and changes that are in no commit")):
        assert ("commit", told) in provenance.table(results | {"training": {"commit": commit}}).rows


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
        assert "In 25.0% of the dialogues, whose target summaries hold letters other than a to z" in form
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
    assert names(text, "Largest improvements") == ranked[::-1][:3]
    assert names(text, "Largest regressions") == ranked[:3]
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
    assert tags.count("script") == 1 and not {"img", "b1", "iframe", "object", "link"} & set(tags)
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
                                                    "width": 360, "groups": 1, "scripted": 3, "cut": 0}  # fmt: skip


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
        cut: Array.from(inside.querySelectorAll(".scroll")).filter((e) => e.scrollWidth > e.clientWidth).length,
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
