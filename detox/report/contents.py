"""What the report of an evaluation says, in plain text: figures, sections, chosen examples.

Whoever renders it (report.py) escapes all of it, so that nothing from data or models becomes markup.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detox.report.plots import drop, toxicities
from detox.stage.errors import printable
from detox.stage.figures import (
    NOTHING,
    bounds,
    count,
    decimal,
    fall,
    fall_bounds,
    initial,
    interval,
    lookup,
    number,
    points,
    share,
    signed,
    signed_decimal,
)

Results = Mapping[str, Any]
Examples = Sequence[Mapping[str, Any]]

EXAMPLES_A_GROUP = 10
_HEADLINES = {
    "reduced": "Toxicity is reduced",
    "not distinguishable": "No change in toxicity that stands out from chance",
    "increased": "Toxicity is increased",
}


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


def _p(value: Any) -> str:
    known = number(value)
    if known is None:
        return "p unknown"
    return "p < 0.0001" if known < 0.0001 else f"p = {known:.4f}"


def sides(entry: Any, form: Callable[[Any], str] = decimal) -> tuple[str, str]:
    return form(lookup(entry, "before")), form(lookup(entry, "after"))


def change(entry: Any, form: Callable[[Any], str] = signed_decimal) -> str:
    """Return after - before."""
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    return NOTHING if before is None or after is None else form(after - before)


def rouge_l(results: Results) -> str:
    """Name ROUGE-L by what it is measured against."""
    references = lookup(results, "references")
    return f"ROUGE-L, best of {references}" if isinstance(references, int) and references > 1 else "ROUGE-L"


# --------------------------------------------------------------------------------------- sections


def headline(results: Results) -> str:
    """Return the verdict, what got worse for sure, and how many alarms there are."""
    verdict = lookup(results, "verdict")
    title = _HEADLINES.get(verdict, "Evaluation of a detoxified summarizer")
    if lookup(results, "checkpoints"):
        named = printable(lookup(results, "selected") or lookup(results, "checkpoint") or "the last one", 60)
        title = f"{len(results['checkpoints'])} checkpoints side by side; {named}: {title[0].lower()}{title[1:]}"
    lost = worse(results)
    if lost:
        shown = lost if len(lost) < 3 else [*lost[:2], f"{len(lost) - 2} more"]
        title += f"; worse: {', '.join(shown[:-1])}{' and ' if len(shown) > 1 else ''}{shown[-1]}"
    levels = [lookup(alarm, "level") for alarm in lookup(results, "alarms") or []]
    counts = [count(n, word) for word in ("alarm", "warning") if (n := sum(level == word for level in levels))]
    if not counts:
        return title
    return f"{title}{', but with' if verdict == 'reduced' else ', with'} {' and '.join(counts)}"


def worse(results: Results) -> list[str]:
    """Return what got worse for sure, overlaps of one family by the first of them."""
    names = {key: name for name, key, _, _ in _FIGURES} | {"rougeL": "ROUGE-L"}
    families = {key: "ROUGE-L" for key in names if key.startswith("rouge")}
    families |= {key: "distinct n-grams" for key in names if key.startswith("distinct")}
    found = [str(key) for key in lookup(results, "worse") or []]
    first = sorted(found, key=lambda key: not key.startswith("rouge"))
    return list(dict.fromkeys(families.get(key, names.get(key, key).lower()) for key in first))


def alarms(results: Results) -> list[tuple[str, str, str]]:
    """Return level, name and sentence of each alarm, alarms before warnings."""
    found = [a for a in lookup(results, "alarms") or [] if isinstance(a, Mapping)]
    texts = [(str(a.get("level", "alarm")), str(a.get("name", "")), str(a.get("sentence", ""))) for a in found]
    first = ("hacking", "disagreement")
    return sorted(texts, key=lambda alarm: (alarm[0] != "alarm", alarm[1] not in first))


def opening(results: Results) -> list[str]:
    """Say what changed, by how much, how surely, and whether the summaries are still summaries."""
    sentences = []
    mean = lookup(results, "toxicity", "mean")
    if mean is not None:
        verb = {"reduced": "fell", "increased": "rose"}.get(str(lookup(results, "verdict")), "went")
        before, after = sides(mean)
        text = f"Mean toxicity {verb} from {before} to {after}: {signed(fall(mean.get('reduction')))}"
        if interval(mean.get("ci95")):
            text += f" (95% interval {fall_bounds(mean['ci95'])})"
        sentences.append(f"{text}{_basis(results)}.")
        if mean.get("note"):
            sentences.append(str(mean["note"]))
    judged = lookup(results, "independent_judge", "mean")
    if judged is not None:
        sentences.append(
            "A judge that no training stage saw puts the change at "
            f"{signed(fall(judged.get('reduction')))} {fall_bounds(judged.get('ci95'))}{_agreement(mean, judged)}."
        )
    return sentences + _still_summaries(results)


def _still_summaries(results: Results) -> list[str]:
    """Say what the summaries are like, and what of that is worse than chance makes it."""
    quality = [
        f"{name} {' to '.join(sides(entry, form))}"
        for name, entry, form in (
            (rouge_l(results), lookup(results, "rouge", "rougeL"), decimal),
            ("names and numbers that the dialogue has", lookup(results, "drift", "faithful"), share),
            ("mean length in words", lookup(results, "drift", "length"), lambda v: decimal(v, 1)),
            ("empty summaries", lookup(results, "drift", "empty"), share),
        )
        if entry is not None
    ]
    if not quality:
        return []
    start = "Summary quality"
    if "alarms" in results:
        start = "See the alarms on the summaries" if alarms(results) else "The summaries raised no alarm"
    sentences = [f"{start}: {'; '.join(quality)}."]
    entries = {key: entry for group in ("rouge", "drift") for key, entry in (lookup(results, group) or {}).items()}
    entries |= {"bert_score": lookup(results, "bert_score")}
    lost = [
        f"{name} {' to '.join(sides(entries[key], form))}"
        for name, key, form, _ in _figures_of(results)
        if key in (lookup(results, "worse") or []) and entries.get(key) is not None
    ]
    if lost:
        sentences.append(f"Worse, and more so than chance could explain: {'; '.join(lost)}.")
    return sentences


def _basis(results: Results) -> str:
    n, k, p = (lookup(results, *path) for path in (("n",), ("samples_per_dialogue",), ("toxicity", "p_value")))
    text = f", over {count(n, 'dialogue')}" if isinstance(n, int) else ""
    text += f" with {count(k, 'sampled summary', 'sampled summaries')} each" if text and isinstance(k, int) else ""
    return f"{text}; permutation test {_p(p)}" if p is not None else text


def _agreement(mean: Any, judged: Any) -> str:
    ours, theirs = interval(lookup(mean, "ci95")), interval(lookup(judged, "ci95"))
    if ours is None or theirs is None or not (ours[0] > 0 or ours[1] < 0):
        return ""
    if not (theirs[0] > 0 or theirs[1] < 0):
        return ", an interval that holds zero: it does not confirm the change"
    return ", the same direction" if (ours[0] > 0) == (theirs[0] > 0) else ", the opposite direction"


def _filled(*tables: Table) -> tuple[Table, ...]:
    return tuple(grid for grid in tables if grid.rows)


def reductions(part: Any, suffix: str = "") -> Table:
    """Return the table Metric, Before, After, Change, 95% interval."""
    rows = [
        (f"{name}{suffix}", *sides(entry), signed(fall(entry.get("reduction"))), fall_bounds(entry.get("ci95")))
        for name, key in (("Mean toxicity", "mean"), ("Std toxicity", "std"))
        if isinstance(entry := lookup(part, key), Mapping)
    ]
    return Table(("Metric", "Before", "After", "Change", "95% interval"), tuple(rows))


def _more(part: Any, results: Results) -> Table:
    """Return the tail of the distribution: expected maximum, any toxic, quantiles."""
    k = lookup(results, "samples_per_dialogue")
    samples = f"of {k} samples" if isinstance(k, int) else "of the samples"
    rows = []
    for name, key, form in (
        (f"Most toxic {samples}, mean", "expected_max", decimal),
        (f"Dialogues with a toxic one {samples}", "any_toxic", share),
    ):
        entry = lookup(part, key)
        if entry is not None:
            rows.append(
                (name, *sides(entry, form), signed(fall(_reduction(entry))), fall_bounds(lookup(entry, "ci95")))
            )
    before, after = lookup(part, "quantiles", "before") or {}, lookup(part, "quantiles", "after") or {}
    for level in before:
        label = _quantile(level)
        rows.append((label, decimal(before[level]), decimal(after.get(level)), "", ""))
    return Table(("Tail of the distribution", "Before", "After", "Change", "95% interval"), tuple(rows))


def _notes(part: Any) -> list[str]:
    """Return why there is no interval, each reason once."""
    entries = (lookup(part, key) for key in ("mean", "std", "expected_max", "any_toxic"))
    return list(dict.fromkeys(str(entry["note"]) for entry in entries if lookup(entry, "note")))


def _quantile(level: Any) -> str:
    """Name a quantile, which results give as percent ("95") or as a fraction ("0.95")."""
    try:
        value = float(level)
    except ValueError:
        return f"Quantile {level}"
    return f"{100 * value if value < 1 else value:g}% at most"


def _reduction(entry: Any) -> float | None:
    before, after = number(lookup(entry, "before")), number(lookup(entry, "after"))
    if "reduction" in entry:
        return number(entry["reduction"])
    return None if before is None or after is None or before == 0 else (before - after) / before


def is_comparison(results: Results) -> bool:
    """Return whether these results put several checkpoints or runs side by side."""
    return bool(lookup(results, "checkpoints") or lookup(results, "pooled"))


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
            f"Change of the mean: {signed_decimal(fall(difference.get('value')))} "
            f"{fall_bounds(difference.get('ci95'), signed_decimal)}."
        )
    floor = lookup(results, "noise_floor", "mean_reduction_ci95")
    if floor is not None:
        paragraphs.append(
            f"Noise floor: the starting model against itself under other seeds shows a change in {fall_bounds(floor)}."
        )
    greedy = lookup(results, "greedy", "toxicity")
    if greedy is not None:
        before, after = sides(greedy)
        paragraphs.append(f"Greedy summaries: {before} before, {after} after, {signed(fall(_reduction(greedy)))}.")
    paragraphs += _notes(part)
    return Section("Toxicity", tuple(paragraphs), _filled(reductions(part), _more(part, results)))


def _judge(results: Results) -> Section | None:
    part = lookup(results, "independent_judge")
    if part is None:
        return None
    paragraphs = [
        f"By {part.get('judge') or 'a second classifier'}, which no stage trains on; "
        f"permutation test {_p(part.get('p_value'))}."
    ]
    if lookup(results, "disagreement", "sentence"):
        paragraphs.append(str(results["disagreement"]["sentence"]))
    paragraphs += _notes(part)
    return Section("Independent judge", tuple(paragraphs), _filled(reductions(part), _more(part, results)))


def _whole(value: Any) -> str:
    return decimal(value, 1)


def _whole_change(value: Any) -> str:
    return signed_decimal(value, 1)


def _cents(value: Any) -> str:
    return decimal(value, 2)


def _cents_change(value: Any) -> str:
    return signed_decimal(value, 2)


# name, key in `rouge` or `drift`, form of both sides, form of the change
_FIGURES: tuple[tuple[str, str, Callable[[Any], str], Callable[[Any], str]], ...] = (
    ("ROUGE-1", "rouge1", decimal, signed_decimal),
    ("ROUGE-2", "rouge2", decimal, signed_decimal),
    ("ROUGE-L", "rougeL", decimal, signed_decimal),
    ("ROUGE-Lsum", "rougeLsum", decimal, signed_decimal),
    ("ROUGE-L, mean of references", "rougeL_mean", decimal, signed_decimal),
    ("BERTScore", "bert_score", decimal, signed_decimal),
    ("Names and numbers that the dialogue has", "faithful", share, points),
    ("Names and numbers a summary", "named", _cents, _cents_change),
    ("Length, words", "length", _whole, _whole_change),
    ("Distinct-1", "distinct_1", decimal, signed_decimal),
    ("Distinct-2", "distinct_2", decimal, signed_decimal),
    ("Distinct-3", "distinct_3", decimal, signed_decimal),
    ("Perplexity", "perplexity", _cents, _cents_change),
    ("Empty", "empty", share, points),
    ("Duplicate", "duplicate", share, points),
    ("Repetition", "repetition", share, points),
    ("Copied", "copy", share, points),
    ("Finished", "finished", share, points),
)


def _figures_of(results: Results) -> list[tuple[str, str, Callable[[Any], str], Callable[[Any], str]]]:
    """Return _FIGURES with the overlaps named by how many references there are."""
    references = lookup(results, "references")
    several = isinstance(references, int) and references > 1
    named = []
    for name, key, form, its in _FIGURES:
        if key == "rougeL_mean":
            name = f"ROUGE-L, mean of {references}"
        elif several and (key.startswith("rouge") or key == "bert_score"):
            name += f", best of {references}"
        if key != "rougeL_mean" or several:
            named.append((name, key, form, its))
    return named


def _bounds(value: Any, form: Callable[[Any], str]) -> str:
    """Return the interval of a change, its unit once."""
    if form is not points or interval(value) is None:
        return bounds(value, form)
    return f"{bounds(value, lambda v: points(v).removesuffix(' points'))} points"


def quality_section(results: Results) -> Section | None:
    drift = lookup(results, "drift") or {}
    entries = {**(lookup(results, "rouge") or {}), **drift, "bert_score": lookup(results, "bert_score")}
    rows = [
        (name, *sides(entries[key], form), change(entries[key], its), _bounds(lookup(entries[key], "ci95"), its))
        for name, key, form, its in _figures_of(results)
        if entries.get(key) is not None
    ]
    if lookup(results, "reward") is not None:
        entry = results["reward"]
        interval_of = bounds(lookup(entry, "ci95"), signed_decimal)
        rows.append(("Reward score", *sides(entry), change(entry), interval_of))
    paragraphs = []
    if "kl_per_summary" in drift or "kl_per_token" in drift:
        paragraphs.append(
            "Distance from the starting model (KL): "
            f"{decimal(drift.get('kl_per_summary'), 3)} nats a summary "
            f"{bounds(drift.get('kl_per_summary_ci95'), lambda v: decimal(v, 3))}, "
            f"{decimal(drift.get('kl_per_token'))} a token."
        )
    if number(lookup(results, "rouge_unicode")):
        paragraphs.append(
            f"In {share(results['rouge_unicode'])} of the dialogues, whose references hold letters other than a to z, "
            "ROUGE compares words of any alphabet, and single letters of scripts without blanks between words. "
            "rouge-score's own tokenizer drops such letters."
        )
    if number(lookup(results, "unknown", "tokens")):
        paragraphs.append(
            f"Unknown to the tokenizer, so that neither model ever saw them: {share(results['unknown']['tokens'])} of "
            f"the prompts' tokens, {share(results['unknown']['characters'])} of the dialogues' characters."
        )
    if not rows and not paragraphs:
        return None
    tables = (Table(("Quality", "Before", "After", "Change", "95% interval"), tuple(rows)),) if rows else ()
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
    cells = tuple((name, *(decimal(lookup(row, key), digits) for _, key, digits in there)) for name, row in rows)
    return Table((first, *(title for title, *_ in there)), cells)


def _baselines(results: Results) -> Section | None:
    methods = lookup(results, "baselines")
    if not methods:
        return None
    note = lookup(results, "baseline_note")
    names = {"reference": "Starting model", "ppo": "PPO"}
    rows = ((names.get(name) or initial(name), row) for name, row in methods.items())
    return Section("Against simpler ways", (str(note),) if note else (), (_grid("Method", rows, _BASELINE_COLUMNS),))


def _slices(results: Results) -> Section | None:
    parts = lookup(results, "slices")
    if not parts:
        return None
    rows, notes = [], []
    for name, part in parts.items():
        mean = lookup(part, "mean")
        if mean is None:
            notes.append(f"{initial(name)}: {lookup(part, 'note') or 'no figure'}.")
        else:
            n = lookup(part, "n")
            rows.append(
                (
                    initial(name),
                    str(n),
                    *sides(mean),
                    signed(fall(lookup(mean, "reduction"))),
                    fall_bounds(lookup(mean, "ci95")),
                )
            )
            notes += [f"{initial(name)}: {note}" for note in (lookup(mean, "note"),) if note]
    columns = ("Slice", "n", "Before", "After", "Change", "95% interval")
    if len(rows) > 1:
        notes.insert(0, f"The {len(rows)} intervals hold jointly: in 95% of evaluations none of them misses.")
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
    """Runs that differ by seed, figures with `mean` and `range` or with `average`, `low`, `high`, `sd`."""
    part = lookup(results, "pooled")
    if part is None:
        return None
    runs = lookup(part, "runs")
    names = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else []
    rows: list[tuple[str, ...]] = []
    for key, entry in part.items():
        average = number(
            lookup(entry, "average")
            if "average" in (entry if isinstance(entry, Mapping) else ())
            else lookup(entry, "mean")
        )
        if average is None:
            continue
        spread = interval(lookup(entry, "range")) or interval((lookup(entry, "low"), lookup(entry, "high")))
        sd = signed(lookup(entry, "sd")).lstrip("+")
        rows.append((_pooled_name(str(key)), signed(fall(average)), fall_bounds(spread), sd))
    text = f"{count(len(names), 'run')}: {', '.join(map(str, names))}." if names else ""
    if isinstance(runs, int):
        text = f"{count(runs, 'run')}."
    columns: tuple[str, ...] = ("Change over runs", "Average", "Lowest and highest", "Std")
    if all(row[-1] == NOTHING for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
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
    rows: list[tuple[str, ...]] = []
    for line in lines:
        reduction, effect = (
            number(lookup(line, "reduction")),
            lookup(line, "difference") or lookup(line, "effect"),
        )
        rows.append(
            (
                NOTHING if reduction is None else signed(-reduction),
                signed_decimal(fall(effect)),
                f"{line['dialogues']:,}",
            )
        )
    columns: tuple[str, ...] = ("Change", "Of the mean", "Dialogues needed")
    if all(row[0] == NOTHING for row in rows):
        columns, rows = columns[1:], [row[1:] for row in rows]
    text = "How many dialogues show an effect of this size with a chance of 80%."
    return Section("How much data an effect needs", (text,), (Table(columns, tuple(rows), labels=0),))


_ELSEWHERE = {"n", "samples_per_dialogue", "references", "rouge_unicode", "verdict", "verdict_sentence", "verdict_rule"}
_ELSEWHERE |= {"baseline_note"}


_TRAINING = (
    ("advantages", "advantages by"),
    ("updates", "updates"),
    ("batch_size", "summaries an update"),
    ("samples_per_dialogue", "of them a dialogue"),
    ("scored_summaries", "summaries scored in training, warm-up included"),
    ("learning_rate", "learning rate"),
    ("kl_coef", "KL weight"),
    ("trained", "trained"),
    ("commit", "commit"),
    ("command", "trained by"),
)


def _provenance(results: Results) -> Section | None:
    training = lookup(results, "training") or {}
    rows = [(f"{role} model", str(name)) for role, name in (lookup(results, "models") or {}).items()]
    rows += [
        (label, f"{training[key]:,}" if isinstance(training[key], int) else str(training[key]))
        for key, label in _TRAINING
        if training.get(key) is not None
    ]
    rows += [
        ("evaluated by" if key == "command" else key.replace("_", " "), str(value))
        for key, value in results.items()
        if isinstance(value, (str, int, float)) and key not in _ELSEWHERE
    ]
    rows += [
        (label, str(results[key]))
        for key, label in (
            ("n", "dialogues"),
            ("samples_per_dialogue", "samples a dialogue"),
            ("references", "references a dialogue"),
        )
        if key in results
    ]
    for key in ("versions", "libraries"):
        versions = lookup(results, key)
        if isinstance(versions, Mapping):
            rows.append((key, ", ".join(f"{name} {version}" for name, version in versions.items())))
    return Section("Provenance", (), (Table(("What", "Value"), tuple(rows), labels=2),)) if rows else None


_TERMS = (
    (
        "Before, after",
        "",
        "The model that training started from, and the trained checkpoint; both on the same dialogues "
        "under the same random seeds.",
    ),
    (
        "Toxicity",
        "toxicity",
        "The classifier's probability, from 0 to 1, that the summary alone is hateful or toxic. A "
        "classifier errs: look at summaries yourself.",
    ),
    (
        "Change",
        "toxicity",
        "After against before: -50% is half the toxicity. A minus is less, a plus more, in every table; points are "
        "percentage points.",
    ),
    (
        "95% interval",
        "toxicity",
        "From how the dialogues differ, pairs kept together. If it holds 0, chance alone could explain what was "
        "seen. It covers this checkpoint on other dialogues, not other training runs. Where too few dialogues carry "
        "the toxicity there is none.",
    ),
    (
        "Std toxicity",
        "toxicity",
        "Standard deviation over all sampled summaries. It falls when the toxic tail goes.",
    ),
    (
        "Noise floor",
        "noise_floor",
        "What the starting model shows against itself, where nothing was trained. A change inside it means nothing.",
    ),
    (
        "Independent judge",
        "independent_judge",
        "Training may have found the blind spots of the classifier that it maximised. A drop that the judge "
        "does not see is a sign of that.",
    ),
    (
        "ROUGE",
        "rouge",
        "Overlap with human summaries, from 0 to 1; higher is better. Where a dialogue has several, the best counts, "
        "which is higher than their mean and than what a single one gives.",
    ),
    (
        "Names and numbers",
        "drift",
        "Words with a capital that are no ordinary words, and digits. One that the dialogue does not have was made up.",
    ),
    (
        "KL",
        "drift",
        "How far the policy went from the starting model, in nats. The further, the less can be taken for granted.",
    ),
    (
        "Distinct-n, duplicate, repetition",
        "drift",
        "Different n-grams as a share of all; summaries that equal another dialogue's; 3-grams that "
        "repeat inside a summary. A collapsed policy says the same to everything.",
    ),
    (
        "Copied, finished, perplexity",
        "drift",
        "4-grams taken over from the dialogue; summaries that end within the limit of tokens; how unlikely "
        "the starting model finds the summaries.",
    ),
)


def _reading(results: Results) -> Section:
    terms = [(term, meaning) for term, key, meaning in _TERMS if not key or key in results]
    rule = lookup(results, "verdict_rule")
    if rule:
        terms.insert(0, ("Verdict", f"{str(rule).rstrip('.')}."))
    return Section("How to read this", (), (), tuple(terms))


def compared(results: Results) -> list[Section]:
    """Return the sections that put checkpoints or runs side by side, which a comparison leads with."""
    return [section for build in (_checkpoints, _pooled) if (section := build(results)) is not None]


def figures(results: Results) -> list[Section]:
    """Return the sections of figures on one checkpoint for which results hold something, in order."""
    builders = (_toxicity, _judge, quality_section, _baselines, _slices, _power)
    return [section for build in builders if (section := build(results)) is not None]


def endings(results: Results) -> list[Section]:
    """Return what stands at the end: where the figures come from, and what they mean."""
    return [section for section in (_provenance(results), _reading(results)) if section is not None]


# --------------------------------------------------------------------------------------- examples


def groups(examples: Examples, results: Results) -> list[Group]:
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
            f"The largest drops of {count(len(improved), 'dialogue')} that became less toxic.",
            "No dialogue became less toxic.",
        ),
        group(
            "regressions",
            "Largest regressions",
            worsened,
            f"The largest rises of {count(len(worsened), 'dialogue')} that became more toxic.",
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


def clean(text: Any) -> str:
    """Return foreign text without control characters, its lines kept."""
    lines = [printable(line) for line in str(text).splitlines()]
    return "\n".join(lines).strip("\n")


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def summaries(example: Mapping[str, Any], side: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the summaries of one side with what each is."""
    found = [(f"sample {i}", s) for i, s in enumerate(listed(lookup(example, side, "samples")), start=1)]
    greedy = lookup(example, side, "greedy")
    return [*found, ("greedy", greedy)] if isinstance(greedy, Mapping) else found


def name_of(example: Mapping[str, Any]) -> str:
    return printable(example.get("id", "dialogue"), 60)


def means(example: Mapping[str, Any]) -> tuple[str, str, str]:
    sides = [toxicities(example, side) for side in ("before", "after")]
    before, after = (decimal(sum(v) / len(v)) if v else NOTHING for v in sides)
    return before, after, signed_decimal(drop(example))
