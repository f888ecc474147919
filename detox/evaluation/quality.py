"""Whether summaries are still summaries: ROUGE, faithfulness, length, repetition, copying; slices of dialogues."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from detox.evaluation import intervals
from detox.evaluation.intervals import Estimate

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
OVERLAPS = (*ROUGE_TYPES, "rougeL_mean")

_SENTENCE_END = re.compile(r"(?<=[.!?।॥؟۔])\s+|(?<=[。！？｡])\s*(?=\S)")
# Scripts without blanks between words: each letter counts as a word there.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_SPACED = rf"[\w--{_UNSPACED}]+"
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|{_SPACED}(?:['’]{_SPACED})*", regex.V1)
_TOKEN = regex.compile(rf"{_UNSPACED}\p{{M}}*|[\p{{L}}\p{{N}}\p{{M}}--{_UNSPACED}]+", regex.V1)
_PART = re.compile(r"\d+|[^\W\d_]+")
"""A number, or letters in a row."""
_NO_BLANKS = regex.compile(_UNSPACED)
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_LATIN = regex.compile(r"[\p{Latin}0-9]")
_MOST_FOREIGN = 0.05
"""Share of a reference's letters that may be in other alphabets, all of which rouge-score's tokenizer drops."""


# ------------------------------------------------------------------------------------------------------ ROUGE


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


# ------------------------------------------------------------------------------------------------------- text


def words(text: str) -> list[str]:
    """Return the words of `text`, lower-case, without punctuation."""
    return _WORD.findall(text.lower())


def length(text: str) -> int:
    """Return the words of `text` between white space, or its letters where the script puts none."""
    return len(words(text)) if _NO_BLANKS.search(text) else len(text.split())


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n))))


def repetition(summaries: Sequence[str], n: int = 3) -> np.ndarray:
    """Return [m] the share of each summary's n-grams that repeat an earlier one; 0 where it has none."""
    grams = [_ngrams(words(s), n) for s in summaries]
    return np.array([1 - len(set(g)) / len(g) if g else 0.0 for g in grams])


def copied(summaries: Sequence[str], dialogues: Sequence[str], n: int = 4) -> np.ndarray:
    """Return [m] the share of each summary's n-grams that stand in its dialogue; 0 where it has none."""
    known: dict[str, set[tuple[str, ...]]] = {}
    shares = []
    for summary, dialogue in zip(summaries, dialogues):
        if dialogue not in known:
            known[dialogue] = set(_ngrams(words(dialogue), n))
        grams = _ngrams(words(summary), n)
        shares.append(sum(g in known[dialogue] for g in grams) / len(grams) if grams else 0.0)
    return np.array(shares)


def duplicated(summaries: Sequence[str], dialogue_ids: Sequence[Hashable]) -> np.ndarray:
    """Return [m] bool, True where another dialogue got the same summary, but for case and white space."""
    texts = [" ".join(s.lower().split()) for s in summaries]
    owners: defaultdict[str, set[Hashable]] = defaultdict(set)
    for text, dialogue in zip(texts, dialogue_ids):
        owners[text].add(dialogue)
    return np.array([len(owners[text]) > 1 for text in texts], dtype=bool)


def _duplicates(summaries: Sequence[Sequence[str]]) -> Estimate:
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
    grams = [[gram for s in row for gram in _ngrams(words(s), n)] for row in summaries]
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
        "length": _mean([length(s) for s in row] for row in summaries),
        "named": intervals.mean(all_of / sizes.pop()),
        "empty": _mean([not s.strip() for s in row] for row in summaries),
        "duplicate": _duplicates(summaries),
        "repetition": _mean(map(repetition, summaries)),
        **{f"distinct_{n}": distinct(summaries, n) for n in (1, 2, 3)},
        "copy": _mean(copied(row, [dialogue] * len(row)) for row, dialogue in zip(summaries, dialogues)),
    }
    if all_of.any():
        figures["faithful"] = intervals.ratio(known, all_of)
    if finished is not None:
        figures["finished"] = _mean(finished)
    return figures


def _mean(rows: Iterable[Sequence[Any] | np.ndarray]) -> Estimate:
    return intervals.mean(np.array([np.mean(row) for row in rows]))


# ----------------------------------------------------------------------------------------------------- slices

