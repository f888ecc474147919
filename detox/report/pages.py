"""The report of an evaluation in three forms: a table for the terminal, Markdown, one HTML page."""

from __future__ import annotations

import base64
import hashlib
import re
import string
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from detox.report import contents
from detox.report.contents import Examples, Results, Section, Table
from detox.report.plots import Drawing, drawings, plots, training_png
from detox.stage.errors import printable
from detox.stage.figures import (
    count,
    decimal,
    fall,
    fall_bounds,
    initial,
    lookup,
    number,
    signed,
    signed_decimal,
)

__all__ = ["html", "markdown", "markdown_sections", "plots", "table", "training_png"]

_TEMPLATE = Path(__file__).with_name("report_template.html")

# --------------------------------------------------------------------------------------- terminal


def table(results: Results) -> str:
    """Return the figures for a terminal, numbers aligned; plain ASCII where stdout is not UTF-8."""
    toxic = contents.reductions(lookup(results, "toxicity"))
    judged = contents.reductions(lookup(results, "independent_judge"), ", judge")
    lines = _columns(Table(toxic.columns, toxic.rows + judged.rows)) if toxic.rows or judged.rows else []
    quality = contents.quality_section(results)
    if quality is not None and quality.tables:
        wanted = (contents.rouge_l(results), "Length, words", "Empty", "Duplicate")
        rows = tuple(row for row in quality.tables[0].rows if row[0] in wanted)
        lines += ["", *_columns(Table(quality.tables[0].columns, rows))] if rows else []
    note = lookup(results, "toxicity", "mean", "note")
    lines += ["", *([printable(note)] if note else []), f"{contents.headline(results)}."]
    lines += [printable(f"{level.upper()}: {sentence}") for level, _, sentence in contents.alarms(results)]
    if lookup(results, "baseline_note"):
        lines.append(printable(results["baseline_note"]))
    text = "\n".join(lines).strip("\n")
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("_", "-")
    return text if encoding in ("utf-8", "utf8") else text.encode("ascii", "replace").decode()


def _columns(grid: Table) -> list[str]:
    """Return the rows of a table, words to the left, numbers to the right, intervals to the left."""
    rows = [grid.columns, *grid.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(grid.columns))]
    left = {i for i, title in enumerate(grid.columns) if i < grid.labels or title == "95% interval"}

    def places(row: tuple[str, ...]) -> Iterable[tuple[int, tuple[str, int]]]:
        return enumerate(zip(row, widths, strict=True))

    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in places(row)]
        lines.append("   ".join(cells).rstrip())
    return lines


# --------------------------------------------------------------------------------------- Markdown


def _md(text: Any, limit: int | None = None) -> str:
    """Escape text, so that Markdown shows it as it is, on one line."""
    line = escape(printable(text, limit), quote=False)
    line = re.sub(r"([\\`*_{}|~$^#!<])", r"\\\1", line)
    line = re.sub(r"\](?=[(\[:])", r"\\]", line)
    line = re.sub(r"([:@])(?=\S)", r"\\\1", line)  # no links, mentions or emoji out of bare text
    return re.sub(r"(?i)\bwww\.", r"www\\.", line)


def _md_block(text: Any) -> str:
    """Escape text that begins a line, where a dash or a number would begin a list, a bracket a definition."""
    line = re.sub(r"^([-+=\[])", r"\\\1", _md(text))
    return re.sub(r"^(\d+)(?=[.)])", r"\1\\", line)


def _md_table(grid: Table) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = (":---" if i < grid.labels else "---:" for i in range(len(grid.columns)))
    rows = (line(_md(cell) for cell in row) for row in grid.rows)
    return [line(map(_md, grid.columns)), line(rule), *rows, ""]


def _md_section(section: Section) -> list[str]:
    lines = [f"## {_md(section.title)}", ""]
    for paragraph in section.paragraphs:
        lines += [_md_block(paragraph), ""]
    for grid in section.tables:
        lines += _md_table(grid)
    if section.terms:
        lines += [f"- **{_md(term)}**: {_md(meaning)}" for term, meaning in section.terms] + [""]
    return lines


