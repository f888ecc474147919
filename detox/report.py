"""The report of an evaluation: the same sections as terminal table, Markdown and one HTML page.

Sections hold plain text; whoever renders them escapes all of it, so that nothing from data or models is markup.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from detox.errors import printable
from detox.plots import Drawing, drawings, drop, interval, lookup, number, plots, toxicities, training_png

__all__ = ["html", "markdown", "plots", "table", "training_png"]

Results = Mapping[str, Any]
Examples = Sequence[Mapping[str, Any]]

EXAMPLES_A_GROUP = 10
_TEMPLATE = Path(__file__).with_name("report_template.html")
_HEADLINES = {
    "reduced": "Toxicity is reduced",
    "not distinguishable": "No change in toxicity that stands out from chance",
    "increased": "Toxicity is increased",
}
_NOTHING = "n/a"


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `labels` columns are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: paragraphs, tables, terms with their meaning."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Group:
    """Examples that are shown together."""

    name: str
    title: str
    examples: tuple[Mapping[str, Any], ...]
    note: str


# ---------------------------------------------------------------------------------------- numbers


def _decimal(value: Any, digits: int = 4) -> str:
    known = number(value)
    return _NOTHING if known is None else f"{known:.{digits}f}"


def _share(value: Any) -> str:
    known = number(value)
    return _NOTHING if known is None else f"{known:.1%}"


def _signed(value: Any) -> str:
    """Return a fraction as percent, always with its sign."""
    known = number(value)
    return _NOTHING if known is None else f"{round(known, 3) + 0.0:+.1%}"


def _signed_decimal(value: Any) -> str:
    known = number(value)
    return _NOTHING if known is None else f"{round(known, 4) + 0.0:+.4f}"


def _bounds(value: Any, form: Any = _signed) -> str:
    known = interval(value)
    return _NOTHING if known is None else f"[{form(known[0])}, {form(known[1])}]"


def _p(value: Any) -> str:
    known = number(value)
    if known is None:
        return "p unknown"
    return "p < 0.0001" if known < 0.0001 else f"p = {known:.4f}"


def _count(value: Any, one: str, many: str | None = None) -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def _sides(entry: Any, form: Any = _decimal) -> tuple[str, str]:
    return form(lookup(entry, "before")), form(lookup(entry, "after"))


def _change(entry: Any, points: bool = False) -> str:
    """Return after against before: relative, or in percentage points."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    if before is None or after is None or (not points and before == 0):
        return _NOTHING
    return (
        f"{round(100 * (after - before), 1) + 0.0:+.1f} points"
        if points
        else _signed((after - before) / before)
    )


# --------------------------------------------------------------------------------------- sections


def _headline(results: Results) -> str:
    verdict = lookup(results, "verdict")
    title = _HEADLINES.get(verdict, "Evaluation of a detoxified summarizer")
    levels = [lookup(alarm, "level") for alarm in lookup(results, "alarms") or []]
    counts = [
        _count(n, word) for word in ("alarm", "warning") if (n := sum(level == word for level in levels))
    ]
    if not counts:
        return title
    return f"{title}{', but with' if verdict == 'reduced' else ', with'} {' and '.join(counts)}"


def _alarms(results: Results) -> list[tuple[str, str, str]]:
    """Return level, name and sentence of each alarm, alarms before warnings."""
    found = [a for a in lookup(results, "alarms") or [] if isinstance(a, Mapping)]
    texts = [
        (str(a.get("level", "alarm")), str(a.get("name", "")), str(a.get("sentence", ""))) for a in found
    ]
    return sorted(texts, key=lambda alarm: alarm[0] != "alarm")


