"""Templates: what they are given is text in every form, and what is not there is never printed."""

from __future__ import annotations

import markupsafe
import pytest
from jinja2 import UndefinedError

from detox.report import templating


def filled(source: str, escaped=markupsafe.escape, **values) -> str:
    return templating._environment(escaped).from_string(source).render(values)


def test_what_a_template_is_given_is_escaped_once_in_both_forms():
    text = "<b> & *c*\n# d\x1b[2J"
    through_a_macro = "{% macro show(x) %}{{ x }}{% endmacro %}{{ show(text) }}"
    for source in ("{{ text }}", through_a_macro, "{% set x %}{{ text }}{% endset %}{{ x }}"):
        assert filled(source, text=text) == "&lt;b&gt; &amp; *c* # d"
        shown = filled(source, templating._escape_markdown, text=text)
        assert shown == r"&lt;b&gt; &amp; \*c\* \# d"
    assert filled("{{ text | lines }}", text=text) == "&lt;b&gt; &amp; *c*\n# d"


def test_what_begins_a_line_of_markdown_begins_nothing_else():
    shown = {line: str(templating.block(line)) for line in ("- a", "1. a", "[a]: b", "2) a", "a - 1. b")}
    assert list(shown.values()) == [r"\- a", r"1\. a", r"\[a\]: b", r"2\) a", "a - 1. b"]


def test_a_sentence_is_set_with_its_signs():
    shown = templating.typeset("ROUGE-L fell by -5% [-7%, -3%] in step-3; p < 0.0001")
    assert shown == "ROUGE-\u2060L fell by \u22125% [\u22127%, \u22123%] in step-3; p\u00a0&lt;\u00a00.0001"


def test_a_line_does_not_end_inside_of_a_flag():
    shown = templating.unbroken("python a.py --ppo.step-kl 1 <-- -- pre--fix")
    assert shown == 'python a.py <span class="flag">--ppo.step-kl</span> 1 &lt;-- -- pre--fix'
    assert '<span class="flag">--run</span>' in templating.typeset("pass --run x")


def test_what_is_missing_is_false_but_never_printed():
    assert filled("{% if results.a.b %}yes{% endif %}{{ results.a.b or 'none' }}", results={"a": None}) == "none"
    with pytest.raises(UndefinedError, match="'tyop' is undefined|no attribute 'tyop'"):
        filled("{{ results.tyop }}", results={"typo": 1})


def test_blank_lines_part_paragraphs():
    source = "{% set body %}\n\na {{ text }}\nb\n  \n\nc\n{% endset %}{{ (body | paragraphs) | join('|') }}"
    assert filled(source, text="x\n\ny") == "a x y b|c"
