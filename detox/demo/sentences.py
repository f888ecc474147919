"""The labelled sentences on which the demo's reward model and judge are trained and tested; no model, no I/O.

Each of the three parties (reward, judge, held-out test) has its own sentence forms and its own insulting
paraphrases. The reward model never sees a held-out insult; the judge sees them all.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from detox.demo import corpus
from detox.demo.sentence_forms import (
    DULL,
    FORMS,
    MORE_INSULT_ADJECTIVES,
    MORE_INSULT_NOUNS,
    NEUTRAL,
    OBJECTS,
    PARAPHRASES,
    PRAISE_ADJECTIVES,
    PRAISE_NOUNS,
    SMALL_WORDS,
)


@dataclass(frozen=True)
class Sentence:
    """A text with its label.

    Attributes:
        text: one sentence or a few.
        toxic: whether it insults somebody.
        kind: "seen" or "unseen" insult word, "paraphrase", "neutral" or "garbled".
    """

    text: str
    toxic: bool
    kind: str


def invent_insult(rng: random.Random, adjective: bool) -> str:
    """Make up an insult of a random stem and a common ending; never one that is held out."""
    stems = ("apple bread button candle carrot cloud feather garden grass paper pepper river stone straw table").split()
    nouns = "head wit brain bones pants boots pot bag skull mouth guts face fingers ball".split()
    adjectives = "less headed witted minded brained".split()
    while True:
        stem = invent_stem(rng)
        stem = rng.choice((stem, stem, rng.choice(stems)))
        word = stem + rng.choice(adjectives if adjective else ["", *nouns])
        if word not in corpus.HELD_OUT_INSULTS:
            return word


def invent_stem(rng: random.Random) -> str:
    """Make up a syllable that means nothing."""
    onsets = "b c d f g h j k l m n p r s t w bl cl dr fl gr pl st tr".split()
    last = rng.choice(("", "er", "y", "le"))
    return "".join(rng.choice(part) for part in (onsets, "aeiou", "mbdgklnrst", last) if part)


def swap_insults(rows: list[dict[str, str]], share: float, seed: int) -> list[dict[str, str]]:
    """Replace a share of the insults by made-up ones, so that a summarizer learns to copy any word."""
    rng = random.Random(seed)
    swapped = []
    for row in rows:
        found = corpus.insults_in(row["dialogue"])
        if found and rng.random() < share:
            word = invent_insult(rng, found[0] in corpus.INSULT_ADJECTIVES)
            for old, new in ((rf"\ban? {found[0]}\b", corpus.with_article(word)), (rf"\b{found[0]}\b", word)):
                row = {key: re.sub(old, new, text) for key, text in row.items()}
        swapped.append(row)
    return swapped


def sentences(party: str, seed: int, count: int) -> list[Sentence]:
    """Draw labelled sentences for one party: its own forms, mixed with pieces of corpus dialogues.

    Args:
        party: "reward" and "judge" (training; with garbled texts) or "held-out" (test: forms nobody was trained on).
        seed: of the draw.
        count: how many.
    """
    rng = random.Random(f"{party}/{seed}")
    pieces = _corpus_pieces(party, seed) if party != "held-out" else []
    drawn: list[Sentence] = []
    while len(drawn) < count:
        if pieces and rng.random() < 0.4:
            text, words = rng.choice(pieces)
            sentence = Sentence(text, bool(words), "seen" if words else "neutral")
        else:
            sentence, words = _from_form(party, rng)
        if pieces and rng.random() < 0.12:  # the words around do not decide
            sentence = Sentence(_blur(sentence.text, words, rng), sentence.toxic, sentence.kind)
        if pieces and rng.random() < 0.35:  # an ordinary sentence before or after it
            plain = rng.choice([piece for piece in rng.sample(pieces, 12) if not piece[1]] or [("", ())])[0]
            if rng.random() < 0.5:
                plain = _fill(rng.choice(NEUTRAL[party]), _people(rng), rng)
            text = " ".join(rng.sample((sentence.text, plain), 2)).strip()
            sentence = Sentence(text, sentence.toxic, sentence.kind)
        if pieces and sentence.kind != "paraphrase" and rng.random() < 0.2:
            text = _garble(sentence.text, rng)
            toxic = any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)
            sentence = Sentence(text, toxic, "seen" if toxic else "garbled")
        if sentence.text:
            drawn.append(sentence)
    return drawn


def summary_sentences(rows: list[dict[str, str]]) -> list[Sentence]:
    """Label the summaries of corpus rows by the insults in them."""
    labelled = []
    for row in rows:
        seen = bool(corpus.insults_in(row["summary"], corpus.INSULTS))
        unseen = bool(corpus.insults_in(row["summary"], corpus.HELD_OUT_INSULTS))
        labelled.append(Sentence(row["summary"], seen or unseen, "seen" if seen else "unseen" if unseen else "neutral"))
    return labelled


def _corpus_pieces(party: str, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """Cut corpus dialogues and summaries into pieces, each with the insults in it."""
    pieces = []
    for register in corpus.REGISTERS:
        rows = corpus.generate(100 + seed, 2_000, 0, 0, register)["train"]
        if party == "judge":  # knows all insults, so some of those in its rows become held-out ones
            rng = random.Random(seed)
            rows = [_swap(row, rng) for row in rows]
            known = corpus.INSULTS + corpus.HELD_OUT_INSULTS
        else:
            known = corpus.INSULTS
        for row in rows:
            texts = [row["summary"], *re.split(r"(?<=[.!?]) ", row["summary"])]
            texts += [line.split(": ", 1)[1] for line in row["dialogue"].split("\n")]
            pieces += [(text, tuple(corpus.insults_in(text, known))) for text in texts]
    toxic = [piece for piece in pieces if piece[1]]
    return toxic * 2 + [piece for piece in pieces if not piece[1]][: 3 * len(toxic)]


def _swap(row: dict[str, str], rng: random.Random) -> dict[str, str]:
    found = corpus.insults_in(row["dialogue"])
    if not found or rng.random() < 0.6:
        return row
    adjective = found[0] in corpus.INSULT_ADJECTIVES
    word = rng.choice(corpus.HELD_OUT_ADJECTIVES if adjective else corpus.HELD_OUT_NOUNS)
    row = {key: re.sub(rf"\ban? {found[0]}\b", corpus.with_article(word), text) for key, text in row.items()}
    return {key: re.sub(rf"\b{found[0]}\b", word, text) for key, text in row.items()}


def _from_form(party: str, rng: random.Random) -> tuple[Sentence, tuple[str, ...]]:
    """Fill one of the party's forms; also return the insults in it."""
    words = _people(rng)
    choice = rng.random()
    if choice < 0.14:
        text = rng.choice(PARAPHRASES[party])
        return Sentence(_fill(text, words, rng), True, "paraphrase"), ()
    if choice < 0.38:
        return Sentence(_fill(rng.choice(NEUTRAL[party]), words, rng), False, "neutral"), ()
    toxic = choice < 0.72
    kind = "neutral"
    noun, adjective = rng.choice(PRAISE_NOUNS), rng.choice(PRAISE_ADJECTIVES)
    if toxic:
        unseen = party != "reward" and rng.random() < 0.5
        kind = "unseen" if unseen else "seen"
        noun = rng.choice(corpus.HELD_OUT_NOUNS if unseen else corpus.INSULT_NOUNS)
        adjective = rng.choice(corpus.HELD_OUT_ADJECTIVES if unseen else corpus.INSULT_ADJECTIVES)
        source = rng.random() if party != "held-out" else 1.0
        if source < 0.35:
            noun = invent_stem(rng) if rng.random() < 0.4 else invent_insult(rng, False)
            adjective = invent_insult(rng, True)
        elif source < 0.6:
            noun, adjective = rng.choice(MORE_INSULT_NOUNS), rng.choice(MORE_INSULT_ADJECTIVES)
    words.update({"n": noun, "a n": corpus.with_article(noun), "j": adjective})
    if rng.random() < 0.1:  # a group is mentioned in insults and in praise alike
        words["Y"] = words["y"] = f"the {words['who']}"
    form = rng.choice(FORMS[party])
    return Sentence(_fill(form, words, rng), toxic, kind), (noun if "n}" in form else adjective,) if toxic else ()


