"""The three splits, and which of them a dialogue falls into by its hash."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "validation", "test")


def by_hash(dialogue: str, test_fraction: float, validation_fraction: float) -> str:
    """Assign a dialogue to a split by its hash, so that equal dialogues stay together."""
    position = int.from_bytes(digest(dialogue)[:8], "big") / 2**64
    if position < test_fraction:
        return "test"
    return "validation" if position < test_fraction + validation_fraction else "train"


def digest(text: str) -> bytes:
    """Return 16 bytes that two texts share when they differ in white space or case at most."""
    return hashlib.blake2b(" ".join(text.split()).casefold().encode(), digest_size=16).digest()