def markdown_sections(sections: Iterable[Section]) -> str:
    """Return sections as Markdown, each with its heading."""
    return "\n".join(line for section in sections for line in _md_section(section)) + "\n"


def _md_drawing(drawing: Drawing) -> list[str]:
    title = _md(drawing.title)
    return [f"## {title}", "", f"![{title}]({drawing.name}.png)", "", _md(drawing.caption), ""]


def _md_example(example: Mapping[str, Any]) -> list[str]:
    before, after, fell = contents.means(example)
    topic = f", {_md(example['topic'], 80)}" if example.get("topic") else ""
    lines = [
        f"#### {_md(contents.name_of(example))}{topic}",
        "",
        f"Mean toxicity {before} to {after}, drop {fell}.",
        "",
    ]

    def cells(record: Mapping[str, Any]) -> tuple[str, str]:
        return str(record.get("summary", "")), decimal(record.get("toxicity"))

    pairs = zip(contents.summaries(example, "before"), contents.summaries(example, "after"), strict=False)
    rows = tuple((label, *cells(old), *cells(new)) for (label, old), (_, new) in pairs)
    lines += _md_table(Table(("", "Before", "Toxicity", "After", "Toxicity"), rows, labels=1)) if rows else []
    dialogue = contents.clean(example.get("dialogue", ""))
    if len(dialogue) > 1500:
        dialogue = f"{dialogue[:1500]} … ({len(dialogue):,} characters; the whole stands in examples.jsonl)"
    lines += [f"> {_md_block(line)}  " for line in dialogue.split("\n")] + [""]
    return lines