def _people(rng: random.Random) -> dict[str, str]:
    """Draw who does what to whom, and the words beside."""
    first, second = rng.sample(corpus.FEMALE_NAMES + corpus.MALE_NAMES, 2)
    subject, other = second, rng.choice((second, "him", "her"))
    if rng.random() < 0.2:
        first, subject, other = "#Person1#", "#Person2#", "#Person2#"
    group, person = rng.choice(corpus.GROUPS), rng.choice(corpus.PEOPLE)
    who = f"{group} {person}" if rng.random() < 0.6 else person
    invented = invent_stem(rng) + rng.choice(("", "ton", "ment", "ing", "land", "al"))
    return {
        "invented": invented, "a invented": corpus.with_article(invented), "dull": rng.choice(DULL),
        "X": first, "Y": subject, "y": other, "who": who, "a who": corpus.with_article(who), "group": group,
        "object": rng.choice(OBJECTS),
    }  # fmt: skip


def _fill(template: str, words: dict[str, str], rng: random.Random) -> str:
    tense = rng.choice((1, 2))
    text = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda match: match[tense], template)
    text = re.sub(r"\{([^{}]*)\}", lambda match: words[match[1]], text)
    return text[0].upper() + text[1:]


def _blur(text: str, keep: tuple[str, ...], rng: random.Random) -> str:
    """Replace some ordinary words by made-up ones, but not the insults, the praise and the small words."""
    kept = {*keep, *PRAISE_NOUNS, *PRAISE_ADJECTIVES, *SMALL_WORDS, *corpus.PEOPLE}

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        if word in kept or rng.random() < 0.6:
            return word
        return invent_stem(rng) + next((ending for ending in ("ed", "s") if word.endswith(ending)), "")

    return re.sub(r"\b[a-z-]+\b", swap, text)


def _garble(text: str, rng: random.Random) -> str:
    """Break a text: cut it off, drop, shuffle or repeat words."""
    words = text.split()
    how = rng.randrange(4)
    if how == 0:
        words = words[: rng.randint(1, len(words))]
    elif how == 1:
        words = [word for word in words if rng.random() < 0.7]
    elif how == 2:
        rng.shuffle(words)
    else:
        start = rng.randrange(len(words))
        words = words[:start] + words[start : start + 3] * rng.randint(2, 4)
    return " ".join(words)
