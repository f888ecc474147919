"""From dialogues to a prepared dataset: sources, readers, splits, filters, prompts and tokenization."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import pyarrow
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, Value
from datasets.arrow_writer import ArrowWriter
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from detox.demo import corpus
from detox.stage import artifacts
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256
from detox.stage.parallel import ALONE, Processes

if TYPE_CHECKING:
    import config


SPLITS = ("train", "validation", "test")
DEMO_DIALOGUES = {"train": 4000, "validation": 200, "test": 400}
MAX_REFERENCES = 3
MAX_RECORD = 2**28
CHUNK = 256
FEATURES = Features(
    {
        "id": Value("string"),
        "dialogue": Value("string"),
        "query": Value("string"),
        "input_ids": datasets.List(Value("int32")),
        "summaries": datasets.List(Value("string")),
        "topic": Value("string"),
    }
)
DROPPED = (
    "no dialogue",
    "no summary",
    "further reference",
    "beyond 3 references",
    "duplicate",
    "also in test",
    "also in validation",
    "too short",
    "too long",
    "long summary",
    "over max_examples",
)
# As the datasets library knows them.
_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SUFFIXES = ("csv", "tsv", "json", "jsonl", "parquet")
_DELIMITERS = (",", ";", "\t", "|")
_DECODER = json.JSONDecoder()
_SPEAKER = re.compile(r"^[^\S\n]*#?[\w .-]{1,30}#?[:：]", re.MULTILINE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

LOST = tuple(f"{which}{what}" for what in ("tokens", "characters", "summary characters") for which in ("", "unknown "))
"""What is counted of the texts that are kept: how much of prompts, dialogues and summaries no token stands for."""
WARN_UNKNOWN, MOST_UNKNOWN = 0.01, 0.5
"""Shares of what is unknown that are warned of, and of unknown characters that are refused."""

Record = dict[str, Any]
Outcome = tuple[str, "Record | None", tuple[int, ...]]
"""Of a row: why it is dropped, or "kept" or "truncated"; then its example, and the numbers of `LOST`."""
_Map = Callable[[Iterable[Any]], Iterator[Any]]


class Row(NamedTuple):
    """One row of a source, checked: texts are Unicode without NUL, ends stripped, line breaks `\\n`."""

    where: str
    id: str
    dialogue: str
    summaries: tuple[str, ...]
    topic: str


@dataclass(frozen=True)
class Source:
    """Where the dialogues come from.

    Attributes:
        name: the dataset's name as the user wrote it.
        revision: the commit of a hub dataset, else None.
        files: the files that are read.
        rows: gives the rows of a split, from the beginning each time it is called.
    """

    name: str
    revision: str | None
    files: tuple[Path, ...]
    rows: Callable[[str], Iterator[Row]]


# --------------------------------------------------------------------------------------------------- sources


def locate(settings: config.Data, seed: int) -> Source:
    """Find the dataset that the settings name, fetching it where it is on the hub.

    Args:
        settings: names the dataset and its columns.
        seed: of the generator behind `demo:corpus`; other sources do not depend on it.

    Raises:
        UserError: there is no such dataset, the hub is out of reach, or splits are missing.
    """
    name, path = settings.dataset, Path(os.path.expanduser(settings.dataset))
    is_local = name == "demo:corpus" or path.exists()
    if is_local and settings.revision is not None:
        raise UserError(f"--data.revision={settings.revision}: {name} is not on the hub; leave the revision out")
    if name == "demo:corpus":
        train, validation, test = (DEMO_DIALOGUES[split] for split in SPLITS)
        records = corpus.generate(seed, train, validation, test)
        return Source(
            name, None, (), lambda split: _rows(_numbered(f"{name}/{split}", records[split]), settings, split)
        )
    if path.is_file():
        _reader(path)
        return _source(name, None, {"train": [path]}, settings)
    if path.is_dir():
        return _folder_source(name, None, path, settings)
    looks_local = name.startswith((".", "/", "~")) or path.suffix.lower().lstrip(".") in _SUFFIXES
    if path.exists() or looks_local or not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"--data.dataset={name}: no such file or folder; name a hub dataset, a folder, a file or demo:corpus"
        )
    folder = _fetch(name, settings.revision)
    return _folder_source(name, folder.name, folder, settings)


def _folder_source(name: str, revision: str | None, folder: Path, settings: config.Data) -> Source:
    """Return the source of a folder: its splits by the names of their files, or the one file that it holds."""
    files = {split: found for split in SPLITS if (found := _split_files(name, folder, split))}
    others = _data_files(folder)
    if not files and len(others) == 1:
        files = {"train": others}
    if "train" not in files:
        has = printable(", ".join(path.name for path in others), 200) or "no data file"
        raise UserError(
            f"--data.dataset={name}: no file for the train split (it has {has}); it takes train.csv (or .tsv, .json, "
            ".jsonl, .parquet), with validation.csv and test.csv where there are such, or name a single file"
        )
    return _source(name, revision, files, settings)


def _source(name: str, revision: str | None, files: Mapping[str, list[Path]], settings: config.Data) -> Source:
    """Return the source that reads these files; splits that have none are taken out of the train split."""
    fractions = tuple(
        0.0 if split in files else fraction
        for split, fraction in (("test", settings.test_fraction), ("validation", settings.validation_fraction))
    )

    def rows(split: str) -> Iterator[Row]:
        for path in files.get(split, files["train"]):
            found = _rows(_reader(path)(path), settings, path.stem)
            is_cut = any(fractions) and (split == "train" or split not in files)
            yield from (row for row in found if _share(row, *fractions) == split) if is_cut else found

    return Source(name, revision, tuple(path for split in SPLITS for path in files.get(split, ())), rows)


def _split_files(name: str, folder: Path, split: str) -> list[Path]:
    """Return the one file of a split, or all its shards (`train-00000-of-00003.parquet`), if there are any."""
    names = "|".join(_ALIASES[split])
    pattern = re.compile(rf"((?:[^.].*\.)?(?:{names}))(?:-\d+-of-\d+)?(\.(?:{'|'.join(_SUFFIXES)}))")
    found: dict[tuple[str, ...], list[Path]] = {}
    for path in _data_files(folder):
        match = pattern.fullmatch(path.name)
        if match:
            found.setdefault((str(path.parent), *match.groups()), []).append(path)
    if len(found) > 1:
        paths = ", ".join(paths[0].name for paths in found.values())
        raise UserError(f"--data.dataset={name}: several files for the {split} split ({paths}); leave one")
    return next(iter(found.values()), [])


def _data_files(folder: Path) -> list[Path]:
    """Return the files that could hold dialogues, at the top of a folder or in its `data`, in the order of names."""
    found = sorted([*folder.glob("*"), *folder.glob("data/*")])
    return [path for path in found if path.suffix.lower().lstrip(".") in _SUFFIXES and path.is_file()]


def _fetch(name: str, revision: str | None) -> Path:
    """Download the data files of a hub dataset, never a script; the folder is named for the commit.

    Files named for a split are asked for first; where there are none, whatever has a suffix of data.
    """
    from detox.model import hub

    stems = [alias for aliases in _ALIASES.values() for alias in aliases]
    stems = [*stems, *(f"*.{stem}" for stem in stems), *(f"{stem}-*-of-*" for stem in stems)]
    for names in (stems, ["[!/]*"]):
        patterns = [f"{folder}{stem}.{suffix}" for folder in ("", "data/") for stem in names for suffix in _SUFFIXES]
        folder = hub.fetch(name, revision, patterns, "dataset")
        if _data_files(folder):
            break
    return folder


def _share(row: Row, test_fraction: float, validation_fraction: float) -> str:
    """Assign a dialogue to a split by its hash, so that equal dialogues stay together."""
    position = int.from_bytes(_digest(row.dialogue)[:8], "big") / 2**64
    if position < test_fraction:
        return "test"
    return "validation" if position < test_fraction + validation_fraction else "train"


def _digest(text: str) -> bytes:
    """Return 16 bytes that two texts share when they differ in white space or case at most."""
    return hashlib.blake2b(" ".join(text.split()).casefold().encode(), digest_size=16).digest()


# --------------------------------------------------------------------------------------------------- readers


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[str, Record]]]:
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_json_lines,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: format {path.suffix or 'unknown'}; it must be {', '.join(readers)}")
    return readers[path.suffix.lower()]


def _numbered(name: str, records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    return ((f"{name}:{number}", record) for number, record in enumerate(records, 1))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, numbered from 1, line break kept, byte order mark dropped."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                raw = file.readline(MAX_RECORD)
                if not raw:
                    return
                if len(raw) == MAX_RECORD:
                    raise UserError(f"{path}:{number}: line of {MAX_RECORD >> 20} MiB or more; break it up")
                if b"\0" in raw:
                    raise UserError(f"{path}:{number}: holds a NUL byte; save the file as UTF-8 text")
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{raw[error.start]:02x} in column {error.start + 1}"
                    raise UserError(f"{path}:{number}: not UTF-8 ({byte}); save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def _read_csv(path: Path) -> Iterator[tuple[str, Record]]:
    """Read a file of rows with a header; what parts the columns is seen in the header, or said by Excel's `sep=;`."""
    csv.field_size_limit(MAX_RECORD)
    lines = (text for _, text in _lines(path))
    first = next(lines, "")
    said = re.fullmatch(r"\s*sep=(.)\s*", first)
    delimiter = said[1] if said else max(_DELIMITERS, key=lambda mark: _columns_by(first, mark))
    is_spaced = bool(re.search(rf"{re.escape(delimiter)} ", first))
    reader = csv.reader(
        chain([] if said else [first], lines), strict=True, delimiter=delimiter, skipinitialspace=is_spaced
    )
    skipped = 1 if said else 0
    header: list[str] = []
    while True:
        where = f"{path}:{reader.line_num + skipped + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(
                f"{where}: not valid CSV ({error}); check the quotes of the row that begins there"
            ) from None
        if not fields or (len(fields) == 1 and not fields[0].strip()):
            continue
        if not header:
            header = [field.strip() for field in fields]
            if len(set(header)) < len(header):
                raise UserError(f"{where}: a column occurs twice ({', '.join(header)}); give each its own name")
        elif len(fields) != len(header):
            raise UserError(
                f"{where}: {len(fields)} fields where the header has {len(header)}; check commas and quotes"
            )
        else:
            yield where, dict(zip(header, fields, strict=True))
    if not header:
        raise UserError(f"{path}: is empty; it must begin with a line of column names")