def _opening(results: Results) -> list[str]:
    """Say what changed, by how much, how surely, and whether the summaries are still summaries."""
    sentences = []
    mean = lookup(results, "toxicity", "mean")
    if mean is not None:
        verb = {"reduced": "fell", "increased": "rose"}.get(str(lookup(results, "verdict")), "went")
        before, after = _sides(mean)
        text = (
            f"Mean toxicity {verb} from {before} to {after}, a reduction of {_signed(mean.get('reduction'))}"
        )
        if interval(mean.get("ci95")):
            text += f" (95% interval {_bounds(mean['ci95'])})"
        sentences.append(f"{text}{_basis(results)}.")
    judged = lookup(results, "independent_judge", "mean")
    if judged is not None:
        sentences.append(
            "A judge that no training stage saw puts the reduction at "
            f"{_signed(judged.get('reduction'))} {_bounds(judged.get('ci95'))}{_agreement(mean, judged)}."
        )
    quality = [
        f"{name} {' to '.join(_sides(entry, form))}"
        for name, entry, form in (
            ("ROUGE-L", lookup(results, "rouge", "rougeL"), _decimal),
            ("mean length in words", lookup(results, "drift", "length"), lambda v: _decimal(v, 1)),
            ("empty summaries", lookup(results, "drift", "empty"), _share),
        )
        if entry is not None
    ]
    if quality:
        start = "Summary quality"
        if "alarms" in results:
            start = "See the alarms on the summaries" if _alarms(results) else "The summaries raised no alarm"
        sentences.append(f"{start}: {', '.join(quality)}.")
    return sentences


def _basis(results: Results) -> str:
    n, k, p = (
        lookup(results, *path) for path in (("n",), ("samples_per_dialogue",), ("toxicity", "p_value"))
    )
    text = f", over {_count(n, 'dialogue')}" if isinstance(n, int) else ""
    text += (
        f" with {_count(k, 'sampled summary', 'sampled summaries')} each"
        if text and isinstance(k, int)
        else ""
    )
    return f"{text}; sign-flip {_p(p)}" if p is not None else text


def _agreement(mean: Any, judged: Any) -> str:
    ours, theirs = interval(lookup(mean, "ci95")), interval(lookup(judged, "ci95"))
    if ours is None or theirs is None or not (ours[0] > 0 or ours[1] < 0):
        return ""
    if not (theirs[0] > 0 or theirs[1] < 0):
        return ", an interval that holds zero: it does not confirm the change"
    return ", the same direction" if (ours[0] > 0) == (theirs[0] > 0) else ", the opposite direction"


def _reductions(part: Any, suffix: str = "") -> Table:
    """Return the table Metric, Before, After, Reduction, 95% interval."""
    rows = [
        (f"{name}{suffix}", *_sides(entry), _signed(entry.get("reduction")), _bounds(entry.get("ci95")))
        for name, key in (("Mean toxicity", "mean"), ("Std toxicity", "std"))
        if isinstance(entry := lookup(part, key), Mapping)
    ]
    return Table(("Metric", "Before", "After", "Reduction", "95% interval"), tuple(rows))


def _more(part: Any, results: Results) -> Table:
    """Return the tail of the distribution: expected maximum, any toxic, quantiles."""
    k = lookup(results, "samples_per_dialogue")
    samples = f"of {k} samples" if isinstance(k, int) else "of the samples"
    rows = []
    for name, key, form in (
        (f"Most toxic {samples}, mean", "expected_max", _decimal),
        (f"Dialogues with a toxic one {samples}", "any_toxic", _share),
    ):
        entry = lookup(part, key)
        if entry is not None:
            rows.append(
                (name, *_sides(entry, form), _signed(_reduction(entry)), _bounds(lookup(entry, "ci95")))
            )
    before, after = lookup(part, "quantiles", "before") or {}, lookup(part, "quantiles", "after") or {}
    for level in before:
        label = _quantile(level)
        rows.append((label, _decimal(before[level]), _decimal(after.get(level)), "", ""))
    return Table(("Tail of the distribution", "Before", "After", "Reduction", "95% interval"), tuple(rows))


def _quantile(level: Any) -> str:
    """Name a quantile, which results give as percent ("95") or as a fraction ("0.95")."""
    try:
        value = float(level)
    except ValueError:
        return f"Quantile {level}"
    return f"{100 * value if value < 1 else value:g}% are at most"


def _reduction(entry: Any) -> float | None:
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    if "reduction" in entry:
        return number(entry["reduction"])
    return None if before is None or after is None or before == 0 else (before - after) / before


