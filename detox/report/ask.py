"""A dialogue of the user's own: read, made a prompt, summarized by two models, and shown side by side."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from detox.evaluation.checkpoints import Case, check_start
from detox.evaluation.scorers import load_scorers
from detox.evaluation.task import load_engine
from detox.model import devices, loading, tokenizers
from detox.model.engine import Engine
from detox.stage import artifacts
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


_MOST_BYTES = 1_000_000
_GAP = 4


def ask(settings: config.EvaluationStage, case: Case) -> None:
    """Print what the reference and the checkpoint make of one dialogue, greedily, and how toxic it is.

    Raises:
        UserError: the dialogue can't be used, or a model is gone or has changed.
    """
    if settings.ask is None:
        return
    loading.quiet()
    devices.set_threads(settings.threads)
    device = devices.take(settings.device)
    check_start(case)
    start = case.training.model
    tokenizer = tokenizers.load_tokenizer(start.base, start.revision)
    query = to_query(settings.ask, case, tokenizer)
    _, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    columns = {}
    for title, adapter in ("Before", start.adapter), (f"After: {case.name}", str(case.checkpoint / "adapter")):
        engine = load_engine(settings, case, adapter, device)
        summary = summarize_greedily(engine, tokenizer, query, settings.evaluation.max_new_tokens)
        columns[title] = summary, {name: scorers[name]([summary])[0] for name in ("toxicity", "judge")}
    print(side_by_side(columns))


def to_query(name: str, case: Case, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the prompt of a dialogue, made as those of training were, [length] of ids.

    Args:
        name: a text file, or `-` for standard input.
        case: whose run has the prepared dialogues, which know the prompt and its limit.
        tokenizer: of the models.

    Raises:
        UserError: the dialogue can't be read, is no text, is empty, or is longer than those of training.
    """
    prepared = case.run / "prepared"
    data = artifacts.read_manifest(prepared, "data_preparation", verify=False, reader=case.training)["config"]["data"]
    dialogue = _read(name)
    ids = tokenizer(data["prompt"].replace("{dialogue}", dialogue), truncation=False, verbose=False)["input_ids"]
    if len(ids) > data["max_query_tokens"]:
        raise UserError(
            f"--ask={name}: the prompt has {len(ids):,} tokens, the models were trained on "
            f"{data['max_query_tokens']:,} at most; shorten the dialogue"
        )
    return torch.tensor(ids)


def _read(name: str) -> str:
    try:
        content = _read_stdin() if name == "-" else _read_file(name)
    except OSError as error:
        raise UserError(f"--ask={name}: {error.strerror or error}; name a text file, or - for standard input") from None
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
    if sys.stdin is None:  # closed
        return b""
    if sys.stdin.isatty():
        print("Type the dialogue; end it with Ctrl-D on a line of its own.", file=sys.stderr)
    return sys.stdin.buffer.read(_MOST_BYTES + 1)


def summarize_greedily(engine: Engine, tokenizer: PreTrainedTokenizerBase, query: Tensor, max_new_tokens: int) -> str:
    """Return the most likely summary, token by token, of one prompt [length] of ids."""
    with torch.no_grad():
        made = engine.generate(engine.encode([query]), max_new_tokens)
    return tokenizer.batch_decode([made.responses[0].tolist()], skip_special_tokens=True)[0].strip()


def side_by_side(columns: Mapping[str, tuple[str, Mapping[str, float]]], width: int | None = None) -> str:
    """Return texts in columns, each under its title, with its figures below.

    Args:
        columns: title to the text, which is never trusted, and its figures by name.
        width: of the whole; that of the terminal unless given.
    """
    width = width or min(shutil.get_terminal_size((80, 24)).columns, 120)
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
