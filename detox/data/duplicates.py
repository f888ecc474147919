"""One row a dialogue, with its references; none that an earlier split has."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from detox.data.rows import MAX_REFERENCES, Row
from detox.data.splits import digest
from detox.stage.errors import UserError, printable


def distinct(
    rows: Iterable[Row],
    references: Mapping[bytes, Sequence[str]],
    own: set[bytes],
    earlier: Mapping[str, set[bytes]],
    tally: Counter[str],
) -> Iterator[Row]:
    """Yield one row a dialogue, with its references, unless the dialogue is in a split that came before.

    Args:
        rows: of one split.
        references: of its dialogues, by their digests; where there are none, the first summary is the reference.
        own: takes the digests of its dialogues.
        earlier: the digests of the splits that came before.
        tally: counts the rows that are read, and those that are dropped by reason.
    """
    ids: set[bytes] = set()
    for row in rows:
        tally["read"] += 1
        if not row.dialogue:
            tally["no dialogue"] += 1
            continue
        if not row.summaries:
            tally["no summary"] += 1
            continue
        dialogue = digest(row.dialogue)
        if dialogue in own:
            used = set(row.summaries) <= set(references.get(dialogue, ()))
            tally["duplicate" if not references else "further reference" if used else "beyond 3 references"] += 1
            continue
        own.add(dialogue)
        identity = hashlib.blake2b(row.id.encode(), digest_size=16).digest()
        if identity in ids:
            raise UserError(
                f"{row.where}: id {printable(row.id, 80)!r} already names another dialogue; give each its own"
            )
        ids.add(identity)
        elsewhere = next((split for split, dialogues in earlier.items() if dialogue in dialogues), None)
        if elsewhere is not None:
            tally[f"also in {elsewhere}"] += 1
            continue
        summaries = references.get(dialogue, row.summaries[:1])
        yield row._replace(id=_common_id(row.id, summaries), summaries=tuple(summaries))


def collect_references(rows: Iterable[Row]) -> dict[bytes, list[str]]:
    """Collect up to three different references a dialogue, by its digest, in the order of the rows."""
    references: dict[bytes, list[str]] = {}
    for row in rows:
        known = references.setdefault(digest(row.dialogue), [])
        for summary in row.summaries:
            if summary not in known and len(known) < MAX_REFERENCES:
                known.append(summary)
    return references


def _common_id(identity: str, summaries: Sequence[str]) -> str:
    """Name a dialogue of the hub's rows test_7_1, test_7_2, test_7_3 as the authors do: test_7."""
    numbered = re.fullmatch(r"(.+_\d+)_1", identity)
    return numbered[1] if numbered and len(summaries) > 1 else identity