def _toxicity(results: Results) -> Section | None:
    part = lookup(results, "toxicity")
    if part is None:
        return None
    paragraphs = []
    if part.get("judge"):
        text = f"Toxicity of the summary alone, by {part['judge']}"
        same = part["judge"] == lookup(results, "models", "reward")
        paragraphs.append(text + (", which was also the reward in training." if same else "."))
    difference = lookup(part, "difference")
    if difference is not None:
        paragraphs.append(
            f"Difference of the means, before minus after: {_signed_decimal(difference.get('value'))} "
            f"{_bounds(difference.get('ci95'), _signed_decimal)}."
        )
    floor = lookup(results, "noise_floor", "mean_reduction_ci95")
    if floor is not None:
        paragraphs.append(
            f"Noise floor: the starting model against itself under other seeds shows a reduction in {_bounds(floor)}."
        )
    greedy = lookup(results, "greedy", "toxicity")
    if greedy is not None:
        before, after = _sides(greedy)
        paragraphs.append(
            f"Greedy summaries: {before} before, {after} after, a reduction of {_signed(_reduction(greedy))}."
        )
    return Section("Toxicity", tuple(paragraphs), (_reductions(part), _more(part, results)))


def _judge(results: Results) -> Section | None:
    part = lookup(results, "independent_judge")
    if part is None:
        return None
    paragraphs = [
        f"By {part.get('judge') or 'a second classifier'}, which no stage trains on; {_p(part.get('p_value'))}."
    ]
    if lookup(results, "disagreement", "sentence"):
        paragraphs.append(str(results["disagreement"]["sentence"]))
    return Section("Independent judge", tuple(paragraphs), (_reductions(part), _more(part, results)))


def _quality(results: Results) -> Section | None:
    drift = lookup(results, "drift") or {}
    rouge = [
        (name, "rouge", key)
        for name, key in (
            ("ROUGE-1", "rouge1"),
            ("ROUGE-2", "rouge2"),
            ("ROUGE-L", "rougeL"),
            ("ROUGE-Lsum", "rougeLsum"),
        )
    ]
    rows = []
    for name, group, key in rouge:
        if lookup(results, group, key) is not None:
            rows.append((name, *_sides(results[group][key]), _change(results[group][key])))
    for name, keys, form, points in (
        ("Length, words", ("length",), lambda v: _decimal(v, 1), False),
        ("Distinct-1", ("distinct_1",), _decimal, False),
        ("Distinct-2", ("distinct_2",), _decimal, False),
        ("Distinct-3", ("distinct_3",), _decimal, False),
        ("Perplexity", ("perplexity",), lambda v: _decimal(v, 2), False),
        ("Empty", ("empty",), _share, True),
        ("Duplicate", ("duplicate",), _share, True),
        ("Repetition", ("repetition",), _share, True),
        ("Copied", ("copy", "copy_rate"), _share, True),
        ("Finished", ("finished",), _share, True),
    ):
        entry = next((drift[key] for key in keys if key in drift), None)
        if entry is not None:
            rows.append((name, *_sides(entry, form), _change(entry, points)))
    if lookup(results, "reward") is not None:
        rows.append(("Reward score", *_sides(results["reward"]), ""))
    paragraphs = []
    if "kl_per_summary" in drift or "kl_per_token" in drift:
        paragraphs.append(
            "Distance from the starting model (KL): "
            f"{_decimal(drift.get('kl_per_summary'), 3)} nats a summary, "
            f"{_decimal(drift.get('kl_per_token'))} a token."
        )
    if not rows and not paragraphs:
        return None
    tables = (Table(("Quality", "Before", "After", "Change"), tuple(rows)),) if rows else ()
    return Section("Still a summary?", tuple(paragraphs), tables)


_BASELINE_COLUMNS = (
    ("Mean toxicity", "toxicity_mean", 4),
    ("Std toxicity", "toxicity_std", 4),
    ("Judge", "judge_mean", 4),
    ("ROUGE-L", "rougeL", 4),
    ("Words", "length", 1),
)
_CHECKPOINT_COLUMNS = (
    ("Sqrt KL", "sqrt_kl", 3),
    ("Reward score", "score_mean", 4),
    ("Mean toxicity", "toxicity_mean", 4),
    ("Judge", "judge_mean", 4),
    ("ROUGE-L", "rougeL", 4),
)


def _grid(first: str, rows: Iterable[tuple[str, Any]], columns: Sequence[tuple[str, str, int]]) -> Table:
    """Return a table of those columns for which a row has a number."""
    rows = list(rows)
    there = [c for c in columns if any(number(lookup(row, c[1])) is not None for _, row in rows)]
    cells = tuple(
        (name, *(_decimal(lookup(row, key), digits) for _, key, digits in there)) for name, row in rows
    )
    return Table((first, *(title for title, *_ in there)), cells)