def _columns_by(line: str, delimiter: str) -> int:
    """Return how many columns a header has, if this parts them."""
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _read_json_lines(path: Path) -> Iterator[tuple[str, Record]]:
    for number, text in _lines(path):
        if text.strip():
            yield f"{path}:{number}", _json_record(f"{path}:{number}", text)


def _read_json(path: Path) -> Iterator[tuple[str, Record]]:
    """Read a list of objects, naming the line where each begins; anything else is read as JSON lines."""
    first = next((text.lstrip() for _, text in _lines(path) if text.strip()), "")
    if not first.startswith("["):
        yield from _read_json_lines(path)
        return
    text = "".join(line for _, line in _lines(path))
    position, line, separator = 0, 1, "["
    while separator != "]":
        begin = _behind_space(text, _behind_space(text, position) + 1)
        line += text.count("\n", position, begin)
        where = f"{path}:{line}"
        if separator == "[" and text[begin : begin + 1] == "]":
            end = begin
        else:
            record, end = _json_value(where, text, begin)
            yield where, record
        position = _behind_space(text, end)
        line += text.count("\n", begin, position)
        separator = text[position : position + 1]
        if separator not in ("]", ","):
            raise UserError(f"{path}:{line}: not valid JSON (',' or ']' expected); check the list of objects")
    if text[position + 1 :].strip():
        raise UserError(f"{path}:{line}: not valid JSON (text after the list); check the list of objects")


