"""Terms of the reward besides the classifier: length, overlap, and functions of the user's own."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from nltk.stem.porter import PorterStemmer
from torch import Tensor

from detox.scoring import own_modules, text_figures
from detox.scoring.rouge import rouge
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

Term = Callable[..., Sequence[float]]
"""Called with `summaries` (texts), `dialogues` (texts) and `references` (a list of texts a summary), all by keyword
and of one length; returns one finite number a summary, which depends on nothing but these arguments."""

_FUNCTION_WORDS = frozenset(
    "a about after again all also am an and another any are aren as at away back be because been before being both "
    "but by can cannot could couldn did didn do does doesn doing don down during each either else ever every few for "
    "from further get gets got had hadn has hasn have haven having he her here hers herself him himself his how i if "
    "in into is isn it its itself just let ll may me might mine more most must my myself neither no nor not of off on "
    "once only or other our ours ourselves out over own re same shall she should shouldn so some such than that the "
    "their theirs them themselves then there these they this those through to too under until up upon us ve very was "
    "wasn we were weren what when where which while who whom whose why will with without would wouldn yes you your "
    "yours yourself yourselves".split()
)
_stem = functools.lru_cache(maxsize=100_000)(PorterStemmer().stem)


def length(*, summaries: Sequence[str], dialogues: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return minus the relative deviation from the reference's length, for the nearest of the references.

    In words between white space: 0 is as long as the reference, -1 is empty or twice as long, -2 three times.
    """
    counts = [[max(1, text_figures.length(reference)) for reference in group] for group in references]
    return [
        -min(abs(text_figures.length(summary) - count) / count for count in group)
        for summary, group in zip(summaries, counts)
    ]


def overlap_dialogue(
    *, summaries: Sequence[str], dialogues: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Return the share of each summary's content words that the dialogue has too; 0 where there are none.

    From 0 to 1. Content words are those that are not English function words, compared by Porter's stems, each as
    often as it occurs in the summary. A summary that invents falls, and so does one that is polite about nothing.
    """
    shares = []
    for summary, dialogue in zip(summaries, dialogues):
        known, stems = set(_content(dialogue)), _content(summary)
        shares.append(sum(stem in known for stem in stems) / len(stems) if stems else 0.0)
    return shares


def overlap_reference(
    *, summaries: Sequence[str], dialogues: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Return ROUGE-L F1, 0 to 1, of each summary against the best of its references."""
    return rouge(summaries, references)["rougeL"].tolist()


_MOST = torch.finfo(torch.float32).max
BUILT_IN: Mapping[str, Term] = {
    "length": length,
    "overlap-dialogue": overlap_dialogue,
    "overlap-reference": overlap_reference,
}


def _content(text: str) -> list[str]:
    words = (word.replace("’", "'").partition("'")[0] for word in text_figures.words(text))
    return [_stem(word) for word in words if word not in _FUNCTION_WORDS]


def measure(
    terms: Mapping[str, Term],
    summaries: Sequence[str],
    dialogues: Sequence[str],
    references: Sequence[Sequence[str]],
) -> dict[str, Tensor]:
    """Return what each term says of B summaries, [B] float32 on the CPU, by the terms' names.

    Raises:
        UserError: a term raises, or does not return one finite number a summary.
    """
    return {
        name: torch.tensor(_numbers(name, term, summaries, dialogues, references), dtype=torch.float32)
        for name, term in terms.items()
    }


def _numbers(
    name: str,
    term: Term,
    summaries: Sequence[str],
    dialogues: Sequence[str],
    references: Sequence[Sequence[str]],
) -> list[float]:
    what = f"--reward.extra={name}"
    try:
        found = term(
            summaries=list(summaries), dialogues=list(dialogues), references=[list(group) for group in references]
        )
        values = [float(value) for value in found]
    except (Exception, SystemExit) as error:  # a function of others can fail in any way
        reason = printable(f"{type(error).__name__}: {error}{_where(error)}", 300)
        raise UserError(
            f"{what}: it failed on {len(summaries)} summaries ({reason}); correct it, what was saved is whole"
        ) from error
    if len(values) != len(summaries):
        raise UserError(f"{what}: it returned {len(values)} numbers for {len(summaries)} summaries; return one each")
    for summary, value in zip(summaries, values):
        if not abs(value) <= _MOST:
            raise UserError(f"{what}: it returned {value} for {printable(summary, 80)!r}; return finite numbers")
    return values


def labels(names: Iterable[str]) -> dict[str, str]:
    """Return a short label of each term: its function's name, where no other term has it."""
    short = {name: name.rpartition(":")[2] for name in names}
    counts = Counter([*short.values(), "classifier"])
    return {name: label if counts[label] == 1 else name for name, label in short.items()}


def _where(error: BaseException) -> str:
    """Return file and line of the user's code that an error came from, or nothing where none of it ran."""
    frames = traceback.extract_tb(error.__traceback__)
    library = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<", __file__)
    own = [frame for frame in frames if not frame.filename.startswith(library)]
    return f", {own[-1].filename}:{own[-1].lineno}" if own else ""


# ------------------------------------------------------------------------------------- functions of the user


def load(name: str) -> Term:
    """Return the term called `name`: a built-in one, or the user's `module:function` or `file.py:function`.

    A module is looked for where Python looks, and last in the working directory; a file may import its neighbours.

    Raises:
        UserError: no such term, or its module cannot be imported.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    source, _, attribute = name.rpartition(":")
    term = getattr(_import(source), attribute, None)
    if not callable(term):
        raise UserError(f"--reward.extra={name}: {source} has no function {attribute!r}; name one of its functions")
    return term


def identity(name: str) -> str:
    """Return what tells the code of a user's term from other code: the hash of its file.

    Where the file imports others of its folder (of a package: the folder that the package lies in), it is the hash of
    them all.

    Raises:
        UserError: as `load` does.
    """
    load(name)
    source = name.rpartition(":")[0]
    module = _import(source)
    if not getattr(module, "__file__", None):
        return source
    path = Path(str(module.__file__)).resolve()
    if path.suffix != ".py":
        return sha256(path)
    packages = 0 if source.endswith(".py") else source.count(".") + (path.name == "__init__.py")
    others = own_modules.imported(path, module.__name__, path.parents[packages])
    if not others:
        return sha256(path)
    hashes = [sha256(path), *(f"{other} {sha256(file)}" for other, file in sorted(others.items()))]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _import(source: str) -> ModuleType:
    is_file = source.endswith(".py")
    path = Path(source).expanduser().resolve()
    if is_file and not path.is_file():
        raise UserError(f"--reward.extra={source}: no such file; name file.py:function or module:function")
    folder = str(path.parent) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return _run_file(path) if is_file else importlib.import_module(source)
    except (Exception, SystemExit) as error:  # a file of others can fail in any way
        reason = printable(f"{type(error).__name__}: {error}{_where(error)}", 300)
        raise UserError(f"--reward.extra={source}: cannot be imported ({reason}); correct it or the name") from error


@functools.cache
def _run_file(path: Path) -> ModuleType:
    module = ModuleType(f"reward_terms_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there
    # The user named this file to be run. Compiled afresh, since a .pyc can be of older code than the file's hash.
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    return module
