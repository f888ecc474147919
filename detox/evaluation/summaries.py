"""Evaluating a checkpoint against its reference: summaries of both under the same seeds, and what is said of them.

A summary is a record (a dict) that carries every number that was measured on it. Figures are computed from
the lines of examples.jsonl, which hold these records, and from nothing else (results.py): whoever has that file can
compute them again. Several processes share the batches, which are the same whatever their number, and so is
every record, to the last bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from detox.evaluation.slices import slices
from detox.model.engine import Encoded, Engine, by_length
from detox.model.sampling import Sampling, uniforms
from detox.scoring import rouge
from detox.stage.errors import UserError
from detox.stage.parallel import ALONE, Processes

if TYPE_CHECKING:
    import config


Record = dict[str, Any]
Records = list[list[Record]]
"""[dialogues][samples]."""
Line = dict[str, Any]
"""Of examples.jsonl: a dialogue with its references and the records of both models."""
Results = dict[str, Any]

EVALUATION_STREAM = 10
_KEYS_A_DIALOGUE = 1 << 16
_CHUNK = 64
"""Texts that a scorer is given at once."""
SIDES = ("before", "after")


# -------------------------------------------------------------------------------------------------- summaries


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which summaries of each dialogue are wanted: sampled ones number `start` to `stop`, or one greedy.

    Number and row of the dialogue decide the random numbers, whatever the model: that pairs two models.
    """

    start: int = 0
    stop: int = 1
    greedy: bool = False
    banned: tuple[tuple[int, ...], ...] = ()

    def uniforms(self, rows: Sequence[int], numbers: Sequence[int], count: int, seed: int) -> Tensor | None:
        keys = [row * _KEYS_A_DIALOGUE + number for row, number in zip(rows, numbers, strict=True)]
        return None if self.greedy else uniforms(seed, EVALUATION_STREAM, keys, count)


class _Batch(NamedTuple):
    """What is computed at once."""

    rows: list[int]
    """Dialogues that are encoded together."""
    draw: str
    jobs: list[tuple[int, Any]]
    """The place of a dialogue among `rows`, and what is wanted of it."""


def _batches(rows: list[int], draw: str, jobs: list[tuple[int, Any]], size: int) -> list[_Batch]:
    return [_Batch(rows, draw, jobs[start : start + size]) for start in range(0, len(jobs), size)]


def summarize(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Tensor],
    draws: Mapping[str, Draw],
    settings: config.Evaluation,
    *,
    seed: int,
    title: str,
    processes: Processes = ALONE,
) -> dict[str, Records]:
    """Let a model summarize every dialogue; each is encoded once for all draws.

    Args:
        engine: the model.
        tokenizer: decodes.
        queries: n prompts, [length] of ids each.
        draws: name to what is wanted.
        settings: longest summary and batch size.
        seed: of the sampling.
        title: for the progress bar.
        processes: share the work; all of them return all records.

    Returns:
        For each name records with `summary`, `ids`, `tokens` (how many), `finished`, `logprob` (nats, of the
        whole summary under this model).
    """
    wanted = {name: range(draw.start, draw.stop) for name, draw in draws.items()}
    batches = [
        batch
        for rows in by_length([len(query) for query in queries], settings.batch_size)
        for name, numbers in wanted.items()
        for batch in _batches(rows, name, [(i, n) for i in range(len(rows)) for n in numbers], settings.batch_size)
    ]

    def generate(encoded: Encoded, batch: _Batch) -> list[Record]:
        draw = draws[batch.draw]
        owners, numbers = [batch.rows[i] for i, _ in batch.jobs], [number for _, number in batch.jobs]
        uniform = draw.uniforms(owners, numbers, settings.max_new_tokens, seed)
        return _generate(engine, tokenizer, encoded, uniform, draw, settings)

    made = _work_through(batches, generate, engine, queries, title, processes)
    records: dict[str, Records] = {name: [[{} for _ in numbers] for _ in queries] for name, numbers in wanted.items()}
    for batch, found in zip(batches, made, strict=True):
        for (i, number), record in zip(batch.jobs, found, strict=True):
            records[batch.draw][batch.rows[i]][number - wanted[batch.draw].start] = record
    return records


