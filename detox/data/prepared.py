"""The prepared dataset on disk: its columns, written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from datasets import Dataset, DatasetDict, Features, Value
from datasets.arrow_writer import ArrowWriter
from pyarrow import compute
from transformers import PreTrainedTokenizerBase

from detox.data.fingerprint import is_same_tokenizer, tokenizer_fingerprint
from detox.data.readers import Record
from detox.data.splits import SPLITS
from detox.stage import artifacts, commands
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

if TYPE_CHECKING:
    import config
    from detox.data.sources import Source

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


def write(examples: Iterable[Record], path: Path, split: str) -> Dataset:
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


def load_prepared(folder: Path, fingerprint: str | None = None, reader: config.Stage | None = None) -> DatasetDict:
    """Map a prepared dataset into memory, once it has proved whole.

    Args:
        folder: what `data_preparation.py` wrote.
        fingerprint: `tokenizer_fingerprint` of the tokenizer in use; None leaves the tokenizer unchecked.
        reader: settings of the stage that reads it, whose run it is of; with them the user is told a whole command.

    Raises:
        UserError: the folder is missing, changed, of another schema, or made with another tokenizer.
    """
    folder = Path(folder)
    artifacts.read_manifest(folder, "data_preparation", reader=reader)
    again = f"run {commands.remake('data_preparation', reader, folder)}"
    try:
        made_with = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        dataset = DatasetDict.load_from_disk(str(folder))
        is_same = fingerprint is None or is_same_tokenizer(made_with["fingerprint"], fingerprint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not a prepared dataset ({printable(error, 120)}); {again}") from None
    if not is_same:
        raise UserError(
            f"{folder}: prepared with the tokenizer of {made_with.get('name')}, which is not this model's; "
            f"{again}{' and the same --model.base' if reader is None else ''}"
        )
    if set(dataset) != set(SPLITS) or any(split.features != FEATURES for split in dataset.values()):
        raise UserError(f"{folder}: its columns are not those of a prepared dataset; {again}")
    return dataset


def check_positions(
    dataset: DatasetDict,
    folder: Path,
    reader: config.PPOTraining | config.LoraTraining,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Demand that the base has positions for every prompt: the data may have been prepared with another one.

    Args:
        dataset: what `load_prepared` returned.
        folder: it was read from.
        reader: settings of the stage, which name the base.
        tokenizer: with it, the target summaries of the splits that are trained on are looked at too.

    Raises:
        UserError: a prompt, or a summary, is too long.
    """
    from detox.model import loading

    for part, what, flag in (
        ("encoder", "prompt", "--data.max-query-tokens"),
        ("decoder", "summary", "--data.max-summary-tokens"),
    )[: 1 if tokenizer is None else 2]:
        limit = loading.positions(reader.model.base, reader.model.revision, part)
        if limit is None:
            continue
        if tokenizer is None or part == "encoder":
            longest = _longest_prompt(dataset)
        else:
            longest = _longest_summary(dataset, tokenizer)
        if longest > limit:
            again = commands.remake("data_preparation", reader, folder, flag, str(limit))
            raise UserError(
                f"{folder}: its longest {what} has {longest} tokens, and {reader.model.base} takes {limit}; "
                f"run {again}, or choose another --model.base"
            )


def _longest_prompt(dataset: DatasetDict) -> int:
    lengths = (compute.list_value_length(split.data.column("input_ids")) for split in dataset.values())
    return max(compute.max(each).as_py() or 0 for each in lengths)


def _longest_summary(dataset: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens of the longest target summary that is trained on or validated with."""
    batches = (batch["summaries"] for name in ("train", "validation") for batch in dataset[name].iter(1000))
    tokens = (tokenizer(text_target=[texts[0] for texts in each], verbose=False)["input_ids"] for each in batches)
    return max((len(ids) for each in tokens for ids in each), default=0)
