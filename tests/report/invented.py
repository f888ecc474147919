"""Parts of results and examples that no model made, and a text that tries to become markup."""

from __future__ import annotations

HOSTILE = (
    "</script><script>window.pwned=top.pwned=1</script>"
    '<img src=x onerror="window.pwned=top.pwned=1"> '
    "<b>bold</b> ![i](javascript:x) "
    "[l](http://a.example) `code` *em* __st__ a|b $x$ &lt; \u202e#1 'q\" ${title} {{7*7}}"
)


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
