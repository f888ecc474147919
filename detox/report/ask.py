"""Dialogues of the user's own: read, made prompts, summarized by two models, and shown side by side."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from detox.data.fingerprint import tokenizer_fingerprint
from detox.data.prepared import load_prepared
from detox.evaluation.checkpoints import Case, check_start, unchanged
from detox.evaluation.folders import has_other_data
from detox.evaluation.scorers import Scorer, load_scorers
from detox.evaluation.task import load_engine
from detox.model import devices, loading, threads, tokenizers
from detox.model.engine import Engine
from detox.report import familiarity
from detox.stage import artifacts, lack_of_memory, manifest, notes
from detox.stage.errors import UserError, printable
from detox.stage.figures import lookup

if TYPE_CHECKING:
    import config


_MOST_BYTES = 1_000_000
_GAP = 4


def ask(settings: config.EvaluationStage, case: Case) -> None:
    """Print what the reference and the checkpoint make of a dialogue, greedily, and how toxic it is.

    At a terminal, of one dialogue after the other; one that can't be used is told, and the next may come.

    Raises:
        UserError: the dialogue can't be used, or a model is gone or has changed.
    """
    if settings.ask is None:
        return
    loading.quiet()
    device = devices.take(settings.device)
    check_start(case)
    start = case.training.model
    tokenizer = tokenizers.load_tokenizer(start.base, start.revision)
    threads.take(settings.threads, device, start.base, start.revision)
    typed = settings.ask == "-" and _at_terminal()
    prepared, reader = case.run / "prepared", case.training
    if has_other_data(case):
        prompt = lookup(manifest.glance(prepared), "config", "data", "prompt")
        notes.tell(f"--ask takes the prompt of {prepared}: {prompt!r}")
    query = None if typed else to_query(settings.ask, _read(settings.ask), prepared, tokenizer, reader)
    with unchanged(case):
        models = _load(settings, case, tokenizer, device)
    if query is not None:
        return print(models.answer(query))
    for content in _type():
        try:
            query = to_query("-", _to_text("-", content), prepared, tokenizer, reader)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        else:
            print(models.answer(query), end="\n\n", flush=True)


@dataclass(frozen=True)
class _Models:
    """Both models, what marks their summaries, and how sure the first is of those of the run's dialogues."""

    engines: Mapping[str, Engine]
    tokenizer: PreTrainedTokenizerBase
    scorers: Mapping[str, Scorer]
    usual: familiarity.Usual
    max_new_tokens: int

    def answer(self, query: Tensor) -> str:
        """Return what both say to a prompt [length] of ids, in columns, and a note if it is unlike the run's."""
        columns, sure = {}, []
        for title, engine in self.engines.items():
            with torch.no_grad():
                made = engine.generate(engine.encode([query]), self.max_new_tokens)
            summary = self.tokenizer.batch_decode([made.responses[0].tolist()], skip_special_tokens=True)[0].strip()
            scores = {name: self.scorers[name]([summary])[0] for name in ("toxicity", "judge")}
            cut = "" if made.finished[0] else f" (cut at {self.max_new_tokens} tokens)"
            columns[title] = summary + cut, scores
            sure += familiarity.sureness(made)
        note = self.usual.note(sure[0])
        return side_by_side(columns) + (f"\n\n{textwrap.fill(note, _width())}" if note else "")


