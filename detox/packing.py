"""Packed rows: where the tokens of sequences lie end to end, and which neighbours attention takes at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of sequences lie in packed rows: each sequence in a slot, then rows that hold nothing.

    Attributes:
        slots: rows of each sequence, in the order in which they lie there; at least its tokens.
        lengths: tokens of each sequence, in that order.
        source: [rows] int64, which of the caller's tokens (its sequences end to end) lies there, or 0.
        rows_of: [tokens] int64, the row of each of the caller's tokens.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    source: Tensor
    rows_of: Tensor


@dataclass(frozen=True)
class Group:
    """Neighbours in packed rows with equal slots, for which attention is computed at once.

    Attributes:
        count: sequences.
        queries: rows of the slot of each on the querying side.
        keys: rows of the slot of each on the side that is looked at.
        mask: [count, 1, 1, keys] bool, True = a token, or None if all are.
    """

    count: int
    queries: int
    keys: int
    mask: Tensor | None


def pack(
    lengths: Sequence[int], slots: Sequence[int], order: Sequence[int], multiple: int, device: torch.device
) -> Packing:
    """Return where tokens lie.

    Args:
        lengths: tokens of each sequence.
        slots: rows for each.
        order: indices of the sequences, in the order in which they are to lie.
        multiple: the number of all rows is rounded up to it.
        device: of the tensors.
    """
    begins = itertools.accumulate([slots[i] for i in order], initial=0)
    starts = dict(zip(order, begins, strict=False))
    shifts = [starts[i] - begin for i, begin in enumerate(itertools.accumulate(lengths[:-1], initial=0))]
    tokens = torch.arange(sum(lengths))
    rows_of = tokens + torch.tensor(shifts).repeat_interleave(torch.tensor(lengths))
    source = torch.zeros(round_up(sum(slots), multiple), dtype=torch.long)
    source[rows_of] = tokens
    return Packing(
        slots=tuple(slots[i] for i in order),
        lengths=tuple(lengths[i] for i in order),
        source=source.to(device),
        rows_of=rows_of.to(device),
    )


def attention_groups(packing: Packing, keys: Packing) -> list[Group]:
    """Return the groups of attention from the rows of `packing` to those of `keys`, sequence by sequence."""
    groups = []
    sequences = zip(packing.slots, keys.slots, keys.lengths, strict=True)
    for (slot, key_slot), members in itertools.groupby(sequences, key=lambda sequence: sequence[:2]):
        lengths = [length for _, _, length in members]
        mask = None
        if min(lengths) < key_slot:
            device = keys.source.device
            mask = torch.arange(key_slot, device=device) < torch.tensor(lengths, device=device)[:, None]
            mask = mask[:, None, None]
        groups.append(Group(len(lengths), slot, key_slot, mask))
    return groups


def parts(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Return the indices of `lengths`, longest first, in parts of at most `rows` tokens (or one sequence)."""
    found: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > room:
            found.append([])
            room = rows
        found[-1].append(i)
        room -= lengths[i]
    return found


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of `lengths` in groups whose longest has at most 3/2 of the shortest's tokens."""
    groups: list[list[int]] = []
    shortest = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if lengths[i] > 1.5 * shortest:
            groups.append([])
            shortest = lengths[i]
        groups[-1].append(i)
    return groups


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
