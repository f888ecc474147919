"""Packed rows: what lies where, which neighbours attention takes at once, what is encoded together."""

from __future__ import annotations

import pytest
import torch

from detox.model import packing


def test_sequences_lie_in_their_order_each_at_the_start_of_its_slot():
    found = packing.pack([2, 3, 1], slots=[4, 3, 2], order=[2, 0, 1], multiple=8)
    assert found.slots == (2, 4, 3) and found.lengths == (1, 2, 3) and found.ends.tolist() == [1, 2, 3]
    assert found.begins.tolist() == [0, 2, 5]
    assert found.rows_of.tolist() == [2, 3, 6, 7, 8, 0]
    assert len(found.source) == 16 and found.source[found.rows_of].tolist() == [0, 1, 2, 3, 4, 5]


def test_attention_is_computed_at_once_for_neighbours_of_equal_slots():
    rows = packing.pack([2, 2, 3], slots=[2, 2, 3], order=[0, 1, 2], multiple=1)
    keys = packing.pack([5, 4, 6], slots=[5, 5, 6], order=[0, 1, 2], multiple=1)
    two, one = packing.attention_groups(rows, keys)
    assert (two.count, two.queries, two.keys) == (2, 2, 5) and two.ends.tolist() == [5, 4]
    assert (one.count, one.queries, one.keys, one.ends) == (1, 3, 6, None)
    bias = torch.zeros(1, 1, 2, 5)
    hidden = torch.isinf(two.masked(bias.expand(2, 1, 2, 5)))
    assert hidden.sum() == 2 and bool(hidden[1, 0, :, 4].all()), "one key of the second, for both rows that ask"
    with pytest.raises(ValueError):
        packing.attention_groups(rows, packing.pack([5, 4], slots=[5, 4], order=[0, 1], multiple=1))


@pytest.mark.parametrize(
    ("lengths", "rows", "expected"),
    [
        ([1, 1, 1], 2, [[0, 1], [2]]),
        ([3, 7, 4, 1], 8, [[1], [2, 0, 3]]),
        ([3, 7, 4, 1], 7, [[1], [2, 0], [3]]),
        ([9, 2, 2], 4, [[0], [1, 2]]),
        ([], 4, []),
    ],
)
def test_parts_hold_at_most_the_rows_asked_for_or_one_sequence(lengths, rows, expected):
    assert packing.parts(lengths, rows) == expected