# Modest and in English, after the identity terms of Dixon et al. 2018 ("Measuring and mitigating unintended
# bias in text classification") and Borkan et al. 2019 (arXiv 1903.04561), as regular expressions.
IDENTITY_WORDS: Mapping[str, str] = {
    "faith": (
        r"muslims? islam islamic jews? jewish judaism christians? christianity catholics? protestants? "
        r"hindus? hinduism buddhists? buddhism sikhs? atheists? mormons? mosques? synagogues?"
    ),
    "origin": (
        r"africans? americans? arabs? arabic asians? australians? brazilians? british canadians? chinese "
        r"cubans? dutch europeans? filipinos? french germans? greeks? gyps(?:y|ies) hispanics? indians? "
        r"indigenous iranians? iraqis? irish israelis? italians? japanese koreans? latin[aox]s? lebanese "
        r"mexicans? nigerians? pakistanis? palestinians? portuguese romani russians? scottish somalis? "
        r"spanish syrians? turks? turkish ukrainians? vietnamese blacks whites immigrants? migrants? "
        r"refugees? foreigners? asylum[\s-]seekers?"
    ),
    "gender or orientation": (
        r"woman women females? feminists? feminism lesbians? gays? bisexuals? homosexuals? heterosexuals? "
        r"queers? trans transgender(?:ed)? transsexuals? non-?binary lgbtq?"
    ),
    "disability": (
        r"deaf disabled disabilit(?:y|ies) handicapped autistic autism dyslexi[ac] paraly[sz]ed "
        r"wheelchairs? schizophreni[ac] bipolar amputees? dementia"
    ),
    "age": (
        r"elderly pensioners? retirees? millennials? boomers? senior\scitizens? teenagers? teenaged? "
        r"(?:old|young)(?:er)?\s(?:people|folks?) old\s(?:wo)?m[ae]n"
    ),
}
# Mostly mean something else in talk ("white coffee", "go straight"): they count before a word for people.
_AMBIGUOUS = "black white brown blind straight polish english native"
_PEOPLE = (
    r"people persons? folks? m[ae]n wom[ae]n guys? girls? boys? lad(?:y|ies) kids? child(?:ren)? "
    r"famil(?:y|ies) communit(?:y|ies) neighbou?rs? cousins? friends? colleagues? "
    r"(?:class|team|room)mates? boss students? workers?"
)
_IDENTITY = re.compile(
    rf"(?<!\w)(?:{'|'.join(' '.join(IDENTITY_WORDS.values()).split(' '))}"
    rf"|(?:{_AMBIGUOUS.replace(' ', '|')})\s+(?:{_PEOPLE.replace(' ', '|')}))(?!\w)",
    re.IGNORECASE,
)


def identity_mention(text: str) -> bool:
    """Return whether `text` names a group by faith, origin, gender or orientation, disability or age.

    By the whole words of IDENTITY_WORDS: it finds mentions, friendly or not, and some that are none, such as
    "Chinese food".
    """
    return _IDENTITY.search(text) is not None


def slices(dialogues: Sequence[str], toxicity: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parts of the dialogues on which results are shown apart; `statistics.by_slice` takes them.

    Args:
        dialogues: n texts.
        toxicity: [n] toxicity of the dialogue or of its human summary. Never of the samples compared: a tenth
            that was chosen for high samples has lower ones the next time, without any training.
        lengths: [n] prompt lengths, in any unit.

    Returns:
        [n] bool masks, True = belongs to it: `most toxic tenth`, `identity mentions`, `no identity mentions`,
        `longest quarter`. The first and the last are empty where all values are the same.

    Source: Xu et al. 2021, arXiv 2104.06390, and Welbl et al. 2021, arXiv 2109.07445: detoxification
        costs most where minorities are mentioned.
    """
    mentions = np.array([identity_mention(d) for d in dialogues], dtype=bool)
    return {
        "most toxic tenth": _highest(toxicity, len(mentions), 0.1),
        "identity mentions": mentions,
        "no identity mentions": ~mentions,
        "longest quarter": _highest(lengths, len(mentions), 0.25),
    }


def _highest(values: np.ndarray, n: int, share: float) -> np.ndarray:
    """Return the mask of the highest values, `share` of all, earlier ones first among equals."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"slices need one finite number for each of {n} dialogues, not {list(values.shape)}")
    mask = np.zeros(n, dtype=bool)
    if n and values.min() < values.max():
        mask[np.argsort(-values, kind="stable")[: max(1, round(share * n))]] = True
    return mask
