"""ROUGE, for any alphabet, and BERTScore: how much of the target summaries is in a summary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from detox.scoring.text_figures import UNSPACED

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
OVERLAPS = (*ROUGE_TYPES, "rougeL_mean")

_SENTENCE_END = re.compile(r"(?<=[.!?।॥؟۔])\s+|(?<=[。！？｡])\s*(?=\S)")
_TOKEN = regex.compile(rf"{UNSPACED}\p{{M}}*|[\p{{L}}\p{{N}}\p{{M}}--{UNSPACED}]+", regex.V1)
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_LATIN = regex.compile(r"[\p{Latin}0-9]")
_MOST_FOREIGN = 0.05
"""Share of a reference's letters that may be in other alphabets, all of which rouge-score's tokenizer drops."""


class _Stemmer(PorterStemmer):
    """The stemmer of rouge-score, with a memory: stemming is where ROUGE spends its time."""

    @lru_cache(maxsize=100_000)  # noqa: B019 - one instance, which lives as long as the process
    def stem(self, word: str) -> str:
        return super().stem(word)


class _Tokenizer:
    """rouge-score's default tokenizer with stemming, remembering the lines of one call of `rouge`."""

    stemmer = _Stemmer()

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        return [token for line in text.split("\n") for token in self.line(line)]

    def line(self, text: str) -> list[str]:
        if text not in self.known:
            self.known[text] = tokenize(text, self.stemmer)
        return self.known[text]


class _UnicodeTokenizer(_Tokenizer):
    """Words of any alphabet, and single letters of scripts that put no blanks between words; ASCII words as above."""

    def line(self, text: str) -> list[str]:
        if text not in self.known:
            plain = unicodedata.normalize("NFKC", text).lower()
            tokens = _TOKEN.findall(plain) or plain.split()
            self.known[text] = [self.stemmer.stem(t) if len(t) > 3 and t.isascii() else t for t in tokens]
        return self.known[text]


def needs_unicode(references: Sequence[str]) -> bool:
    """Return whether more than 5% of the references' letters are not Latin; rouge-score's tokenizer drops those."""
    letters = _LETTER.findall("".join(references))
    return sum(not _LATIN.match(letter) for letter in letters) > _MOST_FOREIGN * len(letters)


def sentences(text: str) -> str:
    """Return `text` with a line a sentence, as ROUGE-Lsum wants it: split after `.`, `!` or `?` and space."""
    return _SENTENCE_END.sub("\n", text.strip())


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Return ROUGE F1 of each prediction, as `rouge_score.RougeScorer(..., use_stemmer=True)` gives it.

    Where that would drop the letters of the references (`needs_unicode`), words of any alphabet are compared instead.

    Args:
        predictions: n summaries.
        references: for each at least one reference summary; the best F1 over them counts, metric by metric.

    Returns:
        `rouge1`, `rouge2`, `rougeL`, `rougeLsum`: [n] float64 fractions; `rougeL_mean`: rougeL as the mean over the
        references instead of the best. For Lsum both sides are split by `sentences`.

    Raises:
        ValueError: lengths differ, or a prediction has no reference.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} lists of references")
    if any(isinstance(group, str) or not len(group) for group in references):
        raise ValueError("give each prediction a list of one reference or more")
    scorers = {
        unicode: RougeScorer(list(ROUGE_TYPES), tokenizer=kind())
        for unicode, kind in ((False, _Tokenizer), (True, _UnicodeTokenizer))
    }
    scores = np.zeros((len(predictions), len(OVERLAPS)))
    for row, prediction, group in zip(scores, predictions, references):
        scorer = scorers[needs_unicode(group)]
        each = [scorer.score(sentences(reference), sentences(prediction)) for reference in group]
        table = np.array([[one[name].fmeasure for name in ROUGE_TYPES] for one in each])
        row[:] = [*table.max(axis=0), table[:, ROUGE_TYPES.index("rougeL")].mean()]
    return {name: scores[:, i] for i, name in enumerate(OVERLAPS)}


def bert_score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    model: str = "roberta-large",
    **options: Any,
) -> np.ndarray | None:
    """Return BERTScore F1 [n] (the best over the references), or None where `bert-score` is not installed.

    Args:
        predictions: n summaries.
        references: for each at least one reference summary.
        model: hub name or folder of the encoder.
        options: passed on to `bert_score.score` (`num_layers` for a model it does not know, `device`).

    Source: Zhang et al. 2020, arXiv 1904.09675.
    """
    try:
        from bert_score import score
    except ImportError:
        return None
    groups = [list(group) for group in references]
    return score(list(predictions), groups, model_type=model, **options)[2].cpu().double().numpy()