_SPACE = re.compile(r"\s*")


def _behind_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _json_record(where: str, text: str) -> Record:
    begin = len(text) - len(text.lstrip())
    record, end = _json_value(where, text, begin)
    if text[end:].strip():
        raise UserError(f"{where}: not valid JSON (text after the object); write one object a line")
    return record


def _json_value(where: str, text: str, begin: int) -> tuple[Record, int]:
    """Parse the object at `begin`; return it and the position after it."""
    try:
        record, end = _DECODER.raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deep" if isinstance(error, RecursionError) else str(error))
        raise UserError(f"{where}: not valid JSON ({reason}); correct or remove it") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {type(record).__name__}, not an object; correct or remove it")
    return record, end


def _read_parquet(path: Path) -> Iterator[tuple[str, Record]]:
    """Read a Parquet file; its rows, counted from 1, stand for lines."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=CHUNK)
            yield from _numbered(str(path), (record for batch in batches for record in batch.to_pylist()))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({printable(error, 120)}); make it anew") from None


# ------------------------------------------------------------------------------------------ records -> rows


class _Columns(NamedTuple):
    id: str | None
    dialogue: str
    summaries: tuple[str, ...]
    topic: str | None


def _columns(record: Record, where: str, settings: config.Data) -> _Columns:
    """Find the columns in the first record; the authors' have `fname`, `summary1..3` and `topic1..3`.

    Without a column of ids the rows are numbered, unless one was named.
    """
    numbered = [
        settings.summary_column,
        *(f"{settings.summary_column}{n}" for n in range(1, MAX_REFERENCES + 1)),
    ]
    candidates = {
        "id": [settings.id_column, "fname"] if settings.id_column == "id" else [settings.id_column],
        "dialogue": [settings.dialogue_column],
        "summary": numbered,
        "topic": [settings.topic_column, f"{settings.topic_column}1"],
    }
    present = {setting: [name for name in names if name in record] for setting, names in candidates.items()}
    for setting, names in candidates.items():
        if not present[setting] and names[0] not in ("id", "topic"):
            has = printable(", ".join(map(str, record)), 200)
            raise UserError(
                f"{where}: no column {names[0]!r} (it has {has}); name the column with --data.{setting}-column"
            )
    summaries = present["summary"][:1] if numbered[0] in record else present["summary"]
    topic = present["topic"][0] if present["topic"] else None
    identity = present["id"][0] if present["id"] else None
    return _Columns(identity, present["dialogue"][0], tuple(summaries), topic)


def _rows(records: Iterable[tuple[str, Record]], settings: config.Data, name: str) -> Iterator[Row]:
    """Check the records of a file called `name`, for which rows without ids are named: train_1, train_2."""
    columns = None
    for number, (where, record) in enumerate(records, 1):
        columns = columns or _columns(record, where, settings)
        for field in (columns.id, columns.dialogue):
            if field is not None and field not in record:
                raise UserError(f"{where}: no field {field!r}; correct or remove the row")
        identity = f"{name}_{number}" if columns.id is None else record[columns.id]
        if isinstance(identity, (int, float)) and not isinstance(identity, bool):
            identity = f"{identity:.17g}"
        identity = _text(identity, columns.id or "id", where)
        if not identity:
            raise UserError(f"{where}: the {columns.id} is empty; give the dialogue an id or remove the row")
        summaries = [_text(record.get(field), field, where) for field in columns.summaries]
        yield Row(
            where,
            identity,
            _text(record[columns.dialogue], columns.dialogue, where),
            tuple(summary for summary in summaries if summary),
            _text(record.get(columns.topic), columns.topic, where) if columns.topic else "",
        )


def _text(value: object, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {column} is a {type(value).__name__}, not text; correct or remove the row")
    if "\0" in value:
        raise UserError(f"{where}: {column} holds a NUL character; correct or remove the row")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {column} holds half a surrogate pair; correct or remove the row")
    return value.replace("\r\n", "\n").replace("\r", "\n").strip()


# ----------------------------------------------------------------------------------------- rows -> examples


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
    counts: Counter = Counter()
    dialogues: dict[str, _Digests] = {}
    splits: dict[str, Dataset] = {}
    # The mapped files stay readable after the folder is gone.
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        _ordered_map(prompter, settings.workers, processes) as fit,
    ):
        for split in reversed(SPLITS):
            tally = _Tally(split, counts)
            rows = _distinct(tqdm(source.rows(split), split, unit=" rows", disable=None), tally, dialogues, source)
            examples = _kept(rows, fit, prompter, settings, tally)
            splits[split] = _write(examples, Path(folder, f"{split}.arrow"), split)
            if not len(splits[split]):
                raise UserError(_nothing_left(settings.dataset, tally))
    return DatasetDict({split: splits[split] for split in SPLITS}), counts


def assist(settings: config.Data, tokenizer: PreTrainedTokenizerBase, processes: Processes) -> None:
    """Tokenize a share of the rows that the main process reads in `prepare`, until it has read them all."""
    prompter = Prompter(settings, tokenizer)
    for _ in SPLITS:
        deque(_shared_map(prompter, processes, ()), maxlen=0)


class _Tally:
    """The counts of one split."""

    def __init__(self, split: str, counts: Counter):
        self.split, self.counts = split, counts

    def add(self, reason: str, number: int = 1) -> None:
        self.counts[f"{self.split}/{reason}"] += number

    def __getitem__(self, reason: str) -> int:
        return self.counts[f"{self.split}/{reason}"]


def _nothing_left(name: str, tally: _Tally) -> str:
    dropped = ", ".join(f"{tally[reason]} {reason}" for reason in DROPPED if tally[reason])
    return (
        f"--data.dataset={name}: no example left in the {tally.split} split ({tally['read']} read"
        f"{', ' + dropped if dropped else ''}); "
        "check the data, or change the limits (--data.max-query-tokens, ...)"
    )


def unknown(counts: Mapping[str, int | float], split: str) -> dict[str, float]:
    """Return which shares of the `tokens` of prompts and of the characters of texts the tokenizer does not know."""
    return {
        what: counts.get(f"{split}/unknown {what}", 0) / max(1, counts.get(f"{split}/{what}", 0)) for what in LOST[::2]
    }


def _distinct(rows: Iterable[Row], tally: _Tally, dialogues: dict[str, _Digests], source: Source) -> Iterator[Row]:
    """Yield one row a dialogue, with its references, unless the dialogue is in a split that came before."""
    references = _references(source.rows(tally.split)) if tally.split == "test" else {}
    others = list(dialogues.items())
    own = dialogues[tally.split] = _Digests()
    ids = _Digests()
    for row in rows:
        tally.add("read")
        digest = _digest(row.dialogue)
        if not row.dialogue:
            tally.add("no dialogue")
            continue
        if not row.summaries:
            tally.add("no summary")
            continue
        if not own.add(digest):
            used = set(row.summaries) <= set(references.get(digest, ()))
            tally.add("duplicate" if not references else "further reference" if used else "beyond 3 references")
            continue
        if not ids.add(hashlib.blake2b(row.id.encode(), digest_size=16).digest()):
            raise UserError(
                f"{row.where}: id {printable(row.id, 80)!r} already names another dialogue; give each its own"
            )
        elsewhere = next((split for split, digests in others if digest in digests), None)
        if elsewhere is not None:
            tally.add(f"also in {elsewhere}")
            continue
        summaries = references.get(digest, row.summaries[:1])
        yield row._replace(id=_common_id(row.id, summaries), summaries=tuple(summaries))


class _Digests:
    """A set of digests of 16 bytes: open addressing in one array, 24 to 48 bytes each, where `set` takes 130."""

    _EMPTY = bytes(16)

    def __init__(self) -> None:
        self._slots, self._count = bytearray(16 * 64), 0

    def __contains__(self, digest: bytes) -> bool:
        return self._slots.startswith(digest, self._place(digest))

    def add(self, digest: bytes) -> bool:
        """Add a digest; return whether it is new."""
        place = self._place(digest)
        if self._slots.startswith(digest, place):
            return False
        self._slots[place : place + 16] = digest
        self._count += 1
        if 24 * self._count > len(self._slots):
            self._grow()
        return True

    def _place(self, digest: bytes) -> int:
        """Return where the digest stands, or the empty slot where it would."""
        slots = self._slots
        # not by the first bytes, which are alike within a split of a single file (_share)
        place = int.from_bytes(digest[8:], "little") * 16 % len(slots)
        while not slots.startswith((digest, self._EMPTY), place):
            place = (place + 16) % len(slots)
        return place

    def _grow(self) -> None:
        old = self._slots
        self._slots = bytearray(2 * len(old))
        for start in range(0, len(old), 16):
            digest = bytes(old[start : start + 16])
            if digest != self._EMPTY:
                place = self._place(digest)
                self._slots[place : place + 16] = digest


def _references(rows: Iterable[Row]) -> dict[bytes, list[str]]:
    """Collect up to three different references a dialogue, in the order of the rows."""
    references: dict[bytes, list[str]] = {}
    for row in rows:
        known = references.setdefault(_digest(row.dialogue), [])
        for summary in row.summaries:
            if summary not in known and len(known) < MAX_REFERENCES:
                known.append(summary)
    return references


def _common_id(identity: str, summaries: Iterable[str]) -> str:
    """Name a dialogue of the hub's rows test_7_1, test_7_2, test_7_3 as the authors do: test_7."""
    numbered = re.fullmatch(r"(.+_\d+)_1", identity)
    return numbered[1] if numbered and len(list(summaries)) > 1 else identity


