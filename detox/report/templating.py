"""The templates of what people read, filled in: all that a template is given is escaped, without its doing anything.

What comes from data or models is text on one line and never markup. In a template, `lines` keeps line ends, `typeset`
sets the signs of a sentence as HTML readers expect them, `block` guards the first character of a line of Markdown.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, NoReturn

import markupsafe
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, UndefinedError
from markupsafe import Markup

from detox.report import comparisons, examples, headline, provenance, quality, table, toxicity
from detox.stage import figures
from detox.stage.errors import printable

_UNLINKED = {"h1", "h2", "h3", "summary", "svg"}
"""Elements in which no term becomes a link."""

_ALONE = {"before", "after"}
"""Terms that are ordinary words too, and links only where nothing else stands, as over a column."""


class Missing(ChainableUndefined):
    """What results do not hold: false, and so is all in it; nothing that could be printed."""

    def __str__(self) -> NoReturn:
        raise UndefinedError(self._undefined_message)


def to_html(template: str, **values: Any) -> str:
    """Return an HTML template with these values in it."""
    return _environment(markupsafe.escape).get_template(template).render(values)


def to_markdown(template: str, **values: Any) -> str:
    """Return a Markdown template with these values in it."""
    text = _environment(_escape_markdown).get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


@cache
def _environment(escaped: Callable[[str], Markup]) -> Environment:
    """Return where templates are found, and what they may call: our figures and forms of numbers.

    Args:
        escaped: makes one line of foreign text markup that shows it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,  # so that what `escaped` returns, and what macros make of it, is known to be done
        finalize=lambda value: value if isinstance(value, Markup) else escaped(printable(value)),
        undefined=Missing,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    of_text = printable, clean, lines, typeset, unbroken, block, as_json
    of_page = paragraphs, contents, linked, anchor, digest, table.change
    environment.filters |= dict(inspect.getmembers(figures, inspect.isfunction))
    environment.filters |= {function.__name__: function for function in (*of_text, *of_page)}
    modules = comparisons, examples, figures, headline, provenance, quality, toxicity
    environment.globals |= {module.__name__.rpartition(".")[2]: module for module in modules}
    return environment


# ---------------------------------------------------------------------------------------------------- escaping


def _escape_markdown(line: str) -> Markup:
    """Escape one line, so that Markdown shows it as it is."""
    text = re.sub(r"([\\`*_{}|~$^#!<])", r"\\\1", escape(line, quote=False))
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    text = re.sub(r"([:@])(?=\S)", r"\\\1", text)  # no links, mentions or emoji out of bare text
    return Markup(re.sub(r"(?i)\bwww\.", r"www\\.", text))  # noqa: S704


def block(text: str) -> Markup:
    """Escape what begins a line of Markdown, where a dash or a number would begin a list, a bracket a definition."""
    line: str = text if isinstance(text, Markup) else _escape_markdown(printable(text))
    line = re.sub(r"^([-+=\[])", r"\\\1", line)
    return Markup(re.sub(r"^(\d+)(?=[.)])", r"\1\\", line))  # noqa: S704


def typeset(text: str) -> Markup:
    """Escape a sentence for HTML; a hyphen before a number becomes a minus sign."""
    line = re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", str(unbroken(text)))
    line = line.replace("ROUGE-", "ROUGE-\u2060")  # no line break after the hyphen
    return Markup(re.sub(r"\bp (=|&lt;) (?=\d)", "p\u00a0\\1\u00a0", line))  # noqa: S704


def unbroken(text: str) -> Markup:
    """Escape text for HTML; a line does not end inside of a flag."""
    line = str(text if isinstance(text, Markup) else markupsafe.escape(printable(text)))
    return Markup(re.sub(r"(?<![\w-])--[\w.-]+", r'<span class="flag">\g<0></span>', line))  # noqa: S704


def lines(text: Any) -> Markup:
    """Escape text for HTML, its lines kept."""
    return markupsafe.escape(clean(text))


def clean(text: Any) -> str:
    """Return foreign text without control characters, its lines kept."""
    return "\n".join(map(printable, str(text).splitlines())).strip("\n")


def as_json(value: Any, indent: int | None = None) -> Markup:
    """Return JSON for a block of code in Markdown, which no string in it can end: their line ends are escaped."""
    return Markup(json.dumps(value, indent=indent))  # noqa: S704


# ------------------------------------------------------------------------------------------- parts of a page


def paragraphs(text: Markup) -> list[Markup]:
    """Return what blank lines part, each on one line; `text` is escaped."""
    found = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [Markup(part) for part in found if part]  # noqa: S704


def contents(page: Markup) -> list[tuple[str, Markup]]:
    """Return anchor and title of each section of a page, in HTML or Markdown."""
    found = re.findall(r'<section id="([^"]+)">\s*<h2>(.*?)</h2>', page)
    found = found or [(anchor(title), title) for title in re.findall(r"^## (.*)$", page, flags=re.MULTILINE)]
    return [(place, Markup(title)) for place, title in found]  # noqa: S704


def linked(page: Markup, glossary: Markup) -> Markup:
    """Link a term to its place in the glossary, where it first stands in a section, outside headings and the like.

    Args:
        page: HTML.
        glossary: `<dt id=...>` of each entry; the terms are what commas part in it.
    """
    entries = re.findall(r'<dt id="([^"]+)">(.*?)</dt>', glossary)
    places = {term.lower().removesuffix("-n"): place for place, terms in entries for term in terms.split(", ")}
    longest = sorted(places, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w/.-])({'|'.join(map(re.escape, longest))})(?![\w/])", flags=re.IGNORECASE)
    new = set(places)

    def link(found: re.Match[str]) -> str:
        term = found[0].lower()
        if term not in new or (term in _ALONE and found[0] != found.string.strip()):
            return found[0]
        new.remove(term)
        return f'<a class="term" href="#{places[term]}">{found[0]}</a>'

    within, written = 0, []
    for part in re.split(r"(<[^>]*>)", page):
        if not part.startswith("<"):
            written.append(part if within else pattern.sub(link, part))
            continue
        name = part.strip("</>").partition(" ")[0]
        if name == "section":
            new = set(places)
        if name in _UNLINKED:
            within += -1 if part.startswith("</") else 1
        written.append(part)
    return Markup("".join(written))  # noqa: S704


def anchor(title: Any) -> str:
    return re.sub(r"[^a-z]+", "-", str(title).lower()).strip("-")


def digest(script: str) -> str:
    """Return the hash by which a page's policy knows its own script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
