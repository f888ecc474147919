"""The way from a source to the three splits: rows stream through filters and tokenizer to disk."""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from detox.data import prepared, workers
from detox.data.counts import DROPPED, LOST
from detox.data.duplicates import collect_references, distinct
from detox.data.prompts import Prompter
from detox.data.readers import Record
from detox.data.rows import Row
from detox.data.sources import Source, locate
from detox.data.splits import SPLITS
from detox.stage.errors import UserError
from detox.stage.parallel import ALONE, Processes
from detox.stage.progress import Progress

if TYPE_CHECKING:
    import config

CHUNK = 256


def prepare(
    settings: config.Data,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    source: Source | None = None,
    scratch: Path | None = None,
    processes: Processes = ALONE,
) -> tuple[DatasetDict, Counter]:
    """Turn dialogues into tokenized prompts, filtered by length, no dialogue in two splits.

    Rows stream through; what stays in memory is a digest a dialogue (and one of its id, split by split), and the
    references of the test split.
    The result is the same, to the byte, whatever the number of workers or processes.

    Args:
        settings: names source, columns, prompt and limits.
        tokenizer: of the summarizer; its end-of-sequence token is kept.
        seed: of the generator behind `demo:corpus`.
        source: what `locate` found; looked up where it is not given.
        scratch: a folder for temporary files, on a disk that holds the result (default: the system's).
        processes: of which this is the main one; the others `assist`.

    Returns:
        The splits `train`, `validation` and `test` with the columns of `FEATURES`, and the counts
        ("train/kept", "train/too long", ...): "read" is "kept" plus all that were dropped, by reason.

    Raises:
        UserError: a malformed row, named by file and line, or a split without an example.
    """
    source = source or locate(settings, seed)
    prompter = Prompter(settings, tokenizer)
    tallies: dict[str, Counter[str]] = {}
    dialogues: dict[str, set[bytes]] = {}
    splits: dict[str, Dataset] = {}
    # The mapped files stay readable after the folder is gone.
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        workers.ordered_map(prompter, settings.workers, processes) as fit,
    ):
        for split in reversed(SPLITS):
            is_test = split == "test"
            tally, own = Counter[str](), set[bytes]()
            read = Progress(source.rows(split), desc=split, unit=" rows", leave=False)
            references = collect_references(source.rows(split)) if is_test else {}
            rows = distinct(read, references, own, dialogues, tally)
            examples = _within_limits(rows, fit, prompter, settings, not is_test, tally)
            splits[split] = prepared.write(examples, Path(folder, f"{split}.arrow"), split)
            if not len(splits[split]):
                raise UserError(_nothing_left(settings, source, split, tally))
            tallies[split], dialogues[split] = tally, own
    counts = Counter({f"{split}/{reason}": n for split, tally in tallies.items() for reason, n in tally.items()})
    return DatasetDict({split: splits[split] for split in SPLITS}), counts


def assist(settings: config.Data, tokenizer: PreTrainedTokenizerBase, processes: Processes) -> None:
    """Tokenize a share of the rows that the main process reads in `prepare`, until it has read them all."""
    prompter = Prompter(settings, tokenizer)
    for _ in SPLITS:
        deque(workers.shared_map(prompter, processes, ()), maxlen=0)


def _nothing_left(settings: config.Data, source: Source, split: str, tally: Counter[str]) -> str:
    name = settings.dataset
    if not tally["read"]:
        return f"--data.dataset={name}: the {split} split is empty; {_more_rows(settings, source, split)}"
    dropped = ", ".join(f"{tally[reason]} {reason}" for reason in DROPPED if tally[reason])
    return (
        f"--data.dataset={name}: no example left in the {split} split ({tally['read']} read"
        f"{', ' + dropped if dropped else ''}); "
        "check the data, or change the limits (--data.max-query-tokens, ...)"
    )


def _more_rows(settings: config.Data, source: Source, split: str) -> str:
    """Return why a split has not one row, and what to do about it."""
    if split not in source.cut and not (split == "train" and source.cut):
        return "add rows to its file" + (
            "" if split == "train" else ", or remove that: a share of the train split then takes its place"
        )
    count = sum(1 for part in {"train", *source.cut} for _ in source.rows(part))
    if not count:
        return "there is no row in the file; name another"
    rows = f"{count} row{'s' if count > 1 else ''}"
    if split == "train":
        shares = " and ".join(f"--data.{part}-fraction" for part in source.cut)
        return f"its {rows} fell into the other splits, by hash; take a larger file, or lower {shares}"
    fraction = settings.test_fraction if split == "test" else settings.validation_fraction
    return (
        f"it is a share of the {rows} of the train split, by hash, and none fell into it; take a larger file, or raise "
        f"--data.{split}-fraction={fraction:g}"
    )


def _within_limits(
    rows: Iterator[Row],
    fit: workers.Map,
    prompter: Prompter,
    settings: config.Data,
    limit_summaries: bool,
    tally: Counter[str],
) -> Iterator[Record]:
    """Yield the examples of a split that pass the limits, and count the others."""

    def is_full() -> bool:
        return settings.max_examples is not None and tally["kept"] >= settings.max_examples

    def candidates() -> Iterator[Row]:
        for row in rows:
            if is_full():
                tally["over max_examples"] += 1
            else:
                yield prompter.shorten(row, limit_summaries)

    waiting = candidates()
    chunks = iter(lambda: (list(islice(waiting, CHUNK)), limit_summaries), ([], limit_summaries))
    for outcome, example, lost in chain.from_iterable(fit(chunks)):
        # Rows tokenized ahead count like those that were not: the counts do not depend on the workers.
        if is_full():
            tally["over max_examples"] += 1
            continue
        tally[outcome] += 1
        if example is not None:
            if outcome == "truncated":
                tally["kept"] += 1
            tally.update(dict(zip(LOST, lost, strict=True)))
            yield example