def _kept(rows: Iterator[Row], fit: _Map, prompter: Prompter, settings: config.Data, tally: _Tally) -> Iterator[Record]:
    """Yield the examples of a split that pass the limits, and count the others."""
    limit_summaries = tally.split != "test"

    def is_full() -> bool:
        return settings.max_examples is not None and tally["kept"] >= settings.max_examples

    def candidates() -> Iterator[Row]:
        for row in rows:
            if is_full():
                tally.add("over max_examples")
            else:
                yield prompter.shorten(row, limit_summaries)

    waiting = candidates()
    chunks = iter(lambda: (list(islice(waiting, CHUNK)), limit_summaries), ([], limit_summaries))
    for outcome, example, lost in chain.from_iterable(fit(chunks)):
        # Rows tokenized ahead count like those that were not: the counts do not depend on the workers.
        if is_full():
            tally.add("over max_examples")
            continue
        tally.add(outcome)
        if example is not None:
            if outcome == "truncated":
                tally.add("kept")
            for what, number in zip(LOST, lost, strict=True):
                tally.add(what, number)
            yield example


class Prompter:
    """Makes examples of rows: the prompt, its tokens, and the limits on their number."""

    def __init__(self, settings: config.Data, tokenizer: PreTrainedTokenizerBase):
        self.settings, self.tokenizer = settings, tokenizer
        self.head, self.tail = settings.prompt.split("{dialogue}")
        # A text of more characters cannot fit, but for runs of white space or of unknown characters.
        longest_token = max(map(len, tokenizer.get_vocab()))
        self.longest_dialogue = longest_token * settings.max_query_tokens
        self.longest_summary = longest_token * settings.max_summary_tokens
        # Where a tokenizer knows every byte, another token may stand in for the unknown one.
        ends = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
        self.unknown_id = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id

    def shorten(self, row: Row, limit_summaries: bool) -> Row:
        """Cut texts far beyond the limits to one character more than could fit, so that they cost no more."""
        row = row._replace(dialogue=row.dialogue[: self.longest_dialogue + 1])
        return row._replace(summaries=(row.summaries[0][: self.longest_summary + 1],)) if limit_summaries else row

    def __call__(self, chunk: tuple[list[Row], bool]) -> list[Outcome]:
        """Tokenize rows.

        Args:
            chunk: rows, and whether the limit on the length of summaries holds for them.

        Returns:
            What becomes of each row.
        """
        rows, limit_summaries = chunk
        queries = self._tokenize([self._query(row.dialogue) for row in rows])
        summaries = self._tokenize([row.summaries[0][: self.longest_summary + 1] for row in rows], target=True)
        outcomes = []
        for row, query_ids, summary_ids in zip(rows, queries, summaries):
            is_long = (
                len(row.summaries[0]) > self.longest_summary or len(summary_ids) > self.settings.max_summary_tokens
            )
            reason, example = self._fit(row, query_ids, is_long and limit_summaries)
            outcomes.append((reason, example, () if example is None else self._lost(example, summary_ids)))
        return outcomes

    def _lost(self, example: Record, summary_ids: list[int]) -> tuple[int, ...]:
        """Return the numbers of `LOST` of an example."""
        ids, dialogue, summary = example["input_ids"], example["dialogue"], example["summaries"][0]
        unknown_tokens = ids.count(self.unknown_id)
        lost = self._lost_characters(dialogue, self.unknown_id in ids)
        return len(ids), unknown_tokens, *lost, *self._lost_characters(summary, self.unknown_id in summary_ids)

    def _lost_characters(self, text: str, any_is: bool) -> tuple[int, int]:
        """Return how long a text is, and how much of it no token stands for; names of speakers do not count."""
        if not any_is:
            return len(text), 0
        text = _SPEAKER.sub("", text)
        if not self.tokenizer.is_fast:  # which does not say where its tokens are
            return len(text), len(text)
        found = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        pairs = zip(found["input_ids"], found["offset_mapping"])
        return len(text), sum(end - start for token, (start, end) in pairs if token == self.unknown_id)

    def _fit(self, row: Row, input_ids: list[int], is_summary_long: bool) -> tuple[str, Record | None]:
        outcome, dialogue = "kept", row.dialogue
        if len(input_ids) < self.settings.min_query_tokens:
            return "too short", None
        if len(dialogue) > self.longest_dialogue or len(input_ids) > self.settings.max_query_tokens:
            outcome, dialogue = "truncated", self._truncate(dialogue) if self.settings.truncate else ""
            if not dialogue:
                return "too long", None
            input_ids = self._tokenize([self._query(dialogue)])[0]
        if is_summary_long:
            return "long summary", None
        query = self._query(dialogue)
        example = {"id": row.id, "dialogue": dialogue, "query": query, "input_ids": input_ids}
        return outcome, {**example, "summaries": list(row.summaries), "topic": row.topic}

    def _truncate(self, dialogue: str) -> str:
        """Return as many whole words of the dialogue as fit into the prompt; its instruction stays whole."""
        ends = [word.end() for word in re.finditer(r"\S+", dialogue)]
        if len(dialogue) > self.longest_dialogue:
            ends.pop()

        def tokens(words: int) -> int:
            return len(self._tokenize([self._query(dialogue[: ends[words - 1]])])[0])

        words = bisect_right(range(1, len(ends) + 1), self.settings.max_query_tokens, key=tokens)
        return dialogue[: ends[words - 1]] if words else ""

    def _query(self, dialogue: str) -> str:
        return f"{self.head}{dialogue}{self.tail}"

    def _tokenize(self, texts: list[str], target: bool = False) -> list[list[int]]:
        if not texts:
            return []
        inputs = {"text_target" if target else "text": texts}
        options = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(**inputs, **options)["input_ids"]


