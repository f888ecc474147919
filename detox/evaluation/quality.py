"""Whether summaries are still summaries: length, faithfulness, repetition, copying, variety, each with influences."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from detox.evaluation import intervals
from detox.evaluation.intervals import Estimate
from detox.scoring import text_figures

_PART = re.compile(r"\d+|[^\W\d_]+")
"""A number, or letters in a row."""


def duplicates(summaries: Sequence[Sequence[str]]) -> Estimate:
    """Return the share of summaries that another dialogue got too; without a dialogue, its twins may be none."""
    texts = [[" ".join(s.lower().split()) for s in row] for row in summaries]
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for i, row in enumerate(texts):
        for text in row:
            owners[text].add(i)
    counts = np.array([len(row) for row in texts])
    lost = np.zeros(len(texts))
    for row in texts:
        for text in row:
            if len(owners[text]) > 1:
                lost[list(owners[text])] += len(owners[text]) == 2
    mine = np.array([sum(len(owners[text]) > 1 for text in row) for row in texts])
    twins = lost - np.array([sum(len(owners[text]) == 2 for text in row) for row in texts])
    return _left_out(mine.sum() / counts.sum(), (mine.sum() - mine - twins) / np.maximum(counts.sum() - counts, 1))


def distinct(summaries: Sequence[Sequence[str]], n: int) -> Estimate:
    """Return the different n-grams of all summaries as a share of all their n-grams; 0 where there are none.

    It falls with the amount of text: compare equal numbers of summaries.

    Args:
        summaries: those of each dialogue.
        n: length of an n-gram.

    Source: Li et al. 2016, arXiv 1510.03055.
    """
    grams = [[gram for s in row for gram in text_figures.ngrams(text_figures.words(s), n)] for row in summaries]
    owners: Counter[tuple[str, ...]] = Counter(gram for row in grams for gram in set(row))
    alone = np.array([sum(owners[gram] == 1 for gram in set(row)) for row in grams])
    counts = np.array([len(row) for row in grams])
    rest = np.maximum(counts.sum() - counts, 1)
    return _left_out(len(owners) / max(counts.sum(), 1), (len(owners) - alone) / rest)


def _left_out(value: float, without: np.ndarray) -> Estimate:
    """Return a figure whose influences are those of leaving a dialogue out.

    Args:
        value: the figure.
        without: [n], the figure without each dialogue.
    """
    influence = (len(without) - 1) * (value - without)
    return Estimate(float(value), influence - influence.mean())


def named(summaries: Sequence[Sequence[str]], dialogues: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return how many names and numbers the summaries of each dialogue have, and how many of these it has too.

    A name is a word with a capital that stands in small letters in none of the dialogues, so that the first word of a
    sentence is one only if it is no ordinary word; a number stands in digits. Each counts as often as it occurs.

    Args:
        summaries: those of each of n dialogues.
        dialogues: n texts.

    Returns:
        [n] and [n] counts.
    """
    parts = [_PART.findall(dialogue) for dialogue in dialogues]
    ordinary = {part for row in parts for part in row if part.islower()}

    def facts(text: str) -> list[str]:
        found = (part for part in _PART.findall(text) if part[0].isdigit() or (part[0].isupper() and len(part) > 1))
        return [part.lower() for part in found if part.lower() not in ordinary]

    all_of, known = np.zeros(len(dialogues)), np.zeros(len(dialogues))
    for i, (row, own) in enumerate(zip(summaries, parts)):
        there = {part.lower() for part in own}
        told = [fact for summary in row for fact in facts(summary)]
        all_of[i], known[i] = len(told), sum(fact in there for fact in told)
    return all_of, known


def describe(
    summaries: Sequence[Sequence[str]], dialogues: Sequence[str], finished: Sequence[Sequence[bool]] | None = None
) -> dict[str, Estimate]:
    """Return what one model's summaries look like.

    Args:
        summaries: the samples of each of n dialogues, as many of each.
        dialogues: n texts.
        finished: True where the summary ended within the limit of tokens; left out where unknown.

    Returns:
        `length` (mean, in words between white space), `named` (names and numbers a summary), `faithful` (share of
        these that the dialogue has; left out where there are none), `empty`, `duplicate` (equal to another dialogue's),
        `repetition` (of 3-grams), `distinct_1`, `distinct_2`, `distinct_3`, `copy` (4-grams found in the dialogue) and
        `finished`; all fractions but the first two.

    Raises:
        ValueError: no summaries, or lengths differ.
    """
    sizes = {len(row) for rows in (summaries, finished or ()) for row in rows}
    ended = summaries if finished is None else finished
    if len(summaries) != len(dialogues) or len(ended) != len(dialogues) or not dialogues:
        raise ValueError(f"{len(summaries)} rows of summaries for {len(dialogues)} dialogues: give one each, and some")
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"rows of {sorted(sizes)} summaries: give each dialogue as many")
    all_of, known = named(summaries, dialogues)
    figures = {
        "length": _mean([text_figures.length(s) for s in row] for row in summaries),
        "named": intervals.mean(all_of / sizes.pop()),
        "empty": _mean([not s.strip() for s in row] for row in summaries),
        "duplicate": duplicates(summaries),
        "repetition": _mean(map(text_figures.repetition, summaries)),
        **{f"distinct_{n}": distinct(summaries, n) for n in (1, 2, 3)},
        "copy": _mean(text_figures.copied(row, [dialogue] * len(row)) for row, dialogue in zip(summaries, dialogues)),
    }
    if all_of.any():
        figures["faithful"] = intervals.ratio(known, all_of)
    if finished is not None:
        figures["finished"] = _mean(finished)
    return figures


def _mean(rows: Iterable[Sequence[Any] | np.ndarray]) -> Estimate:
    return intervals.mean(np.array([np.mean(row) for row in rows]))