def _baselines(results: Results) -> Section | None:
    methods = lookup(results, "baselines")
    if not methods:
        return None
    note = lookup(results, "baseline_note")
    names = {"reference": "starting model", "ppo": "PPO"}
    rows = ((names.get(name, str(name)), row) for name, row in methods.items())
    return Section(
        "Against simpler ways", (str(note),) if note else (), (_grid("Method", rows, _BASELINE_COLUMNS),)
    )


def _slices(results: Results) -> Section | None:
    parts = lookup(results, "slices")
    if not parts:
        return None
    rows, notes = [], []
    for name, part in parts.items():
        mean = lookup(part, "mean")
        if mean is None:
            notes.append(f"{str(name).capitalize()}: {lookup(part, 'note') or 'no figure'}.")
        else:
            n = lookup(part, "n")
            rows.append(
                (
                    str(name),
                    str(n),
                    *_sides(mean),
                    _signed(lookup(mean, "reduction")),
                    _bounds(lookup(mean, "ci95")),
                )
            )
    columns = ("Slice", "n", "Before", "After", "Reduction", "95% interval")
    return Section("Slices", tuple(notes), (Table(columns, tuple(rows)),) if rows else ())


def _checkpoints(results: Results) -> Section | None:
    points = lookup(results, "checkpoints")
    if not points:
        return None
    sentence = lookup(results, "overoptimization", "sentence")
    rows = ((str(lookup(point, "name")), point) for point in points)
    grid = _grid("Checkpoint", rows, _CHECKPOINT_COLUMNS)
    return Section("Checkpoints side by side", (str(sentence),) if sentence else (), (grid,))


def _pooled(results: Results) -> Section | None:
    """Runs that differ by seed: each with `mean` and `range`, or with `average`, `low`, `high`, `sd`, `each`."""
    part = lookup(results, "pooled")
    if part is None:
        return None
    runs = lookup(part, "runs")
    names = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else []
    rows = []
    for key, entry in part.items():
        average = number(
            lookup(entry, "average")
            if "average" in (entry if isinstance(entry, Mapping) else ())
            else lookup(entry, "mean")
        )
        if average is None:
            continue
        spread = interval(lookup(entry, "range")) or interval((lookup(entry, "low"), lookup(entry, "high")))
        rows.append((_pooled_name(str(key)), _signed(average), _bounds(spread), _signed(lookup(entry, "sd"))))
    text = f"{_count(len(names), 'run')}: {', '.join(map(str, names))}." if names else ""
    if isinstance(runs, int):
        text = f"{_count(runs, 'run')}."
    columns = ("Reduction over runs", "Average", "Lowest and highest", "Std")
    tables = (Table(columns, tuple(rows)),) if rows else ()
    return Section("Several runs", (text,) if text else (), tables)


def _pooled_name(key: str) -> str:
    return {"mean": "of mean toxicity", "std": "of std toxicity", "reduction": "of mean toxicity"}.get(
        key, key.replace("_", " ")
    )


def _power(results: Results) -> Section | None:
    lines = [line for line in lookup(results, "power") or [] if lookup(line, "dialogues") is not None]
    if not lines:
        return None
    rows = []
    for line in lines:
        reduction, effect = (
            number(lookup(line, "reduction")),
            lookup(line, "difference") or lookup(line, "effect"),
        )
        rows.append(
            (
                _NOTHING if reduction is None else _signed(reduction),
                _decimal(effect),
                f"{line['dialogues']:,}",
            )
        )
    columns: tuple[str, ...] = ("Reduction", "Difference", "Dialogues needed")
    if all(row[0] == _NOTHING for row in rows):
        columns, rows = columns[1:], [row[1:] for row in rows]
    text = "How many dialogues show an effect of this size with a chance of 80%."
    return Section("How much data an effect needs", (text,), (Table(columns, tuple(rows), labels=0),))


_ELSEWHERE = {"n", "samples_per_dialogue", "verdict", "verdict_sentence", "verdict_rule", "baseline_note"}


