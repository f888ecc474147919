"""Threads: the narrow model's one, cores that may be used, fewer where others are busy, the user's own setting."""

from __future__ import annotations

import pytest
import torch

from detox.model import threads
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_number(monkeypatch):
    """Four threads as torch's own choice, with nothing that a user has set."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return str(tiny.t5(tmp_path_factory.mktemp("world") / "t5"))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({8: 1.0, 7: 1.1, 4: 1.6, 2: 3.0, 1: 6.0}, 8),  # nobody else is there
        ({8: 3.0, 7: 1.1, 4: 1.6, 2: 3.0, 1: 6.0}, 7),  # one core is somebody's
        ({8: 9.0, 7: 8.0, 4: 7.0, 2: 5.0, 1: 4.0}, 1),  # all are
        ({8: 1.0, 7: 0.95, 4: 1.2, 2: 2.0, 1: 4.0}, 8),  # 5% is no reason
    ],
)
def test_the_largest_number_that_none_is_clearly_faster_than(seconds, chosen):
    assert threads.fastest(8, lambda tried: [seconds[count] for count in tried]) == chosen


def test_a_single_core_is_not_measured():
    assert threads.fastest(1, lambda tried: pytest.fail("measured")) == 1


def test_a_measurement_gives_seconds_of_each_number():
    one, two = threads._measure([2, 1], 64)
    assert 0 < one < 1 and 0 < two < 1


@pytest.mark.parametrize(
    ("written", "count"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 4)]
)
def test_the_control_group_s_limit(tmp_path, monkeypatch, written, count):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{written}\n")
    assert threads.cores(tmp_path / "cpu.max") == count


def test_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert threads.cores(tmp_path / "none") == 3


def test_a_setting_is_obeyed(narrow):
    threads.take(3, CPU, narrow)
    assert torch.get_num_threads() == 3


def test_a_narrow_model_has_one(narrow):
    threads.take(None, CPU, narrow)
    assert torch.get_num_threads() == 1


def test_a_wide_model_has_the_fastest(narrow, monkeypatch):
    monkeypatch.setattr(threads, "NARROW", 1)
    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr(threads, "_measure", lambda tried, width: [5.0, 1.0, 2.0])
    threads.take(None, CPU, narrow)
    assert torch.get_num_threads() == 2


def test_the_environment_s_number_is_left(narrow, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.take(None, CPU, narrow)
    assert torch.get_num_threads() == 4


def test_beside_an_accelerator_torch_s_own_number_stays(narrow):
    threads.take(None, torch.device("meta"), narrow)
    assert torch.get_num_threads() == 4
    assert threads.describe(torch.device("meta")) == ""
    assert threads.describe(CPU) == ", 4 threads"
