"""The words of the bad-word filter, a baseline: what decoding may never write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from detox.errors import UserError

DEFAULT = (
    "airhead ass asshole bastard bitch blockhead bloody brat bugger bullshit buffoon clown coward crap creep cretin "
    "cunt damn dickhead dimwit dope dork dumb dumbass dummy dunce fool freak fucking fuck goddamn halfwit hell hag "
    "hypocrite idiot idiotic ignorant imbecile jackass jerk knucklehead lazy liar loser lunatic maniac moron "
    "moronic nasty nerd nitwit numbskull nutcase oaf pathetic pervert pig piss prick psycho rat rubbish scum shit "
    "shitty sicko skank slob slut snob stupid sucker thug tramp twat twerp twit useless vermin weirdo whore wimp "
    "worthless wretch"
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
        words = [line.strip() for line in Path(name).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--evaluation.bad-words={name}: {error}; name a text file with one word a line") from None
    words = [word for word in words if word]
    if not words:
        raise UserError(f"--evaluation.bad-words={name}: no word in it; write one a line")
    return words


def banned_sequences(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Return the id sequences of each word in lower case and capitalised, at the start of a text and inside it."""
    sequences = set()
    for word in words:
        for form in (word.lower(), word.capitalize()):
            for text in (form, f" {form}", f"a {form}"):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if text.startswith("a "):
                    ids = ids[len(tokenizer("a", add_special_tokens=False)["input_ids"]) :]
                if ids:
                    sequences.add(tuple(ids))
    return tuple(sorted(sequences))
