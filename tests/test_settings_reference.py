"""docs/settings.md says what config.py says."""

from __future__ import annotations

from typing import Literal, Optional

import pytest

import config
from detox.stage import flags
from docs import settings_reference


def test_the_committed_reference_is_current():
    assert settings_reference.problem() is None


def test_a_stale_reference_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_reference, "PATH", tmp_path / "settings.md")
    assert "make docs" in settings_reference.problem()
    settings_reference.PATH.write_text(settings_reference.text() + "x")
    assert "make docs" in settings_reference.problem()


def row(text: str, script: str, flag: str) -> list[str]:
    """Return the cells of a flag in the section of a stage."""
    section = text.split(f"## {script}\n")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| `{flag}` |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize(
    "script, flag, cells",
    [
        ("training_ppo.py", "--ppo.kl-coef", ["number", "`0.2`", "`0.05`", "Weight of the KL penalty"]),
        ("training_ppo.py", "--ppo.kl-penalty", ["`k1`, `k3`, `full`", "`k1`", "", "Estimator of the penalty"]),
        ("training_ppo.py", "--ppo.score-scale", ["switch", "`off`", "", "Divide the scores"]),
        ("training_ppo.py", "--ppo.score-clip", ["number, optional", "`10.0`", "", "Clip scores"]),
        ("evaluate_ppo.py", "--evaluation.examples", ["whole number, optional", "`None`", "`300`", "At most"]),
        ("data_preparation.py", "--preset", ["`flan-t5`, `demo`", "`flan-t5`", "", "Set of defaults"]),
        ("training_lora.py", "--threads", ["whole number, optional", "`None`", "", "Threads on the CPU"]),
    ],
)
def test_a_row_holds_kind_defaults_and_description(script, flag, cells):
    *found, description = row(settings_reference.text(), script, flag)[1:]
    assert found == cells[:-1] and description.startswith(cells[-1])


def test_every_flag_of_every_stage_has_a_row():
    text = settings_reference.text()
    for script, stage in config.STAGES.items():
        for name in flags.flag_names(config.preset(stage, "demo")):
            row(text, script, name)


@pytest.mark.parametrize(
    "declared, kind",
    [
        (int, "INT"),
        (Optional[float], "FLOAT|None"),
        (str | None, "TEXT|None"),
        (bool, ""),
        (Literal["a", "b"], "{a,b}"),
        (tuple[str, ...], "[TEXT ...]"),
    ],
)
def test_kinds(declared, kind):
    assert flags._kind(declared) == kind


def test_a_type_that_no_flag_can_hold_is_refused():
    with pytest.raises(TypeError, match="no flag can hold"):
        flags._kind(dict[str, int])