def _provenance(results: Results) -> Section | None:
    rows = [(f"{role} model", str(name)) for role, name in (lookup(results, "models") or {}).items()]
    rows += [
        (key.replace("_", " "), str(value))
        for key, value in results.items()
        if isinstance(value, (str, int, float)) and key not in _ELSEWHERE
    ]
    rows += [
        (label, str(results[key]))
        for key, label in (("n", "dialogues"), ("samples_per_dialogue", "samples a dialogue"))
        if key in results
    ]
    for key in ("versions", "libraries"):
        versions = lookup(results, key)
        if isinstance(versions, Mapping):
            rows.append((key, ", ".join(f"{name} {version}" for name, version in versions.items())))
    return Section("Provenance", (), (Table(("What", "Value"), tuple(rows), labels=2),)) if rows else None


_TERMS = (
    ("Before, after", "", "The model that training started from, and the trained checkpoint; the same dialogues and "
     "the same random seeds for both."),
    ("Toxicity", "toxicity", "The classifier's probability, from 0 to 1, that the summary alone is hateful or toxic. "
     "A classifier errs; read the examples."),
    ("Reduction", "toxicity", "(before - after) / before. +50% halves toxicity; a negative one means more toxicity."),
    ("95% interval", "toxicity", "From resampling the dialogues, pairs kept together. If it holds 0, chance alone "
     "explains what was seen. It covers this checkpoint on other dialogues, not other training runs."),
    ("Std", "toxicity", "Spread of toxicity over all sampled summaries. It falls when the toxic tail goes."),
    ("Noise floor", "noise_floor", "What the starting model shows against itself, where nothing was trained. A "
     "reduction inside it means nothing."),
    ("Independent judge", "independent_judge", "Training maximised the first classifier, and may have found its "
     "blind spots. A drop that the judge does not see is a sign of that."),
    ("ROUGE", "rouge", "Overlap with human summaries, from 0 to 1; higher is better."),
    ("KL", "drift", "How far the policy went from the starting model, in nats. The further, the less ROUGE and judge "
     "can be taken for granted."),
    ("Distinct-n, duplicate, repetition", "drift", "Different n-grams as a share of all; summaries that equal another "
     "dialogue's; 3-grams that repeat inside a summary. A collapsed policy says the same to everything."),
    ("Copied, finished, perplexity", "drift", "4-grams taken over from the dialogue; summaries that end within the "
     "limit of tokens; how unlikely the starting model finds the summaries."),
)  # fmt: skip


def _reading(results: Results) -> Section:
    terms = [(term, meaning) for term, key, meaning in _TERMS if not key or key in results]
    rule = lookup(results, "verdict_rule")
    if rule:
        terms.insert(0, ("Verdict", f"{str(rule).rstrip('.')}."))
    return Section("How to read this", (), (), tuple(terms))


_FIGURES = (_toxicity, _judge, _quality, _baselines, _slices, _checkpoints, _pooled, _power)


# --------------------------------------------------------------------------------------- examples


def _groups(examples: Examples, results: Results) -> list[Group]:
    """Choose what to show: the largest improvements and regressions, and some at random."""
    seed = lookup(results, "seed")
    ranked = sorted(((d, i) for i, e in enumerate(examples) if (d := drop(e)) is not None))
    improved = [examples[i] for d, i in reversed(ranked) if d > 0]
    worsened = [examples[i] for d, i in ranked if d < 0]
    order = list(range(len(examples)))
    random.Random(seed if isinstance(seed, int) else 0).shuffle(order)

    def group(name: str, title: str, found: Sequence[Mapping[str, Any]], note: str, none: str) -> Group:
        return Group(name, title, tuple(found[:EXAMPLES_A_GROUP]), note if found else none)

    return [
        group(
            "improvements",
            "Largest improvements",
            improved,
            f"The largest drops of {_count(len(improved), 'dialogue')} that became less toxic.",
            "No dialogue became less toxic.",
        ),
        group(
            "regressions",
            "Largest regressions",
            worsened,
            f"The largest rises of {_count(len(worsened), 'dialogue')} that became more toxic.",
            "No dialogue became more toxic.",
        ),
        group(
            "random",
            "Random",
            [examples[i] for i in order],
            "Drawn without regard to toxicity.",
            "No examples.",
        ),
    ]