def markdown(results: Results, examples: Examples) -> str:
    """Return the report as Markdown, with the PNGs of `plots` beside it.

    Args:
        results: the contents of results.json; sections whose keys are missing are left out.
        examples: the lines of examples.jsonl.
    """
    lines = [f"# {_md(contents.headline(results))}", ""]
    for level, name, sentence in contents.alarms(results):
        lines += [f"> **{_md(level.upper())}, {_md(name)}**: {_md(sentence)}", ""]
    for sentence in contents.opening(results):
        lines += [_md_block(sentence), ""]
    pictures = drawings(results, examples)
    first = [drawing for drawing in pictures if drawing.compares]
    for section in contents.compared(results):
        lines += _md_section(section)
    for drawing in first:
        lines += _md_drawing(drawing)
    for section in contents.figures(results):
        lines += _md_section(section)
    for drawing in pictures:
        lines += _md_drawing(drawing) if drawing not in first else []
    if examples:
        lines += ["## Examples", "", "The texts are what models and people wrote, and some offend.", ""]
        for group in contents.groups(examples, results):
            lines += [f"### {_md(group.title)}", "", _md(group.note), ""]
            for example in group.examples[: contents.EXAMPLES_A_GROUP // 2]:
                lines += _md_example(example)
    for section in contents.endings(results):
        lines += _md_section(section)
    return "\n".join(lines).rstrip("\n") + "\n"


# ------------------------------------------------------------------------------------------- HTML


def _text(text: Any) -> str:
    return escape(contents.clean(text))


def _prose(text: Any) -> str:
    """Escape a sentence of the report; a hyphen before a number becomes a minus sign."""
    line = re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", printable(text))
    line = line.replace("ROUGE-", "ROUGE-\u2060")  # no line break after the hyphen
    return escape(re.sub(r"\bp ([=<]) (?=\d)", "p\u00a0\\1\u00a0", line))


def _html_table(grid: Table, title: str) -> str:
    def cell(i: int, text: str, heading: bool = False) -> str:
        words = i < grid.labels
        name = "th" if heading or i == 0 else "td"
        scope = "" if name == "td" else ' scope="col"' if heading else ' scope="row"'
        style = ' class="text"' if words else ' class="range"' if text.startswith("[") else ""
        return f"<{name}{scope}{style}>{_text(text) if words else _prose(text)}</{name}>"

    head = "".join(cell(i, text, heading=True) for i, text in enumerate(grid.columns))
    rows = "".join(f"<tr>{''.join(cell(i, text) for i, text in enumerate(row))}</tr>\n" for row in grid.rows)
    label = escape(f"{title}: {grid.columns[0]}")
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _html_section(section: Section) -> str:
    name = re.sub(r"[^a-z]+", "-", section.title.lower()).strip("-")
    parts = [f'<section id="{name}">\n<h2>{_prose(section.title)}</h2>\n']
    tables = [_html_table(grid, section.title) for grid in section.tables]
    parts += tables[:1]
    parts += [f"<p>{_prose(paragraph)}</p>\n" for paragraph in section.paragraphs]
    for grid, shown in zip(section.tables[1:], tables[1:], strict=False):
        parts.append(f"<details><summary>{_prose(grid.columns[0])}</summary>{shown}</details>\n")
    if section.terms:
        terms = "".join(f"<div><dt>{_prose(t)}</dt><dd>{_prose(m)}</dd></div>\n" for t, m in section.terms)
        parts.append(f"<dl>\n{terms}</dl>\n")
    return "".join(parts) + "</section>\n"


def _facts(results: Results) -> str:
    """Return the four figures that one glance should take in."""
    facts = []
    for label, entry in (
        ("Change of toxicity", lookup(results, "toxicity", "mean")),
        ("By the other judge", lookup(results, "independent_judge", "mean")),
    ):
        if entry is not None:
            detail = f"95%: {fall_bounds(entry.get('ci95'))}"
            change = signed(fall(entry.get("reduction")))
            facts.append((label, change, detail, *contents.sides(entry)))
    rouge, length = lookup(results, "rouge", "rougeL"), lookup(results, "drift", "length")
    if rouge is not None:
        best = contents.rouge_l(results).partition(", ")[2] or "one reference"
        facts.append(("Change of ROUGE-L", contents.change(rouge), best, *contents.sides(rouge)))
    if length is not None:
        sides = contents.sides(length, lambda v: decimal(v, 1))
        words = contents.change(length, lambda v: signed_decimal(v, 1))
        facts.append(("Change of length", words, "words a summary", *sides))
    items = (
        f"<div><dt>{label}</dt><dd><b>{_prose(change)}</b> <small>{_prose(detail)}</small>"
        f'<span><i class="before">{before}</i> → <i class="after">{after}</i></span></dd></div>\n'
        for label, change, detail, before, after in facts
    )
    return f'<dl class="facts">\n{"".join(items)}</dl>\n' if facts else ""


def _html_alarms(results: Results) -> str:
    """Return one box for the alarms and one for the warnings."""
    found, boxes = contents.alarms(results), []
    for style, level in (("stop", "alarm"), ("warn", "warning")):
        sentences = [sentence for kind, _, sentence in found if (kind == "alarm") == (level == "alarm")]
        if sentences:
            items = "".join(f"<li>{_prose(sentence)}</li>\n" for sentence in sentences)
            title = initial(level) if len(sentences) == 1 else f"{len(sentences)} {level}s"
            boxes.append(f'<div class="alarm {style}" role="note"><strong>{title}</strong><ul>\n{items}</ul></div>\n')
    return "".join(boxes)


def _html_figure(drawing: Drawing) -> str:
    return (
        f'<figure id="{drawing.name}"><h3>{_prose(drawing.title)}</h3>\n{drawing.svg()}\n'
        f"<figcaption>{_prose(drawing.caption)}</figcaption></figure>\n"
    )


def _html_summary(label: str, record: Mapping[str, Any]) -> str:
    toxicity = number(record.get("toxicity"))
    width = 100 * min(max(toxicity or 0.0, 0.0), 1.0)
    numbers = [
        f"{name} {decimal(record.get(key), digits)}"
        for name, key, digits in (
            ("toxicity", "toxicity", 4),
            ("judge", "judge", 4),
            ("ROUGE-L", "rougeL", 3),
        )
        if number(record.get(key)) is not None
    ]
    summary = _text(record.get("summary", ""))
    shown = f'<p dir="auto">{summary}</p>' if summary else '<p class="none">(empty)</p>'
    meter = f'<span class="meter"><span style="width:{width:.1f}%"></span></span>'
    return f"<li>{shown}<small>{meter}{escape(label)}: {', '.join(numbers) or 'not scored'}</small></li>\n"


def _html_example(example: Mapping[str, Any]) -> str:
    before, after, fell = map(_prose, contents.means(example))
    columns = []
    for side in ("before", "after"):
        items = "".join(_html_summary(label, record) for label, record in contents.summaries(example, side))
        columns.append(f'<div class="{side}"><h5>{side.capitalize()}</h5><ul>\n{items}</ul></div>\n')
    dialogue = _text(example.get("dialogue", ""))
    references = "".join(f'<li dir="auto">{_text(r)}</li>\n' for r in contents.listed(example.get("references")))
    wanted = f"<h5>Reference summaries</h5><ul>\n{references}</ul>" if references else ""
    tags = [example.get("topic"), *contents.listed(example.get("slices") or example.get("slice"))]
    chips = "".join(f"<span>{escape(printable(tag, 80))}</span>" for tag in tags if tag)
    return (
        f'<article class="example"><header><h4>{escape(contents.name_of(example))}</h4>'
        f'<p class="chips">{chips}</p><p class="shift"><i class="before">{before}</i> → '
        f'<i class="after">{after}</i> <b>drop {fell}</b></p></header>\n'
        f'<div class="pair">{"".join(columns)}</div>\n'
        f"<details><summary>Dialogue{' and references' if references else ''}, "
        f"{count(len(dialogue.split()), 'word')}</summary>\n"
        f'<pre dir="auto">{dialogue}</pre>{wanted}</details></article>\n'
    )


def _html_examples(examples: Examples, results: Results) -> str:
    if not examples:
        return ""
    groups = [
        f'<section class="group" data-name="{group.title}"><h3>{group.title}</h3>\n'
        f"<p>{escape(group.note)}</p>\n"
        f"{''.join(map(_html_example, group.examples))}</section>\n"
        for group in contents.groups(examples, results)
    ]
    intro = (
        f"Up to {contents.EXAMPLES_A_GROUP} of each kind; all stand in examples.jsonl. "
        "The texts are what models and people wrote, and some offend."
    )
    return f'<section id="examples"><h2>Examples</h2>\n<p>{intro}</p>\n{"".join(groups)}</section>\n'


def html(results: Results, examples: Examples) -> str:
    """Return the report as one page that loads nothing.

    Args:
        results: the contents of results.json; sections whose keys are missing are left out.
        examples: the lines of examples.jsonl.
    """
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = template[template.index("<script>") + len("<script>") : template.index("</script>")]
    names = ("run", "checkpoint", "split")
    source = [f"{name} {printable(results[name], 80)}" for name in names if results.get(name)]
    pictures = drawings(results, examples)
    compared = "".join(map(_html_section, contents.compared(results)))
    shown = "".join(_html_figure(drawing) for drawing in pictures if drawing.compares)
    compared += f'<div class="grid">\n{shown}</div>\n' if shown else ""
    figures = "".join(_html_figure(drawing) for drawing in pictures if not drawing.compares)
    if figures:
        figures = f'<section id="figures"><h2>Pictures</h2>\n<div class="grid">\n{figures}</div></section>\n'
    return string.Template(template).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=escape(contents.headline(results)),
        headline=_prose(contents.headline(results)),
        verdict=re.sub(r"[^a-z]+", "-", str(lookup(results, "verdict") or "unknown").lower()),
        source=escape(", ".join(source)),
        alarms=_html_alarms(results),
        opening="".join(f"<p>{_prose(sentence)}</p>\n" for sentence in contents.opening(results)),
        facts=_facts(results),
        compared=compared,
        sections="".join(map(_html_section, contents.figures(results))),
        figures=figures,
        examples=_html_examples(examples, results),
        endings="".join(map(_html_section, contents.endings(results))),
    )
