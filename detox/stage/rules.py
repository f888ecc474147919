"""Rules that stand beside the fields of settings, and their one check. No torch.

A field is declared as `updates: Positive` or as `Annotated[float, between(0, 0.5)]`; None breaks no rule of an
`Optional[Positive]`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from detox.stage.errors import UserError


@dataclass(frozen=True)
class Rule:
    """What a value must be."""

    holds: Callable[[Any], bool]
    says: str
    """In words: of numbers what they must be, of texts what to write instead."""
    quoted: bool = False
    """Show the value in quotation marks, as it may be empty."""


def between(low: float, high: float) -> Rule:
    return Rule(lambda value: low < value < high, f"must lie between {low} and {high}")


def named(advice: str) -> Rule:
    """Return the rule of a text that must not be empty."""
    return Rule(lambda value: bool(value.strip()), advice, quoted=True)


def matching(pattern: str, advice: str) -> Rule:
    return Rule(lambda value: re.fullmatch(pattern, value, re.ASCII) is not None, advice)


def is_finite(number: str) -> bool:
    """Return whether a text is a number, neither infinite nor NaN."""
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False


_FINITE = Rule(math.isfinite, "must be finite")
_POSITIVE = Rule(lambda value: value > 0, "must be greater than 0")
_NOT_NEGATIVE = Rule(lambda value: value >= 0, "must be 0 or more")
Positive = Annotated[int, _POSITIVE]
PositiveFloat = Annotated[float, _FINITE, _POSITIVE]
NotNegative = Annotated[int, _NOT_NEGATIVE]
NotNegativeFloat = Annotated[float, _FINITE, _NOT_NEGATIVE]
Share = Annotated[float, Rule(lambda value: 0 < value <= 1, "must lie in (0, 1]")]
ShareBelowOne = Annotated[float, Rule(lambda value: 0 <= value < 1, "must lie in [0, 1)")]


class Checked:
    """Base of settings, which are dataclasses."""

    _group: ClassVar[str] = ""

    def __init_subclass__(cls, group: str | None = None) -> None:
        """Take what stands before the names of these settings in flags; those of a stage have nothing there."""
        cls._group = cls._group if group is None else group

    def validate(self) -> None:
        """Raise UserError where a field breaks a rule that stands beside it."""
        kinds = get_type_hints(type(self), include_extras=True)
        for setting in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, setting.name)
            if value is None and type(None) in get_args(kinds[setting.name]):
                continue
            for rule in _rules(kinds[setting.name]):
                self.demand(rule.holds(value), setting.name, rule.says, repr(value) if rule.quoted else value)

    def demand(self, holds: bool, name: str, rule: str, shown: object = ...) -> None:
        """Raise UserError with the flag of the field `name`, its value, or what is `shown` of it, and the rule."""
        if not holds:
            flag = "--" + f"{self._group}.{name}".lstrip(".").replace("_", "-")
            raise UserError(f"{flag}={getattr(self, name) if shown is ... else shown}: {rule}")


def _rules(kind: Any) -> Iterator[Rule]:
    """Yield the rules in a type, in their order: Optional[Annotated[int, rule, rule]]."""
    for part in get_args(kind):
        if isinstance(part, Rule):
            yield part
        else:
            yield from _rules(part)
