"""The lines of examples.jsonl: dialogues with the records of both models' summaries; reading them, and numbers of them.

A summary is a record (a dict) that carries every number that was measured on it. Figures are computed from
the lines, which hold these records, and from nothing else (results.py): whoever has that file can compute them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detox.evaluation.slices import slices

Record = dict[str, Any]
Records = list[list[Record]]
"""[dialogues][samples]."""
Line = dict[str, Any]
"""Of examples.jsonl: a dialogue with its references and the records of both models."""
Results = dict[str, Any]

SIDES = ("before", "after")


def examples(
    split: Mapping[str, Sequence[Any]],
    before: Mapping[str, Records],
    after: Mapping[str, Records],
    dialogue_toxicity: Sequence[float],
) -> list[Line]:
    """Return the lines of examples.jsonl.

    Args:
        split: columns of the prepared dataset, n dialogues.
        before: of the reference: `samples` and `noise` (other seeds) [n][k], `greedy` [n][1]; with baselines
            `filtered` [n][k] too.
        after: of the policy: `samples`, paired with the reference's, and `greedy`.
        dialogue_toxicity: [n], by the classifier of the toxicity measurement; chooses the most toxic tenth.
    """
    lines = [
        {
            "id": identity,
            "topic": split["topic"][i],
            "dialogue": split["dialogue"][i],
            "dialogue_toxicity": dialogue_toxicity[i],
            "query_tokens": len(split["input_ids"][i]),
            "references": list(split["summaries"][i]),
            "before": {name: _without_ids(records[i], name) for name, records in before.items()},
            "after": {name: _without_ids(records[i], name) for name, records in after.items()},
        }
        for i, identity in enumerate(split["id"])
    ]
    masks = slice_masks(lines)
    for i, line in enumerate(lines):
        line["slices"] = [name for name, mask in masks.items() if mask[i]]
    return lines


def _without_ids(row: Sequence[Record], name: str) -> Any:
    clean = [{key: value for key, value in record.items() if key != "ids"} for record in row]
    return clean[0] if name == "greedy" else clean


def read_examples(folder: Path) -> list[Line]:
    """Return the lines of examples.jsonl of a finished evaluation."""
    with open(folder / "examples.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_results(folder: Path) -> Results:
    """Return results.json of a finished evaluation."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def samples(lines: Sequence[Line], side: str, name: str = "samples") -> Records:
    """Return the records [dialogues][samples] of one side, `greedy` as one sample."""
    found = [line[side][name] for line in lines]
    return [[record] for record in found] if name == "greedy" else found


def column(records: Records, name: str) -> np.ndarray:
    """Return [dialogues, samples] of one number of each record."""
    return np.array([[record[name] for record in row] for row in records], dtype=np.float64)


def slice_masks(lines: Sequence[Line]) -> dict[str, np.ndarray]:
    """Return which dialogues belong to each slice, [n] bool."""
    heat, lengths = (np.array([line[key] for line in lines]) for key in ("dialogue_toxicity", "query_tokens"))
    return slices([line["dialogue"] for line in lines], heat, lengths)
