"""Progress: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io

import pytest

from detox.stage.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_one_line_when_all_is_done(capsys):
    for _ in Progress(range(3), desc="PPO", unit="update"):
        pass
    assert capsys.readouterr().out == "PPO: 3 of 3 in 00:00\n"


def test_a_file_gets_a_line_every_so_often(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY", 0.0)
    with Progress(total=4, desc="PPO", mininterval=0) as bar:
        bar.update(2)
    told = capsys.readouterr().out
    assert told.splitlines()[-1].startswith("PPO: 2 of 4, 00:00 so far, ")
    assert "\r" not in told


def test_a_task_that_fails_leaves_the_word_to_the_error(capsys):
    with pytest.raises(ValueError), Progress(total=4, desc="PPO") as bar:
        bar.update(2)
        raise ValueError
    assert capsys.readouterr().out == ""


def test_one_that_a_signal_meets_before_it_is_made_ends_in_silence(capsys):
    Progress.__new__(Progress).__del__()
    assert capsys.readouterr() == ("", "")


def test_a_process_that_does_not_speak(capsys):
    with Progress(total=1, desc="PPO", shown=False) as bar:
        bar.update()
    assert capsys.readouterr().out == ""


def test_other_lines_stay_their_own(capsys):
    with Progress(total=1, desc="PPO") as bar:
        bar.write("update 1")
        bar.update()
    assert capsys.readouterr() == ("update 1\nPPO: 1 of 1 in 00:00\n", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(total=2, desc="PPO", unit="update") as bar:
        bar.update(2)
    assert "\rPPO: 100%" in terminal.getvalue() and "2/2" in terminal.getvalue()