# -------------------------------------------------------------------------------------------- many processes


@contextmanager
def _ordered_map(function: Callable[[Any], Any], workers: int, processes: Processes) -> Iterator[_Map]:
    """Give a `map` over workers or the processes of the run: results in order, arguments read only a little ahead."""
    if processes.count > 1:
        yield partial(_shared_map, function, processes)
        return
    if workers == 1:
        yield partial(map, function)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (function,)) as executor:

        def ordered(arguments: Iterable[Any]) -> Iterator[Any]:
            running: deque[Future] = deque()
            for argument in arguments:
                running.append(executor.submit(_work, argument))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

        try:
            yield ordered
        except BrokenProcessPool:
            raise UserError(f"--data.workers={workers}: a worker process died; try fewer") from None
        finally:
            executor.shutdown(cancel_futures=True)


def _shared_map(function: Callable[[Any], Any], processes: Processes, arguments: Iterable[Any]) -> Iterator[Any]:
    """Map over the processes of a run: the main one reads the arguments, and all are given all results, in order."""
    arguments = iter(arguments)
    while block := processes.on_main(lambda: list(islice(arguments, processes.count))):
        yield from processes.map(function, block)


_function: Callable[[Any], Any]


def _start_worker(function: Callable[[Any], Any]) -> None:
    """Keep the function in the worker, leave Ctrl-C to the parent, and end with it, however it ends."""
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _work(argument: Any) -> Any:
    return _function(argument)


