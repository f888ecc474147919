"""Files of data as records, each with its place (file and line): CSV, JSON, JSON lines, Parquet.

The readers of the datasets library do not know the line of a malformed row, and take rows that lack fields.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from detox.stage.errors import UserError, printable

MAX_RECORD = 2**28
_BATCH = 256
_DELIMITERS = (",", ";", "\t", "|")
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")

Record = dict[str, Any]
Placed = tuple[str, Record]
"""A record behind its place, such as `train.csv:2`."""


def read(path: Path) -> Iterator[Placed]:
    """Return the records of a file by its suffix, which must be one of `READERS`.

    Raises:
        UserError: while it is read: the file cannot be, or is malformed; named by file and line.
    """
    return READERS[path.suffix.lower()](path)


def check_format(path: Path) -> None:
    """Raise a UserError unless there is a reader for the file's suffix."""
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: format {path.suffix or 'unknown'}; it must be {', '.join(READERS)}")


def numbered(name: str, records: Iterable[Record]) -> Iterator[Placed]:
    """Give records without lines their number for a place, from 1."""
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


def _read_csv(path: Path) -> Iterator[Placed]:
    """Read a file of rows with a header; what parts the columns is seen in the header, or said by Excel's `sep=;`.

    In a `.tsv` it is the tab, if there is one, whatever else the header holds.
    """
    csv.field_size_limit(MAX_RECORD)
    lines = (text for _, text in _lines(path))
    first = next(lines, "")
    said = re.fullmatch(r"\s*sep=(.)\s*", first)
    is_tabbed = path.suffix.lower() == ".tsv" and _columns_by(first, "\t") > 1
    seen = "\t" if is_tabbed else max(_DELIMITERS, key=lambda mark: _columns_by(first, mark))
    delimiter = said[1] if said else seen
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


def _read_json_lines(path: Path) -> Iterator[Placed]:
    for number, text in _lines(path):
        if text.strip():
            yield f"{path}:{number}", _json_record(f"{path}:{number}", text)


def _read_json(path: Path) -> Iterator[Placed]:
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


def _read_parquet(path: Path) -> Iterator[Placed]:
    """Read a Parquet file; its rows, counted from 1, stand for lines."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            # Times that Python can't hold are no texts.
            columns = [field.name for field in file.schema_arrow if not pyarrow.types.is_temporal(field.type)]
            batches = file.iter_batches(batch_size=_BATCH, columns=columns)
            yield from numbered(str(path), (record for batch in batches for record in batch.to_pylist()))
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # such as text that is not UTF-8
        raise UserError(f"{path}: not a readable Parquet file ({printable(error, 120)}); make it anew") from None


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
