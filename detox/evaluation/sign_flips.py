"""The sign-flip test: how often random swaps of before and after differ as much as what was seen. NumPy."""

from __future__ import annotations

import numpy as np

_CELLS = 2_000_000
"""Random signs are drawn in blocks of so many, to bound memory."""
_EXACT_FLIPS = 2**14


def sign_flip_test(differences: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of paired differences under random swaps of before and after.

    Exact where all swaps of the dialogues that differ can be listed (14 or fewer); else over random swaps,
    the observed one counted in, so that it is never 0.

    Args:
        differences: [n] float, one mean difference a dialogue.
        resamples: random swaps.
        seed: of the swaps.

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = differences[differences != 0]
    observed = abs(differences.sum()) * (1 - 1e-9)  # ties count although sums round differently
    if 2 ** len(differences) <= _EXACT_FLIPS:
        sums = np.zeros(1)
        for d in differences:
            sums = np.concatenate([sums + d, sums - d])
        return float((np.abs(sums) >= observed).mean())
    rng, n, extreme, left = np.random.default_rng(seed), len(differences), 0, resamples
    while left > 0:
        block = min(left, max(1, _CELLS // n))
        sums = (2.0 * rng.integers(0, 2, size=(block, n)) - 1.0) @ differences
        extreme += int((np.abs(sums) >= observed).sum())
        left -= block
    return (1 + extreme) / (1 + resamples)
