"""What a summary's text is like: words, length, repetition, what is copied from the dialogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regex

# Scripts without blanks between words: each letter counts as a word there.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SPACED = rf"[\w--{UNSPACED}]+"
_WORD = regex.compile(rf"{UNSPACED}\p{{M}}*|{_SPACED}(?:['’]{_SPACED})*", regex.V1)
_NO_BLANKS = regex.compile(UNSPACED)


def words(text: str) -> list[str]:
    """Return the words of `text`, lower-case, without punctuation."""
    return _WORD.findall(text.lower())


def length(text: str) -> int:
    """Return the words of `text` between white space, or its letters where the script puts none."""
    return len(words(text)) if _NO_BLANKS.search(text) else len(text.split())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n))))


def repetition(summaries: Sequence[str], n: int = 3) -> np.ndarray:
    """Return [m] the share of each summary's n-grams that repeat an earlier one; 0 where it has none."""
    grams = [ngrams(words(s), n) for s in summaries]
    return np.array([1 - len(set(g)) / len(g) if g else 0.0 for g in grams])


def copied(summaries: Sequence[str], dialogues: Sequence[str], n: int = 4) -> np.ndarray:
    """Return [m] the share of each summary's n-grams that stand in its dialogue; 0 where it has none."""
    known: dict[str, set[tuple[str, ...]]] = {}
    shares = []
    for summary, dialogue in zip(summaries, dialogues):
        if dialogue not in known:
            known[dialogue] = set(ngrams(words(dialogue), n))
        grams = ngrams(words(summary), n)
        shares.append(sum(g in known[dialogue] for g in grams) / len(grams) if grams else 0.0)
    return np.array(shares)
