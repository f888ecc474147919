"""Records as rows: which columns hold what, and text that is text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from detox.data.readers import Placed, Record
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config

MAX_REFERENCES = 3


class Row(NamedTuple):
    """One row of a source, checked: texts are Unicode without NUL, ends stripped, line breaks `\\n`."""

    where: str
    id: str
    dialogue: str
    summaries: tuple[str, ...]
    topic: str


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


def checked(records: Iterable[Placed], settings: config.Data, name: str) -> Iterator[Row]:
    """Check the records of a file called `name`, for which rows without ids are named: train_1, train_2."""
    columns = None
    for number, (where, record) in enumerate(records, 1):
        columns = columns or _columns(record, where, settings)
        for field in (columns.id, columns.dialogue):
            if field is not None and field not in record:
                raise UserError(f"{where}: no field {field!r}; correct or remove the row")
        identity = f"{name}_{number}" if columns.id is None else record[columns.id]
        if isinstance(identity, (int, float)) and not isinstance(identity, bool):
            identity = str(identity) if isinstance(identity, int) else f"{identity:.17g}"
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
        raise UserError(f"{where}: {column} is of type {type(value).__name__}, not text; correct or remove the row")
    if "\0" in value:
        raise UserError(f"{where}: {column} holds a NUL character; correct or remove the row")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {column} holds half a surrogate pair; correct or remove the row")
    return value.replace("\r\n", "\n").replace("\r", "\n").strip()
