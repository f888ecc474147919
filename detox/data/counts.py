"""What was kept, what was dropped and why, and how much of it the tokenizer does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from detox.data.splits import SPLITS
from detox.stage.errors import UserError
from detox.stage.figures import count

DROPPED = (
    "no dialogue",
    "no summary",
    "further reference",
    "beyond 3 references",
    "duplicate",
    "also in test",
    "also in validation",
    "too short",
    "too long",
    "long summary",
    "over max_examples",
)
LOST = tuple(f"{which}{what}" for what in ("tokens", "characters", "summary characters") for which in ("", "unknown "))
"""What is counted of the texts that are kept: how much of prompts, dialogues and summaries no token stands for."""
WARN_UNKNOWN, MOST_UNKNOWN = 0.01, 0.5
"""Shares of what is unknown that are warned of, and of unknown characters that are refused."""
FEW = 30
"""Dialogues of the test split; with fewer, intervals are wide or missing."""


def unknown(counts: Mapping[str, int | float], split: str) -> dict[str, float]:
    """Return which shares of the `tokens` of prompts and of the characters of texts the tokenizer does not know."""
    return {
        what: counts.get(f"{split}/unknown {what}", 0) / max(1, counts.get(f"{split}/{what}", 0)) for what in LOST[::2]
    }


def check_vocabulary(counts: Mapping[str, int | float], name: str, tokenizer_name: str) -> str | None:
    """Return what to say of a tokenizer to which more than 1% of a split is unknown, if it is.

    Args:
        counts: as `prepare` returned them.
        name: of the dataset.
        tokenizer_name: of the model that it is from.

    Raises:
        UserError: more than half of the text is unknown to it.
    """
    shares = [unknown(counts, split) for split in SPLITS]
    worst = {what: max(share[what] for share in shares) for what in shares[0]}
    figures = ", ".join(f"{share:.1%} of the {what}" for what, share in worst.items())
    if max(worst.values()) > MOST_UNKNOWN:
        raise UserError(
            f"--data.dataset={name}: the tokenizer of {tokenizer_name} does not know {figures}, so hardly anything is "
            "left of the text; take a --model.base that knows its language"
        )
    if max(worst.values()) <= WARN_UNKNOWN:
        return None
    return f"unknown to the tokenizer: {figures}; the model will not see them, and can not write them"


def few(counts: Mapping[str, int | float]) -> str | None:
    """Return what to say of a test split that is too small to show anything but large effects, if it is."""
    kept = int(counts["test/kept"])
    if kept >= FEW:
        return None
    return (
        f"{count(kept, 'dialogue')} in the test split, fewer than {FEW}: only a large effect can be shown; add rows, "
        "or raise --data.test-fraction"
    )


def counts_table(counts: Counter) -> str:
    """Lay out the counts of `prepare`: a line a reason, a column a split; and the share of unknown tokens."""
    lines: list[tuple[str, ...]] = [("dialogues", *SPLITS)]
    shown = {
        "read": "rows read",
        "further reference": "- further summary",
        "beyond 3 references": "- fourth summary, or more",
        "kept": "kept",
        "truncated": "  of them truncated",
    }
    for reason in ("read", *DROPPED, "kept", "truncated"):
        numbers = [counts[f"{split}/{reason}"] for split in SPLITS]
        if any(numbers) or reason in ("read", "kept"):
            lines.append((shown.get(reason, f"- {reason}"), *(f"{number:,}" for number in numbers)))
    lines.append(("unknown tokens", *(f"{unknown(counts, split)['tokens']:.2%}" for split in SPLITS)))
    return "\n".join(f"{name:<22}{train:>12}{validation:>12}{test:>12}" for name, train, validation, test in lines)
