"""The checks of `python -m tests.device_check` themselves: what they leave behind, however a check comes out."""

from __future__ import annotations

import json

import pytest
import torch

from tests import device_check


def raises(error):
    def check(device, place):
        raise error

    return check


@pytest.fixture
def checks(monkeypatch, tmp_path):
    """Return what runs the command with other checks; it returns its code and the rows of its file."""

    def run(found):
        monkeypatch.setattr(device_check, "CHECKS", found)
        output = tmp_path / "found.json"
        try:
            code = device_check.main(["--device", "cpu", "--only", *found, "--output", str(output)])
        finally:
            run.rows = json.loads(output.read_text())["rows"]
        return code

    return run


def test_a_check_that_fails_in_whatever_way_leaves_the_others(checks, capsys):
    code = checks(
        {
            "stages": lambda device, place: {"packed": {"ppo/grad_norm": 0.25}},
            "demo float32": raises(device_check.Failed("code 1: one | two\nthree")),
            "rounding": raises(RuntimeError("MPS backend: no such kernel")),
            "sharded": lambda device, place: {"not run": "needs two GPUs"},
            "iteration": lambda device, place: {"everything": {"runs": []}, "ours": {"seconds": 12.34}},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert [row["outcome"] for row in checks.rows] == ["passed", "FAILED", "FAILED", "not run", "passed"]
    assert "no such kernel" in checks.rows[2]["figures"]["where"] and "everything" in checks.rows[4]["figures"]
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}, "no figure breaks a cell"
    assert table[2].startswith("| stages | passed |") and table[3] == "| - packed | | | grad_norm 0.25 |"
    assert "one / two three" in table[4] and "RuntimeError: MPS backend" in table[5]
    assert "needs two GPUs" in table[6] and table[8] == "| - ours | | | seconds 12.3 |"


def test_all_that_passes_is_code_0(checks):
    assert checks({"sharded": lambda device, place: {"not run": "needs two GPUs"}, "demo float32": lambda *_: {}}) == 0


def test_an_interruption_keeps_what_was_found(checks):
    with pytest.raises(KeyboardInterrupt):
        checks({"stages": lambda device, place: {"objective/score": 1.0}, "rounding": raises(KeyboardInterrupt())})
    assert [row["check"] for row in checks.rows] == ["stages"]


@pytest.mark.parametrize(
    ("device", "said"), [("auto", "finds no GPU"), ("cuda", "not on this machine"), ("gpu", "no such device")]
)
def test_where_there_is_nothing_to_check_one_line_says_so(device, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert device_check.main(["--device", device]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_program_gives_what_it_prints_or_why_it_did_not_end_well():
    assert device_check.program("-c", "print(3)") == "3\n"
    with pytest.raises(device_check.Failed, match="code 3: alas"):
        device_check.program("-c", "import sys; print('alas', file=sys.stderr); sys.exit(3)")
    with pytest.raises(device_check.Failed, match="no end after 1 s"):
        device_check.program("-c", "import time; time.sleep(60)", timeout=1)


def test_a_file_that_cannot_be_written_costs_no_check(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(device_check, "row_of", lambda name, device: pytest.fail("a check has run"))
    (tmp_path / "file").write_text("")
    assert device_check.main(["--device", "cpu", "--output", str(tmp_path / "file/found.json")]) == 2
    assert "--output=" in capsys.readouterr().err