def _work_through(
    batches: Sequence[_Batch],
    work: Callable[[Encoded, _Batch], list[Any]],
    engine: Engine,
    queries: Sequence[Tensor],
    title: str,
    processes: Processes,
) -> list[list[Any]]:
    """Return what `work` gives of every batch, in order; a process takes neighbours, and encodes what they need."""
    mine, made = batches[processes.share(len(batches))], []
    total = sum(len(batch.jobs) for batch in mine)
    hidden = None if processes.is_main else True
    with torch.no_grad(), tqdm(total=total, desc=title, unit="summary", disable=hidden) as bar:
        for rows, together in groupby(mine, key=attrgetter("rows")):
            encoded = engine.encode([queries[row] for row in rows])
            for batch in together:
                made.append(work(encoded.select([i for i, _ in batch.jobs]), batch))
                bar.update(len(batch.jobs))
    return list(chain.from_iterable(processes.gather_objects(made)))


def _generate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
    uniform: Tensor | None,
    draw: Draw,
    settings: config.Evaluation,
) -> list[Record]:
    made = engine.generate(encoded, settings.max_new_tokens, Sampling(uniform, banned=draw.banned))
    texts = tokenizer.batch_decode([ids.tolist() for ids in made.responses], skip_special_tokens=True)
    logprobs = made.logprobs.cpu().double().sum(1).tolist()
    return [
        {
            "summary": text.strip(),
            "ids": ids.tolist(),
            "tokens": len(ids),
            "finished": finished,
            "logprob": logprob,
        }
        for text, ids, finished, logprob in zip(texts, made.responses, made.finished.tolist(), logprobs, strict=True)
    ]


def teacher_force(
    engine: Engine,
    queries: Sequence[Tensor],
    groups: Sequence[Records],
    settings: config.Evaluation,
    *,
    title: str,
    processes: Processes = ALONE,
) -> None:
    """Add `reference_logprob`, the log-probability (nats) of each summary under the model of `engine`.

    Args:
        engine: the reference.
        queries: n prompts, [length] of ids each.
        groups: records with `ids`, each group of the same n dialogues.
        settings: batch size.
        title: for the progress bar.
        processes: share the work; all of them have the same records, before and after.
    """
    batches = []
    for rows in by_length([len(query) for query in queries], settings.batch_size):
        jobs = [(i, record) for i, row in enumerate(rows) for group in groups for record in group[row]]
        batches += _batches(rows, "", jobs, settings.batch_size)

    def logprobs(encoded: Encoded, batch: _Batch) -> list[float]:
        ids = [torch.tensor(record["ids"]) for _, record in batch.jobs]
        return engine.logprobs(encoded, ids).logprobs.cpu().double().sum(1).tolist()

    made = _work_through(batches, logprobs, engine, queries, title, processes)
    for batch, found in zip(batches, made, strict=True):
        for (_, record), logprob in zip(batch.jobs, found, strict=True):
            record["reference_logprob"] = logprob


