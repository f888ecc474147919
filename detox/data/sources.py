"""Where dialogues come from: the hub, a folder, a file or the embedded corpus."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detox.data import readers, rows, splits
from detox.data.rows import Row
from detox.data.splits import SPLITS
from detox.demo import corpus
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config

DEMO_DIALOGUES = {"train": 4000, "validation": 200, "test": 400}
# As the datasets library knows them.
_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Where the dialogues come from.

    Attributes:
        name: the dataset's name as the user wrote it.
        revision: the commit of a hub dataset, else None.
        files: the files that are read.
        rows: gives the rows of a split, from the beginning each time it is called.
        cut: splits that have no file of their own, but are a share of the train split.
    """

    name: str
    revision: str | None
    files: tuple[Path, ...]
    rows: Callable[[str], Iterator[Row]]
    cut: tuple[str, ...] = ()

    def state(self) -> list[tuple[int, int, int]]:
        """Return what changes where a file does."""
        found = [path.stat() for path in self.files]
        return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


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
            name,
            None,
            (),
            lambda split: rows.checked(readers.numbered(f"{name}/{split}", records[split]), settings, split),
        )
    if path.is_file():
        readers.check_format(path)
        return _source(name, None, {"train": [path]}, settings)
    if path.is_dir():
        return _folder_source(name, None, path, settings)
    looks_local = name.startswith((".", "/", "~")) or path.suffix.lower() in readers.READERS
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
    if not files and (folder / "dataset_dict.json").is_file():
        raise UserError(
            f"--data.dataset={name}: written by `save_to_disk`, in a format of its own; write each split with "
            "`to_parquet` or `to_json`"
        )
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

    def read(split: str) -> Iterator[Row]:
        for path in files.get(split, files["train"]):
            found = rows.checked(readers.read(path), settings, path.stem)
            is_cut = any(fractions) and (split == "train" or split not in files)
            yield from (row for row in found if splits.by_hash(row.dialogue, *fractions) == split) if is_cut else found

    found = tuple(path for split in SPLITS for path in files.get(split, ()))
    return Source(name, revision, found, read, cut=tuple(split for split in SPLITS if split not in files))


def _split_files(name: str, folder: Path, split: str) -> list[Path]:
    """Return the one file of a split, or all its shards (`train-00000-of-00003.parquet`), if there are any.

    `Train.CSV` is the train split's too.
    """
    names = "|".join(_ALIASES[split])
    suffixes = "|".join(map(re.escape, readers.READERS))
    pattern = re.compile(rf"((?:[^.].*\.)?(?:{names}))(?:-\d+-of-\d+)?({suffixes})", re.IGNORECASE)
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
    if folder.is_dir():
        os.scandir(folder).close()  # says so where it can't be read
    found = sorted([*folder.glob("*"), *folder.glob("data/*")])
    return [path for path in found if path.suffix.lower() in readers.READERS and path.is_file()]


def _fetch(name: str, revision: str | None) -> Path:
    """Download the data files of a hub dataset, never a script; the folder is named for the commit.

    Files named for a split are asked for first; where there are none, whatever has a suffix of data.
    """
    from detox.model import hub

    stems = [alias for aliases in _ALIASES.values() for alias in aliases]
    stems = [*stems, *(f"*.{stem}" for stem in stems), *(f"{stem}-*-of-*" for stem in stems)]
    for names in (stems, ["[!/]*"]):
        patterns = [
            f"{folder}{stem}{suffix}" for folder in ("", "data/") for stem in names for suffix in readers.READERS
        ]
        folder = hub.fetch(name, revision, patterns, "dataset")
        if _data_files(folder):
            break
    return folder
