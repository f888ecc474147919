"""Packed rows: where the tokens of sequences lie end to end, and which neighbours attention takes at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where the tokens of sequences lie in packed rows: each sequence in a slot, then rows that hold nothing.

    Attributes:
        slots: rows of each sequence, in the order in which they lie there; at least its tokens.
        lengths: tokens of each sequence, in that order.
        ends: [sequences] int64, the same.
        source: [rows] int64, which of the caller's tokens (its sequences end to end) lies there, or 0.
        rows_of: [tokens] int64, the row of each of the caller's tokens.
        begins: [sequences] int64, the first token of each of the caller's sequences.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    ends: Tensor
    source: Tensor
    rows_of: Tensor
    begins: Tensor


@dataclass(frozen=True)
class Group:
    """Neighbours in packed rows with equal slots, for which attention is computed at once.

    Attributes:
        count: sequences.
        queries: rows of the slot of each on the querying side.
        keys: rows of the slot of each on the side that is looked at.
        ends: [count] int64, the tokens among these, or None if all are.
    """

    count: int
    queries: int
    keys: int
    ends: Tensor | None

    def masked(self, bias: Tensor) -> Tensor:
        """Return what attention scores get added, `bias` [... keys] and -inf where there is no token."""
        if self.ends is None:
            return bias
        beyond = torch.arange(self.keys, device=bias.device) >= self.ends[:, None]
        return bias.masked_fill(beyond[:, None, None], -torch.inf)


def pack(lengths: Sequence[int], slots: Sequence[int], order: Sequence[int], multiple: int) -> Packing:
    """Return where tokens lie, on the CPU.

    Args:
        lengths: tokens of each sequence.
        slots: rows for each.
        order: indices of the sequences, in the order in which they are to lie.
        multiple: the number of all rows is rounded up to it.
    """
    starts = dict(zip(order, itertools.accumulate([slots[i] for i in order], initial=0), strict=False))
    begins = torch.tensor([0, *itertools.accumulate(lengths[:-1])])
    shifts = torch.tensor([starts[i] for i in range(len(lengths))]) - begins
    tokens = torch.arange(sum(lengths))
    rows_of = tokens + shifts.repeat_interleave(torch.tensor(lengths))
    source = torch.zeros(round_up(sum(slots), multiple), dtype=torch.long)
    source[rows_of] = tokens
    ordered = tuple(lengths[i] for i in order)
    return Packing(tuple(slots[i] for i in order), ordered, torch.tensor(ordered), source, rows_of, begins)


def to_device(device: torch.device, *packings: Packing) -> list[Packing]:
    """Return packings whose tensors lie on `device`, brought there in one copy, since each waits for the device."""
    names = ("ends", "source", "rows_of", "begins")
    tensors = [getattr(packing, name) for packing in packings for name in names]
    moved = iter(torch.cat(tensors).to(device).split([len(tensor) for tensor in tensors]))
    return [replace(packing, **{name: next(moved) for name in names}) for packing in packings]


def attention_groups(packing: Packing, keys: Packing) -> list[Group]:
    """Return the groups of attention from the rows of `packing` to those of `keys`, sequence by sequence."""
    groups, first = [], 0
    sequences = zip(packing.slots, keys.slots, keys.lengths, strict=True)
    for (slot, key_slot), members in itertools.groupby(sequences, key=lambda sequence: sequence[:2]):
        lengths = [length for _, _, length in members]
        ends = keys.ends[first : first + len(lengths)] if min(lengths) < key_slot else None
        groups.append(Group(len(lengths), slot, key_slot, ends))
        first += len(lengths)
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


def alike(lengths: Sequence[int], most: float) -> list[list[int]]:
    """Return the indices of `lengths` in groups whose longest has at most `most` times the shortest's tokens."""
    groups: list[list[int]] = []
    shortest = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or lengths[i] > most * shortest:
            groups.append([])
            shortest = lengths[i]
        groups[-1].append(i)
    return groups


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
