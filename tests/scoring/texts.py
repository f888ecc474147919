"""Texts for a classifier: plain, rude, empty, beyond its limit of tokens, with letters that it has never seen."""

TEXTS = [
    "you idiot",
    "the people are good",
    "",
    "a rude clown and a fool " * 40,
    "Person1 said: émigré 漢字 🙂",
    "no",
]
