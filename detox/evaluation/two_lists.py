"""Two lists of summaries compared in one call, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detox.evaluation import intervals, results, two_models
from detox.scoring import rouge
from detox.scoring.classifier import Classifier, probabilities

Summaries = Sequence[str] | Sequence[Sequence[str]]


def compare_summaries(
    before: Summaries,
    after: Summaries,
    classifier: Classifier,
    *,
    targets: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
    threshold: float = 0.5,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare what two models make of the same dialogues.

    Args:
        before: a summary, or as many samples, for each of n dialogues.
        after: the other model's, in the same order.
        classifier: the probability of its label is the toxicity.
        targets: the target summaries of each dialogue; with them ROUGE-L is compared too.
        batch_size: texts in one forward pass.
        threshold: toxicity at which a summary counts as toxic.
        resamples: random sign flips of the p-value.
        seed: of them.

    Returns:
        As `two_models.compare`: `mean`, `std` and others, each with `before`, `after`, `reduction`, `ci95`; `p_value`,
        `verdict`, `verdict_sentence`; with `targets` also `rougeL`: `before`, `after`, `change` and its `ci95`.

    Raises:
        ValueError: the lists do not pair, are empty, or hold no texts; or a number is out of its range.
        UserError: the classifier gives no probabilities.
    """
    classifier.check_probabilities()
    if resamples < 1 or batch_size < 1 or not 0 < threshold < 1:
        raise ValueError(
            f"resamples={resamples}, batch_size={batch_size}, threshold={threshold}: must be 1 or more; 1 or more; "
            "between 0 and 1"
        )
    rows = [_rows(side) for side in (before, after)]
    shape = _shape(rows)
    texts = list(dict.fromkeys(text for side in rows for row in side for text in row))
    found = probabilities(classifier, texts, batch_size)[:, classifier.label_id].tolist()
    toxicity = dict(zip(texts, found, strict=True))
    old, new = (np.array([[toxicity[text] for text in row] for row in side]) for side in rows)
    result = two_models.compare(old, new, threshold=threshold, resamples=resamples, seed=seed)
    if targets is not None:
        groups = [group for group in targets for _ in range(shape[1])]
        overlaps = [
            intervals.mean(rouge.rouge([text for row in side for text in row], groups)["rougeL"].reshape(shape).mean(1))
            for side in rows
        ]
        result["rougeL"] = results.entry("rougeL", *overlaps)
    return result


def _rows(side: Summaries) -> list[list[str]]:
    """Return the samples of each dialogue, one or more."""
    if _is_list(side):
        rows = [[row] if isinstance(row, str) else row for row in side]
        if all(_is_list(row) and all(isinstance(text, str) for text in row) for row in rows):
            return [list(row) for row in rows]
    raise ValueError("give a list, with a summary, or a list of samples, for each dialogue, in their order")


def _is_list(value: object) -> bool:
    """Return whether these are several, in an order."""
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))


def _shape(sides: Sequence[Sequence[Sequence[str]]]) -> tuple[int, int]:
    """Return dialogues and samples a dialogue, of both sides."""
    sizes = {len(row) for side in sides for row in side}
    if len(sides[0]) != len(sides[1]) or len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"{len(sides[0])} and {len(sides[1])} rows of {sorted(sizes)} summaries: give both models' for the same "
            "dialogues, as many for each"
        )
    return len(sides[0]), sizes.pop()