def _load(
    settings: config.EvaluationStage, case: Case, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> _Models:
    _, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    prepared = load_prepared(case.run / "prepared", tokenizer_fingerprint(tokenizer), reader=case.training)
    adapters = {"Before": case.training.model.adapter, f"After: {case.name}": str(case.checkpoint / "adapter")}
    engines = {title: load_engine(settings, case, adapter, device) for title, adapter in adapters.items()}
    sizes = settings.evaluation
    with lack_of_memory.told(f"lower --evaluation.batch-size={sizes.batch_size}"):
        usual = familiarity.usual(engines["Before"], prepared, sizes.max_new_tokens, sizes.batch_size)
    return _Models(engines, tokenizer, scorers, usual, sizes.max_new_tokens)


def to_query(
    name: str,
    dialogue: str,
    prepared: Path,
    tokenizer: PreTrainedTokenizerBase,
    reader: config.Stage | None = None,
) -> Tensor:
    """Return the prompt of a dialogue, made as those of training were, [length] of ids.

    Args:
        name: of where the dialogue is from.
        dialogue: its text.
        prepared: folder of the prepared dialogues, which knows the prompt and its limit.
        tokenizer: of the models.
        reader: settings of who asks, for the command that makes the folder where it is missing.

    Raises:
        UserError: the dialogue is longer than those of training.
    """
    data = artifacts.read_manifest(prepared, "data_preparation", verify=False, reader=reader)["config"]["data"]
    ids = tokenizer(data["prompt"].replace("{dialogue}", dialogue), truncation=False, verbose=False)["input_ids"]
    if len(ids) > data["max_query_tokens"]:
        raise UserError(
            f"--ask={name}: the prompt has {len(ids):,} tokens, the models were trained on "
            f"{data['max_query_tokens']:,} at most; shorten the dialogue"
        )
    return torch.tensor(ids)


def _read(name: str) -> str:
    """Return the dialogue in a file, or in standard input (`-`)."""
    try:
        content = _read_stdin() if name == "-" else _read_file(name)
    except OSError as error:
        raise UserError(f"--ask={name}: {error.strerror or error}; name a text file, or - for standard input") from None
    return _to_text(name, content)


def _to_text(name: str, content: bytes) -> str:
    """Return a dialogue as text.

    Raises:
        UserError: it is no text, is empty, or is beyond any prompt.
    """
    if len(content) > _MOST_BYTES:
        raise UserError(f"--ask={name}: more than {_MOST_BYTES:,} bytes; give one dialogue")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = f"0x{content[error.start]:02x} at byte {error.start:,}"
        raise UserError(f"--ask={name}: not UTF-8 ({bad}); save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"--ask={name}: holds a NUL character; give plain text")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise UserError(f"--ask={name}: is empty; write a dialogue, such as `#Person1#: Hello.`, a turn a line")
    return text


def _read_file(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read(_MOST_BYTES + 1)


def _read_stdin() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read(_MOST_BYTES + 1)  # None if closed


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _type() -> Iterator[bytes]:
    """Yield the dialogues that are typed, each when its empty line has come."""
    print("Type a dialogue, a turn a line; an empty line ends it, Ctrl-D ends all.", file=sys.stderr)
    lines: list[bytes] = []
    for line in iter(sys.stdin.buffer.readline, b""):
        if line.strip():
            lines.append(line)
        elif lines:
            yield b"".join(lines)
            lines = []
    if lines:
        yield b"".join(lines)


def _width() -> int:
    """Return the columns of the terminal, 120 at most."""
    return min(shutil.get_terminal_size((80, 24)).columns, 120)


def side_by_side(columns: Mapping[str, tuple[str, Mapping[str, float]]], width: int | None = None) -> str:
    """Return texts in columns, each under its title, with its figures below.

    Args:
        columns: title to the text, which is never trusted, and its figures by name.
        width: of the whole; that of the terminal unless given.
    """
    width = width or _width()
    each = max(20, (width - _GAP * (len(columns) - 1)) // len(columns))
    label = max(len(name) for _, figures in columns.values() for name in figures)

    def lines(title: str, text: str) -> list[str]:
        return [title, "-" * len(title), *(textwrap.wrap(printable(text), each) or ["(empty)"])]

    rows = [*zip_longest(*(lines(title, text) for title, (text, _) in columns.items()), fillvalue="")]
    rows += [("",) * len(columns)]
    rows += zip(
        *([f"{name:{label}}  {value:.4f}" for name, value in figures.items()] for _, figures in columns.values())
    )
    return "\n".join(_line(row, each) for row in rows)


def _line(cells: Sequence[str], width: int) -> str:
    return (" " * _GAP).join(f"{cell:{width}}" for cell in cells).rstrip()
