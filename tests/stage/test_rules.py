"""Rules of settings: found in a field's type, told with the flag and the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

import pytest

from detox.stage.errors import UserError
from detox.stage.rules import Checked, Positive, Rule, between, matching, named


@dataclass(frozen=True)
class Settings(Checked, group="some"):
    plain: int = -1
    often: Annotated[Positive, Rule(lambda value: value % 2 == 0, "must be even")] = 2
    at_most: Optional[Positive] = None
    share: Annotated[float, between(0, 0.5)] = 0.1
    name: Annotated[str, named("name it")] = "x"
    place: Annotated[str, matching(r"[a-z]+", "use letters")] = "here"


class Inner(Settings):
    """Has the flags of what it extends."""


@pytest.mark.parametrize("kind", [Settings, Inner])
@pytest.mark.parametrize(
    "values, line",
    [
        ({"often": 0}, "--some.often=0: must be greater than 0"),
        ({"often": 3}, "--some.often=3: must be even"),
        ({"at_most": 0}, "--some.at-most=0: must be greater than 0"),
        ({"share": 0.5}, "--some.share=0.5: must lie between 0 and 0.5"),
        ({"name": " "}, "--some.name=' ': name it"),
        ({"place": "a1"}, "--some.place=a1: use letters"),
        ({"at_most": 1, "plain": -3}, None),
        ({}, None),
    ],
)
def test_a_broken_rule_is_told(kind, values, line):
    if line is None:
        kind(**values).validate()
        return
    with pytest.raises(UserError) as refusal:
        kind(**values).validate()
    assert str(refusal.value) == line


def test_none_where_it_is_not_allowed_is_a_wrong_type():
    with pytest.raises(TypeError):
        Settings(often=None).validate()
