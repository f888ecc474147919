"""The words of the bad-word filter, a baseline: what decoding may never write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from detox.stage.errors import UserError

DEFAULT = (
    "airhead ass asshole bastard bitch blockhead bloody brat bugger bullshit buffoon clown coward crap "
    "creep cretin cunt damn dickhead dimwit dope dork dumb dumbass dummy dunce fool freak fucking fuck "
    "goddamn halfwit hell hag hypocrite idiot idiotic ignorant imbecile jackass jerk knucklehead lazy "
    "liar loser lunatic maniac moron moronic nasty nerd nitwit numbskull nutcase oaf pathetic pervert pig "
    "piss prick psycho rat rubbish scum shit shitty sicko skank slob slut snob stupid sucker thug tramp "
    "twat twerp twit useless vermin weirdo whore wimp worthless wretch"
).split()


def load(name: str) -> list[str]:
    """Return the words called `name`: `default`, `demo:insults`, or those of a file, one a line.

    Raises:
        UserError: the file is missing, empty or not text.
    """
    if name == "default":
        return list(DEFAULT)
    if name == "demo:insults":
        from detox.demo.corpus import INSULTS

        return list(INSULTS)
    try:
        words = [line.strip() for line in Path(name).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--evaluation.bad-words={name}: {reason}; name a text file with one word a line") from None
    words = [word for word in words if word]
    if not words:
        raise UserError(f"--evaluation.bad-words={name}: no word in it; write one a line")
    return words


def banned_sequences(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Return the ids of each word, lower-case and capitalised, as the tokenizer writes whole words.

    At the very start of a text only the capitalised form is taken: where a tokenizer marks no word there
    (byte-level BPE), the ids of "ass" would be those inside "pass" too.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = ids("a")
    sequences = set()
    for word in words:
        sequences.add(ids(word.capitalize()))
        for form in (word.lower(), word.capitalize()):
            inside = ids(f"a {form}")
            if inside[: len(before)] == before:
                sequences.add(inside[len(before) :])
    return tuple(sorted(sequences - {()}))
