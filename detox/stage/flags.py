"""Every flag of a stage as `config.py` declares it: name, kind, default, description. No torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


_KINDS = {int: "INT", float: "FLOAT", str: "TEXT"}
_NAMING = ("base", "adapter", "model", "dataset")
"""Settings of groups that are the name of a model or dataset."""


class Flag(NamedTuple):
    """One setting on the command line."""

    name: str
    """With its dashes: `--ppo.kl-coef`."""
    kind: str
    """What to type behind it: `INT`, `FLOAT`, `TEXT`, choices in braces; empty for a switch."""
    default: str
    """As it would be typed; `on` or `off` for a switch."""
    description: str
    """The docstring under the field, on one line."""

    @property
    def off(self) -> str:
        """The name that turns a switch off: `--ppo.no-score-scale`; empty for anything else."""
        group, dot, last = self.name.removeprefix("--").rpartition(".")
        return "" if self.kind else f"--{group}{dot}no-{last}"


CONFIG = Flag(
    "--config",
    "TEXT",
    "",
    "File of settings, YAML (`ppo: {updates: 20}` or `ppo.updates: 20`) or a manifest.json: goes before the preset, "
    "flags go before it. One file may serve all stages. Relative paths in it are of the working folder.",
)
"""No setting itself, so no manifest records it."""


class Group(NamedTuple):
    """The flags of one nested dataclass, or those of the stage itself."""

    name: str
    """Prefix of the flags; empty for the stage's own."""
    description: str
    flags: list[Flag]


def groups(settings: config.Stage) -> list[Group]:
    """Return the flags of a stage, its own first, with the values of `settings` as defaults."""
    names = [field.name for field in dataclasses.fields(settings)]
    found = [Group("", "", [CONFIG, *_flags(settings, "--")])]
    for name in names:
        inner = getattr(settings, name)
        if dataclasses.is_dataclass(inner):
            found.append(Group(name, inspect.cleandoc(inner.__doc__ or ""), list(_flags(inner, f"--{name}."))))
    return found


def flag_names(settings: config.Stage) -> list[str]:
    """Return the names of all flags of a stage."""
    return [flag.name for group in groups(settings) for flag in group.flags]


def words(name: str, value: str) -> list[str]:
    """Return what to type for a flag to have a value, which may begin as a flag does."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


def blamed(error: UserError) -> str:
    """Return the flag that an error about one begins with."""
    return str(error).partition("=")[0].partition(":")[0]


def about(error: UserError, settings: config.Stage) -> UserError:
    """Return an error that begins with the name of a model or dataset as one about the flags that name it."""
    named = [
        f"--{group}.{name}"
        for group in (field.name for field in dataclasses.fields(settings))
        for name in _NAMING
        if str(error).startswith(f"{printable(getattr(getattr(settings, group), name, None))}: ")
    ]
    return UserError(f"{' or '.join(named)}={error}") if named else error


def nearest(name: str, known: list[str]) -> str | None:
    """Return the flag that was probably meant, None if there is none near."""
    tail = name.lstrip("-").rpartition(".")[2]
    same_tail = [flag for flag in known if flag.lstrip("-").rpartition(".")[2] == tail]
    near = difflib.get_close_matches(name, same_tail or known, n=1, cutoff=0.0 if same_tail else 0.6)
    return near[0] if near else None


def _flags(settings: Any, prefix: str) -> Iterator[Flag]:
    owner: Any = type(settings)
    kinds, descriptions = get_type_hints(owner), _descriptions(owner)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not dataclasses.is_dataclass(value):
            name = prefix + field.name.replace("_", "-")
            yield Flag(name, _kind(kinds[field.name]), _typed(value), descriptions.get(field.name, ""))


def _kind(declared: Any) -> str:
    """Return how a type is named in help.

    Raises:
        TypeError: the command line has no form for it.
    """
    origin, arguments = get_origin(declared), get_args(declared)
    if declared is bool:
        return ""
    if declared in _KINDS:
        return _KINDS[declared]
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is Union or origin is types.UnionType:
        return "|".join("None" if kind is type(None) else _kind(kind) for kind in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"[{_kind(arguments[0])} ...]"
    raise TypeError(f"no flag can hold {declared}")


def _typed(value: object) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(_typed, value))
    return str(value).replace("\n", "\\n")


@functools.cache  # reading docstrings takes a while
def _descriptions(settings: type[Any]) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and of those it inherits from, each on one line."""
    import docstring_parser

    owners = filter(dataclasses.is_dataclass, reversed(settings.__mro__))
    fields = (field for owner in owners for field in docstring_parser.parse_from_object(owner).params)
    return {field.arg_name: " ".join((field.description or "").split()) for field in fields}