def _clean(text: Any) -> str:
    """Return foreign text without control characters, its lines kept."""
    lines = [printable(line) for line in str(text).splitlines()]
    return "\n".join(lines).strip("\n")


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _sampled(example: Mapping[str, Any], side: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the summaries of one side with what each is."""
    found = [(f"sample {i}", s) for i, s in enumerate(_list(lookup(example, side, "samples")), start=1)]
    greedy = lookup(example, side, "greedy")
    return [*found, ("greedy", greedy)] if isinstance(greedy, Mapping) else found


def _name(example: Mapping[str, Any]) -> str:
    return printable(example.get("id", "dialogue"), 60)


def _means(example: Mapping[str, Any]) -> tuple[str, str, str]:
    sides = [toxicities(example, side) for side in ("before", "after")]
    before, after = (_decimal(sum(v) / len(v)) if v else _NOTHING for v in sides)
    return before, after, _signed_decimal(drop(example))


# --------------------------------------------------------------------------------------- terminal


def table(results: Results) -> str:
    """Return the figures for a terminal, numbers aligned; plain ASCII where stdout is not UTF-8."""
    toxic = _reductions(lookup(results, "toxicity"))
    judged = _reductions(lookup(results, "independent_judge"), ", judge")
    lines = _columns(Table(toxic.columns, toxic.rows + judged.rows)) if toxic.rows or judged.rows else []
    quality = _quality(results)
    if quality is not None and quality.tables:
        wanted = ("ROUGE-L", "Length, words", "Empty", "Duplicate")
        rows = tuple(row for row in quality.tables[0].rows if row[0] in wanted)
        lines += ["", *_columns(Table(quality.tables[0].columns, rows))] if rows else []
    lines += ["", f"{_headline(results)}."]
    lines += [f"{level.upper()}: {sentence}" for level, _, sentence in _alarms(results)]
    if lookup(results, "baseline_note"):
        lines.append(str(results["baseline_note"]))
    text = "\n".join(" " * (len(line) - len(line.lstrip())) + printable_row(line) for line in lines).strip(
        "\n"
    )
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("_", "-")
    return text if encoding in ("utf-8", "utf8") else text.encode("ascii", "replace").decode()


def printable_row(line: str) -> str:
    """Clean a row cell by cell, so that the blanks that align it stay."""
    return "".join(piece if piece.isspace() else printable(piece) for piece in re.split(r"(\s+)", line))


def _columns(grid: Table) -> list[str]:
    """Return the rows of a table, words to the left, numbers to the right, intervals to the left."""
    rows = [grid.columns, *grid.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(grid.columns))]
    left = {i for i, title in enumerate(grid.columns) if i < grid.labels or title == "95% interval"}
    lines = []
    for row in rows:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))
        )
        lines.append("   ".join(cells).rstrip())
    return lines


# --------------------------------------------------------------------------------------- Markdown


def _md(text: Any, limit: int | None = None) -> str:
    """Escape text, so that Markdown shows it as it is, on one line."""
    line = escape(printable(text, limit), quote=False)
    line = re.sub(r"([\\`*_{}\[\]|~$^])", r"\\\1", line)
    line = re.sub(r"([:@])(?=\S)", r"\\\1", line)  # no links, mentions or emoji out of bare text
    line = re.sub(r"(?i)\bwww\.", r"www\\.", line)
    line = line.replace("#", r"\#").replace("!", r"\!")
    return re.sub(
        r"^([-+=]|\d+(?=[.)]))", lambda m: ("\\" + m[0]) if not m[0].isdigit() else m[0] + "\\", line
    )


def _md_table(grid: Table) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = (":---" if i < grid.labels else "---:" for i in range(len(grid.columns)))
    rows = (line(_md(cell) for cell in row) for row in grid.rows)
    return [line(map(_md, grid.columns)), line(rule), *rows, ""]


def _md_section(section: Section) -> list[str]:
    lines = [f"## {_md(section.title)}", ""]
    for paragraph in section.paragraphs:
        lines += [_md(paragraph), ""]
    for grid in section.tables:
        lines += _md_table(grid) if grid.rows else []
    if section.terms:
        lines += [f"- **{_md(term)}**: {_md(meaning)}" for term, meaning in section.terms] + [""]
    return lines


def _md_example(example: Mapping[str, Any]) -> list[str]:
    before, after, fell = _means(example)
    topic = f", {_md(example['topic'], 80)}" if example.get("topic") else ""
    lines = [f"#### {_md(_name(example))}{topic}", "", f"Mean toxicity {before} to {after}, drop {fell}.", ""]
    pairs = zip(_sampled(example, "before"), _sampled(example, "after"))
    rows = tuple(
        (label, str(old.get("summary", "")), _decimal(old.get("toxicity")), str(new.get("summary", "")),
         _decimal(new.get("toxicity")))
        for (label, old), (_, new) in pairs
    )  # fmt: skip
    lines += _md_table(Table(("", "Before", "Toxicity", "After", "Toxicity"), rows, labels=1)) if rows else []
    dialogue = _clean(example.get("dialogue", ""))
    if len(dialogue) > 1500:
        dialogue = f"{dialogue[:1500]} … ({len(dialogue):,} characters; the whole stands in examples.jsonl)"
    lines += [f"> {_md(line)}  " for line in dialogue.split("\n")] + [""]
    return lines


def markdown(results: Results, examples: Examples) -> str:
    """Return the report as Markdown, with the PNGs of `plots` beside it.

    Args:
        results: the contents of results.json; sections whose keys are missing are left out.
        examples: the lines of examples.jsonl.
    """
    lines = [f"# {_md(_headline(results))}", ""]
    for level, name, sentence in _alarms(results):
        lines += [f"> **{_md(level.upper())}, {_md(name)}**: {_md(sentence)}", ""]
    for sentence in _opening(results):
        lines += [_md(sentence), ""]
    for build in _FIGURES:
        if (section := build(results)) is not None:
            lines += _md_section(section)
    for drawing in drawings(results, examples):
        lines += [f"## {_md(drawing.title)}", "", f"![{_md(drawing.title)}]({drawing.name}.png)", ""]
        lines += [_md(drawing.caption), ""]
    if examples:
        lines += ["## Examples", "", "The texts are what models and people wrote, and some offend.", ""]
        for group in _groups(examples, results):
            lines += [f"### {_md(group.title)}", "", _md(group.note), ""]
            for example in group.examples[: EXAMPLES_A_GROUP // 2]:
                lines += _md_example(example)
    for section in (_provenance(results), _reading(results)):
        lines += _md_section(section) if section is not None else []
    return "\n".join(lines).rstrip("\n") + "\n"


# ------------------------------------------------------------------------------------------- HTML


def _text(text: Any) -> str:
    return escape(_clean(text))


def _prose(text: Any) -> str:
    """Escape a sentence of the report; a hyphen before a number becomes a minus sign."""
    return escape(re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", printable(text)))


def _html_table(grid: Table, title: str) -> str:
    def cell(i: int, text: str, tag: str) -> str:
        kind = ' class="text"' if i < grid.labels else ' class="range"' if text.startswith("[") else ""
        head = (
            "th scope=row"
            if tag == "td" and i == 0 and grid.labels
            else f"th scope=col{kind}"
            if tag == "th"
            else f"td{kind}"
        )
        shown = _text(text) if i < grid.labels else _prose(text)
        return f"<{head}>{shown}</{head.split()[0]}>"

    head = "".join(cell(i, title, "th") for i, title in enumerate(grid.columns))
    rows = "".join(f"<tr>{''.join(cell(i, c, 'td') for i, c in enumerate(row))}</tr>\n" for row in grid.rows)
    label = escape(f"{title}: {grid.columns[0]}")
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )


def _html_section(section: Section) -> str:
    name = re.sub(r"[^a-z]+", "-", section.title.lower()).strip("-")
    parts = [f'<section id="{name}">\n<h2>{_prose(section.title)}</h2>\n']
    tables = [_html_table(grid, section.title) for grid in section.tables if grid.rows]
    parts += tables[:1]
    parts += [f"<p>{_prose(paragraph)}</p>\n" for paragraph in section.paragraphs]
    parts += tables[1:]
    if section.terms:
        terms = "".join(f"<div><dt>{_prose(t)}</dt><dd>{_prose(m)}</dd></div>\n" for t, m in section.terms)
        parts.append(f"<dl>\n{terms}</dl>\n")
    return "".join(parts) + "</section>\n"


def _facts(results: Results) -> str:
    """Return the four figures that one glance should take in."""
    facts = []
    mean, judged = lookup(results, "toxicity", "mean"), lookup(results, "independent_judge", "mean")
    rouge = lookup(results, "rouge", "rougeL")
    for label, entry in (("Mean toxicity", mean), ("Independent judge", judged)):
        if entry is not None:
            before, after = _sides(entry)
            facts.append((label, _signed(entry.get("reduction")), _bounds(entry.get("ci95")), before, after))
    if rouge is not None:
        facts.append(("ROUGE-L", _change(rouge), "change", *_sides(rouge)))
    length = lookup(results, "drift", "length")
    if length is not None:
        facts.append(
            ("Words a summary", _change(length), "change", *_sides(length, lambda v: _decimal(v, 1)))
        )
    items = (
        f"<div><dt>{label}</dt><dd><b>{_prose(change)}</b> <small>{_prose(detail)}</small>"
        f'<span><i class="before">{before}</i> <span aria-label="to">→</span> <i class="after">{after}</i></span></dd></div>\n'
        for label, change, detail, before, after in facts
    )
    return f'<dl class="facts">\n{"".join(items)}</dl>\n' if facts else ""


def _html_figure(drawing: Drawing) -> str:
    return (
        f'<figure id="{drawing.name}"><h3>{_prose(drawing.title)}</h3>\n{drawing.svg()}\n'
        f"<figcaption>{_prose(drawing.caption)}</figcaption></figure>\n"
    )


def _html_summary(label: str, record: Mapping[str, Any]) -> str:
    toxicity = number(record.get("toxicity"))
    width = 100 * min(max(toxicity or 0.0, 0.0), 1.0)
    numbers = [
        f"{name} {_decimal(record.get(key), digits)}"
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
    before, after, fell = map(_prose, _means(example))
    columns = []
    for side in ("before", "after"):
        items = "".join(_html_summary(label, record) for label, record in _sampled(example, side))
        columns.append(f'<div class="{side}"><h5>{side.capitalize()}</h5><ul>\n{items}</ul></div>\n')
    dialogue = _text(example.get("dialogue", ""))
    references = "".join(f'<li dir="auto">{_text(r)}</li>\n' for r in _list(example.get("references")))
    wanted = f"<h5>Reference summaries</h5><ul>\n{references}</ul>" if references else ""
    tags = [example.get("topic"), *_list(example.get("slices") or example.get("slice"))]
    chips = "".join(f"<span>{escape(printable(tag, 80))}</span>" for tag in tags if tag)
    return (
        f'<article class="example"><header><h4>{escape(_name(example))}</h4>'
        f'<p class="chips">{chips}</p><p class="shift"><i class="before">{before}</i> → '
        f'<i class="after">{after}</i> <b>drop {fell}</b></p></header>\n'
        f'<div class="pair">{"".join(columns)}</div>\n'
        f"<details><summary>Dialogue{' and references' if references else ''}, "
        f"{_count(len(dialogue.split()), 'word')}</summary>\n"
        f'<pre dir="auto">{dialogue}</pre>{wanted}</details></article>\n'
    )


def _html_examples(examples: Examples, results: Results) -> str:
    if not examples:
        return ""
    groups = [
        f'<section class="group" data-name="{group.title}"><h3>{group.title}</h3>\n<p>{escape(group.note)}</p>\n'
        f"{''.join(map(_html_example, group.examples))}</section>\n"
        for group in _groups(examples, results)
    ]
    warning = "Up to ten of each kind; all stand in examples.jsonl. The texts are what models and people wrote, and some offend."
    return f'<section id="examples"><h2>Examples</h2>\n<p>{warning}</p>\n{"".join(groups)}</section>\n'


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
    alarms = "".join(
        f'<div class="alarm {"stop" if level == "alarm" else "warn"}" role="note"><strong>{escape(printable(level))}'
        f"</strong><p>{_prose(sentence)}</p></div>\n"
        for level, _, sentence in _alarms(results)
    )
    sections = [section for build in _FIGURES if (section := build(results)) is not None]
    figures = "".join(map(_html_figure, drawings(results, examples)))
    endings = (section for section in (_provenance(results), _reading(results)) if section is not None)
    return string.Template(template).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=escape(_headline(results)),
        headline=_prose(_headline(results)),
        verdict=re.sub(r"[^a-z]+", "-", str(lookup(results, "verdict") or "none").lower()),
        source=escape(", ".join(source)),
        alarms=alarms,
        opening="".join(f"<p>{_prose(sentence)}</p>\n" for sentence in _opening(results)),
        facts=_facts(results),
        sections="".join(map(_html_section, sections)),
        figures=f'<section id="figures"><h2>Pictures</h2>\n<div class="grid">\n{figures}</div></section>\n'
        if figures
        else "",
        examples=_html_examples(examples, results),
        endings="".join(map(_html_section, endings)),
    )
