"""The short form of the fault suite; `make faults` tries all."""

from __future__ import annotations

import pytest

from tests.faults import suite, world


@pytest.fixture(scope="module")
def the(tmp_path_factory):
    return world.World(tmp_path_factory.mktemp("faults"), world.STAGES[:3])


def named(attempt):
    """Return an id that is the same in every process: functions by their names, not by where they lie in memory."""
    given = (f"{name}={getattr(value, '__name__', value)}" for name, value in attempt.keywords.items())
    return " ".join([attempt.func.__name__, *given])


@pytest.mark.parametrize("attempt", suite.short(), ids=named)
def test_what_is_on_disk_is_whole_and_nothing_is_lost(the, attempt):
    row = attempt(the)
    assert row.tried and row.whole == row.tried and not row.problems, row
