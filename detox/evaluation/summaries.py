"""The summaries of a model under given seeds, and how likely they are to the reference.

Several processes share the batches, which are the same whatever their number, and so is every record, to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from detox.evaluation.examples import Record, Records
from detox.model.engine import Encoded, Engine, by_length
from detox.model.sampling import Sampling, uniforms
from detox.stage.parallel import ALONE, Processes
from detox.stage.progress import Progress

if TYPE_CHECKING:
    import config


EVALUATION_STREAM = 10
_KEYS_A_DIALOGUE = 1 << 16


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
    jobs: list[tuple[int, Any]]
    """The place of a dialogue among `rows`, and what is wanted of it."""


def _batches(rows: list[int], jobs: list[tuple[int, Any]], size: int) -> list[_Batch]:
    return [_Batch(rows, jobs[start : start + size]) for start in range(0, len(jobs), size)]


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
    """Let a model summarize every dialogue; each is encoded once for all draws, and those of one kind run together.

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
    kinds: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for name, draw in draws.items():
        kinds.setdefault((draw.greedy, draw.banned), []).extend((name, n) for n in range(draw.start, draw.stop))
    batches = [
        batch
        for rows in by_length([len(query) for query in queries], settings.batch_size)
        for wanted in kinds.values()
        for batch in _batches(rows, [(i, one) for i in range(len(rows)) for one in wanted], settings.batch_size)
    ]

    def generate(encoded: Encoded, batch: _Batch) -> list[Record]:
        owners, names, numbers = zip(*((batch.rows[i], name, number) for i, (name, number) in batch.jobs))
        draw = draws[names[0]]
        uniform = draw.uniforms(owners, numbers, settings.max_new_tokens, seed)
        return _generate(engine, tokenizer, encoded, uniform, draw, settings)

    each = sum(draw.stop - draw.start for draw in draws.values())
    made = _work_through(batches, generate, engine, queries, f"{title}, {each} each", processes)
    records: dict[str, Records] = {
        name: [[{} for _ in range(draw.start, draw.stop)] for _ in queries] for name, draw in draws.items()
    }
    for batch, found in zip(batches, made, strict=True):
        for (i, (name, number)), record in zip(batch.jobs, found, strict=True):
            records[name][batch.rows[i]][number - draws[name].start] = record
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
    with torch.no_grad(), Progress(total=total, desc=title, unit="summary", shown=processes.is_main) as bar:
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
        batches += _batches(rows, jobs, settings.batch_size)

    def logprobs(encoded: Encoded, batch: _Batch) -> list[float]:
        ids = [torch.tensor(record["ids"]) for _, record in batch.jobs]
        return engine.logprobs(encoded, ids).logprobs.cpu().double().sum(1).tolist()

    made = _work_through(batches, logprobs, engine, queries, title, processes)
    for batch, found in zip(batches, made, strict=True):
        for (_, record), logprob in zip(batch.jobs, found, strict=True):
            record["reference_logprob"] = logprob