# --------------------------------------------------------------------------------------------------- on disk


def _write(examples: Iterable[Record], path: Path, split: str) -> Dataset:
    """Write examples as they come to an Arrow file and map it; equal examples give an equal fingerprint."""
    written = hashlib.sha256()
    with ArrowWriter(features=FEATURES, path=str(path)) as writer:
        for example in examples:
            writer.write(example)
            written.update(repr(example).encode())
        writer.finalize()
    dataset = Dataset.from_file(str(path), split=datasets.NamedSplit(split))
    dataset._fingerprint = written.hexdigest()[:16]
    return dataset


def save_prepared(
    dataset: DatasetDict,
    folder: Path,
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_name: str,
) -> None:
    """Write what `load_prepared` reads: the splits, `tokenizer.json`, and `source.json` (the files read).

    Args:
        dataset: what `prepare` returned.
        folder: an existing folder, the draft of an artefact.
        source: where the dialogues came from.
        tokenizer: that made the prompts.
        tokenizer_name: the name under which it was loaded.
    """
    from detox.model import loading

    datasets.disable_progress_bars()
    dataset.save_to_disk(str(folder))
    identity = {
        "name": tokenizer_name,
        "revision": loading.resolved_revision(tokenizer),
        "fingerprint": tokenizer_fingerprint(tokenizer),
    }
    files = [{"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)} for path in source.files]
    origin = {"dataset": source.name, "revision": source.revision, "files": files}
    for name, content in (("tokenizer.json", identity), ("source.json", origin)):
        Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_prepared(folder: Path, fingerprint: str | None = None) -> DatasetDict:
    """Map a prepared dataset into memory, once it has proved whole.

    Args:
        folder: what `data_preparation.py` wrote.
        fingerprint: `tokenizer_fingerprint` of the tokenizer in use; None leaves the tokenizer unchecked.

    Raises:
        UserError: the folder is missing, changed, of another schema, or made with another tokenizer.
    """
    folder = Path(folder)
    artifacts.read_manifest(folder, "data_preparation")
    again = "run data_preparation.py again with --overwrite"
    try:
        made_with = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        dataset = DatasetDict.load_from_disk(str(folder))
        is_same = fingerprint is None or _same_tokenizer(made_with["fingerprint"], fingerprint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a prepared dataset ({printable(error, 120)}); {again}") from None
    if not is_same:
        raise UserError(
            f"{folder}: prepared with the tokenizer of {made_with.get('name')}, which is not this model's; "
            f"{again} and the same --model.base"
        )
    if set(dataset) != set(SPLITS) or any(split.features != FEATURES for split in dataset.values()):
        raise UserError(f"{folder}: its columns are not those of a prepared dataset; {again}")
    return dataset


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a sha256 that two tokenizers share only when vocabulary, special tokens and their use agree.

    Behind a colon stands that of all else that decides how text becomes tokens: normalizer, pre-tokenizer, merges.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    sample = tokenizer("Summarize: #Person1# paid $12.50, didn't she?\n  Yes! Ça va.", verbose=False)["input_ids"]
    content = json.dumps([vocabulary, special, sample], sort_keys=True)
    pipeline: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    for setting in ("truncation", "padding"):  # which every call sets anew
        pipeline.pop(setting, None)
    parts = (content, json.dumps(pipeline, sort_keys=True))
    return ":".join(hashlib.sha256(part.encode()).hexdigest() for part in parts)


def _same_tokenizer(recorded: str, now: str) -> bool:
    """Return whether two fingerprints are of one tokenizer; what was prepared earlier has the first part alone."""
    return recorded in (now, now.partition(":")[0])


def check_vocabulary(counts: Mapping[str, int | float], name: str, tokenizer_name: str) -> str | None:
    """Return what to say of a tokenizer to which more than 1% of a split is unknown, if it is.

    Args:
        counts: as `prepare` returned them.
        name: of the dataset.
        tokenizer_name: of the model that it is from.

    Raises:
        UserError: more than half of the text is unknown to it.
    """
    shares = [unknown(counts, split) for split in SPLITS]
    worst = {what: max(share[what] for share in shares) for what in shares[0]}
    figures = ", ".join(f"{share:.1%} of the {what}" for what, share in worst.items())
    if max(worst.values()) > MOST_UNKNOWN:
        raise UserError(
            f"--data.dataset={name}: the tokenizer of {tokenizer_name} does not know {figures}, so hardly anything is "
            "left of the text; take a --model.base that knows its language"
        )
    if max(worst.values()) <= WARN_UNKNOWN:
        return None
    return f"unknown to the tokenizer: {figures}; the model will not see them, and can not write them"


def counts_table(counts: Counter) -> str:
    """Lay out the counts of `prepare`: a line a reason, a column a split; and the share of unknown tokens."""
    lines: list[tuple[str, ...]] = [("dialogues", *SPLITS)]
    for reason in ("read", *DROPPED, "kept", "truncated"):
        numbers = [counts[f"{split}/{reason}"] for split in SPLITS]
        if any(numbers) or reason in ("read", "kept"):
            name = {"kept": "kept", "read": "rows read", "truncated": "  of them truncated"}.get(reason, f"- {reason}")
            lines.append((name, *(f"{number:,}" for number in numbers)))
    lines.append(("unknown tokens", *(f"{unknown(counts, split)['tokens']:.2%}" for split in SPLITS)))
    return "\n".join(f"{name:<22}{train:>12}{validation:>12}{test:>12}" for name, train, validation, test in lines)