def score(
    groups: Sequence[Records],
    scorers: Mapping[str, Callable[[list[str]], Sequence[float]]],
    references: Sequence[Sequence[str]],
    bert_score: str | None = None,
    processes: Processes = ALONE,
) -> None:
    """Add what the scorers say, the ROUGE F1 and BERTScore to every record; equal texts are scored once.

    Args:
        groups: records of the same n dialogues.
        scorers: name of the number to the function that gives it, from texts.
        references: reference summaries of the n dialogues.
        bert_score: encoder for BERTScore; None leaves it out.
        processes: share the work but for BERTScore, which is the main one's; all have the same records.

    Raises:
        UserError: a scorer gives what is no number, or `bert-score` is not installed.
    """
    records = [record for group in groups for row in group for record in row]
    texts = list(dict.fromkeys(record["summary"] for record in records))
    for name, scorer in scorers.items():
        values = dict(zip(texts, rate(texts, scorer, processes), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise UserError(f"{name}: its classifier gives NaN or infinity; check the model, or name another")
        for record in records:
            record[name] = values[record["summary"]]
    owned = [(i, record) for group in groups for i, row in enumerate(group) for record in row]
    pairs = list(dict.fromkeys((i, record["summary"]) for i, record in owned))
    written, wanted = [text for _, text in pairs], [references[i] for i, _ in pairs]
    part = processes.share(len(pairs))
    parts = processes.gather_objects(rouge.rouge(written[part], wanted[part]))
    overlaps = {name: np.concatenate([part[name] for part in parts]) for name in rouge.OVERLAPS}
    if bert_score is not None:
        overlaps["bert_score"] = processes.on_main(lambda: rouge.bert_score(written, wanted, bert_score))
        if overlaps["bert_score"] is None:
            raise UserError("--evaluation.bert-score: bert-score needs `pip install bert-score`; or leave it out")
    place = {pair: at for at, pair in enumerate(pairs)}
    for i, record in owned:
        at = place[i, record["summary"]]
        record |= {name: float(values[at]) for name, values in overlaps.items()}


def rate(
    texts: Sequence[str], scorer: Callable[[list[str]], Sequence[float]], processes: Processes = ALONE
) -> list[float]:
    """Return what a scorer says of each text; texts of like length go to it together, and processes take turns."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    found = processes.map(lambda rows: list(map(float, scorer([texts[i] for i in rows]))), chunks)
    values = dict(zip(chain.from_iterable(chunks), chain.from_iterable(found), strict=True))
    return [values[i] for i in range(len(texts))]


def examples(
    split: Mapping[str, Sequence[Any]],
    before: Mapping[str, Records],
    after: Mapping[str, Records],
    dialogue_toxicity: Sequence[float],
) -> list[Line]:
    """Return the lines of examples.jsonl.

    Args:
        split: columns of the prepared dataset, n dialogues.
        before: of the reference: `samples` and `noise` (other seeds) [n][k], `greedy` [n][1]; with baselines
            `filtered` [n][k] too.
        after: of the policy: `samples`, paired with the reference's, and `greedy`.
        dialogue_toxicity: [n], by the classifier of the toxicity measurement; chooses the most toxic tenth.
    """
    lines = [
        {
            "id": identity,
            "topic": split["topic"][i],
            "dialogue": split["dialogue"][i],
            "dialogue_toxicity": dialogue_toxicity[i],
            "query_tokens": len(split["input_ids"][i]),
            "references": list(split["summaries"][i]),
            "before": {name: _without_ids(records[i], name) for name, records in before.items()},
            "after": {name: _without_ids(records[i], name) for name, records in after.items()},
        }
        for i, identity in enumerate(split["id"])
    ]
    masks = slice_masks(lines)
    for i, line in enumerate(lines):
        line["slices"] = [name for name, mask in masks.items() if mask[i]]
    return lines


def _without_ids(row: Sequence[Record], name: str) -> Any:
    clean = [{key: value for key, value in record.items() if key != "ids"} for record in row]
    return clean[0] if name == "greedy" else clean


def read_examples(folder: Path) -> list[Line]:
    """Return the lines of examples.jsonl of a finished evaluation."""
    with open(folder / "examples.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_results(folder: Path) -> Results:
    """Return results.json of a finished evaluation."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def samples(lines: Sequence[Line], side: str, name: str = "samples") -> Records:
    """Return the records [dialogues][samples] of one side, `greedy` as one sample."""
    found = [line[side][name] for line in lines]
    return [[record] for record in found] if name == "greedy" else found


def column(records: Records, name: str) -> np.ndarray:
    """Return [dialogues, samples] of one number of each record."""
    return np.array([[record[name] for record in row] for row in records], dtype=np.float64)


def slice_masks(lines: Sequence[Line]) -> dict[str, np.ndarray]:
    """Return which dialogues belong to each slice, [n] bool."""
    heat, lengths = (np.array([line[key] for line in lines]) for key in ("dialogue_toxicity", "query_tokens"))
    return slices([line["dialogue"] for line in lines], heat, lengths)
