"""Evaluating checkpoints against the reference: summaries of both under the same seeds, and results.json from them.

A summary is a record (a dict) that carries every number that was measured on it, so that each figure of the report
can be computed again from examples.jsonl.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

import config
from detox import quality, statistics
from detox.engine import Engine, Sampling, uniforms

Record = dict[str, Any]
Records = list[list[Record]]
"""[dialogues][samples]."""

EVALUATION_STREAM = 10
_KEYS_A_DIALOGUE = 1 << 16
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which summaries of each dialogue are wanted: sampled ones number `start` to `stop`, or one greedy.

    The number and the dialogue's row decide the random numbers, whatever the model.
    """

    start: int = 0
    stop: int = 1
    greedy: bool = False
    banned: tuple[tuple[int, ...], ...] = ()


def summarize(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Tensor],
    draw: Draw,
    settings: config.Evaluation,
    *,
    seed: int,
    title: str,
) -> Records:
    """Return summaries of each prompt with their ids and log-probabilities.

    Args:
        engine: the model.
        tokenizer: decodes.
        queries: n prompts, [length] of ids each.
        draw: which summaries.
        settings: longest summary and batch size.
        seed: of the sampling.
        title: for the progress bar.

    Returns:
        Records with `summary`, `ids`, `finished`, `logprob` (nats, of the whole summary under this model).
    """
    numbers = [0] if draw.greedy else list(range(draw.start, draw.stop))
    order = sorted(range(len(queries)), key=lambda i: (-len(queries[i]), i))
    jobs = [(row, number) for row in order for number in numbers]
    found: dict[tuple[int, int], Record] = {}
    with torch.no_grad(), tqdm(total=len(jobs), desc=title, unit="summary", disable=None) as bar:
        for start in range(0, len(jobs), settings.batch_size):
            batch = jobs[start : start + settings.batch_size]
            rows = list(dict.fromkeys(row for row, _ in batch))
            encoded = engine.encode([queries[row] for row in rows])
            encoded = encoded.select([rows.index(row) for row, _ in batch])
            draws = None
            if not draw.greedy:
                keys = [row * _KEYS_A_DIALOGUE + number for row, number in batch]
                draws = uniforms(seed, EVALUATION_STREAM, keys, settings.max_new_tokens)
            generated = engine.generate(encoded, settings.max_new_tokens, Sampling(draws, banned=draw.banned))
            texts = tokenizer.batch_decode(generated.responses, skip_special_tokens=True)
            totals = generated.logprobs.double().sum(1).tolist()
            for job, text, ids, finished, total in zip(
                batch, texts, generated.responses, generated.finished.tolist(), totals
            ):
                found[job] = {"summary": text.strip(), "ids": ids.tolist(), "finished": finished, "logprob": total}
            bar.update(len(batch))
    return [[found[row, number] for number in numbers] for row in range(len(queries))]


def teacher_force(
    engine: Engine, queries: Sequence[Tensor], records: Records, settings: config.Evaluation, *, title: str
) -> None:
    """Add `reference_logprob`, the log-probability (nats) of each summary under the model of `engine`."""
    jobs = [(row, record) for row, group in enumerate(records) for record in group]
    jobs.sort(key=lambda job: (-len(queries[job[0]]), job[0], -len(job[1]["ids"])))
    with torch.no_grad(), tqdm(total=len(jobs), desc=title, unit="summary", disable=None) as bar:
        for start in range(0, len(jobs), settings.batch_size):
            batch = jobs[start : start + settings.batch_size]
            rows = list(dict.fromkeys(row for row, _ in batch))
            encoded = engine.encode([queries[row] for row in rows])
            encoded = encoded.select([rows.index(row) for row, _ in batch])
            outputs = engine.logprobs(encoded, [torch.tensor(record["ids"]) for _, record in batch])
            for (_, record), total in zip(batch, outputs.logprobs.double().sum(1).tolist()):
                record["reference_logprob"] = total
            bar.update(len(batch))


def score(
    groups: Sequence[Records],
    toxicity: Callable[[list[str]], Sequence[float]],
    judge: Callable[[list[str]], Sequence[float]],
    reward: Callable[[list[str]], Sequence[float]],
    references: Sequence[Sequence[str]],
) -> None:
    """Add `toxicity`, `judge`, `reward` and the four ROUGE F1 to every record; equal texts are scored once.

    Args:
        groups: records of the same n dialogues.
        toxicity: from texts to the toxicity measurement.
        judge: from texts to the independent judge's toxicity.
        reward: from texts to the raw logit that PPO maximised.
        references: reference summaries of the n dialogues.
    """
    records = [record for group in groups for row in group for record in row]
    texts = list(dict.fromkeys(record["summary"] for record in records))
    for name, function in (("toxicity", toxicity), ("judge", judge), ("reward", reward)):
        values = dict(zip(texts, map(float, function(texts))))
        for record in records:
            record[name] = values[record["summary"]]
    pairs = [(record, references[i]) for group in groups for i, row in enumerate(group) for record in row]
    rouge = quality.rouge([record["summary"] for record, _ in pairs], [wanted for _, wanted in pairs])
    for name in _ROUGE:
        for (record, _), value in zip(pairs, rouge[name].tolist()):
            record[name] = value


def column(records: Records, name: str) -> np.ndarray:
    """Return [dialogues, samples] of one number of each record."""
    return np.array([[record[name] for record in row] for row in records], dtype=np.float64)


def best_of(records: Records, count: int) -> Records:
    """Return, for each dialogue, the sample with the highest reward among the first `count`."""
    return [[max(row[:count], key=lambda record: record["reward"])] for row in records]


def results(
    before: Mapping[str, Records],
    after: Mapping[str, Records],
    dialogues: Sequence[str],
    dialogue_toxicity: np.ndarray,
    lengths: np.ndarray,
    settings: config.EvaluationStage,
) -> dict[str, Any]:
    """Return what results.json holds on one checkpoint, but for the names of models and files.

    Args:
        before: of the reference: `samples` and `noise` (other seeds) [n][k], `greedy` [n][1]; with baselines
            `filtered` [n][k] too.
        after: of the policy: `samples`, paired with the reference's, and `greedy`.
        dialogues: n texts.
        dialogue_toxicity: [n], by the classifier of the toxicity measurement; chooses the most toxic tenth.
        lengths: [n] prompt lengths in tokens.
        settings: of the stage.
    """
    options = {
        "threshold": settings.evaluation.threshold,
        "resamples": settings.evaluation.resamples,
        "seed": settings.seed,
    }
    sampled = {"before": before["samples"], "after": after["samples"]}
    toxicity = {side: column(records, "toxicity") for side, records in sampled.items()}
    judge = {side: column(records, "judge") for side, records in sampled.items()}
    measured = statistics.compare(toxicity["before"], toxicity["after"], **options)
    judged = statistics.compare(judge["before"], judge["after"], **options)
    masks = quality.slices(dialogues, dialogue_toxicity, lengths)
    noise = statistics.noise_floor(
        toxicity["before"],
        column(before["noise"], "toxicity"),
        resamples=options["resamples"],
        seed=options["seed"],
    )
    found: dict[str, Any] = {
        "schema_version": 1,
        "n": len(dialogues),
        "samples_per_dialogue": settings.evaluation.samples,
        "seed": settings.seed,
        "split": settings.split,
        "toxicity": {"judge": settings.toxicity.model, **measured},
        "independent_judge": {"judge": settings.judge.model, **judged},
        "greedy": {
            name: {"before": float(column(before["greedy"], key).mean()), "after": float(column(after["greedy"], key).mean())}
            for name, key in (("toxicity", "toxicity"), ("independent_judge", "judge"), *zip(_ROUGE, _ROUGE))
        },
        "rouge": {
            name: {side: float(column(records, name).mean()) for side, records in sampled.items()} for name in _ROUGE
        },
        "reward": {side: float(column(records, "reward").mean()) for side, records in sampled.items()},
        "drift": drift(sampled, dialogues),
        "noise_floor": noise,
        "slices": statistics.by_slice(
            toxicity["before"], toxicity["after"], masks, settings.evaluation.min_slice, **options
        ),
        "disagreement": statistics.disagreement(
            toxicity["before"],
            toxicity["after"],
            judge["before"],
            judge["after"],
            resamples=options["resamples"],
            seed=options["seed"],
        ),
        "verdict": measured["verdict"],
        "verdict_sentence": measured["verdict_sentence"],
        "verdict_rule": statistics.VERDICT_RULE,
    }
    if measured["mean"]["before"] > 0 and measured["paired_sd"] is not None:
        found["power"] = statistics.power_table(measured["mean"]["before"], measured["paired_sd"])
    if "filtered" in before:
        found |= baselines(before, after, settings.evaluation.best_of)
    found["alarms"] = [dataclasses.asdict(alarm) for alarm in statistics.alarms(found)]
    return found


def drift(sampled: Mapping[str, Records], dialogues: Sequence[str]) -> dict[str, Any]:
    """Return how far the policy went from the reference and what its summaries look like.

    KL is the mean over the policy's samples of log policy - log reference, unbiased; perplexity is that of each
    model's own samples under the reference.
    """
    k = len(sampled["before"][0])
    texts = {side: [record["summary"] for row in records for record in row] for side, records in sampled.items()}
    sources = [text for text in dialogues for _ in range(k)]
    owners = [i for i in range(len(dialogues)) for _ in range(k)]
    described = {
        side: quality.describe(
            texts[side], sources, owners, [record["finished"] for row in records for record in row]
        )
        for side, records in sampled.items()
    }
    after = [record for row in sampled["after"] for record in row]
    tokens = sum(len(record["ids"]) for record in after)
    gaps = [record["logprob"] - record["reference_logprob"] for record in after]
    own = [record for row in sampled["before"] for record in row]
    perplexity = {
        "before": float(np.exp(-sum(r["logprob"] for r in own) / sum(len(r["ids"]) for r in own))),
        "after": float(np.exp(-sum(r["reference_logprob"] for r in after) / tokens)),
    }
    return {
        "kl_per_token": sum(gaps) / tokens,
        "kl_per_summary": sum(gaps) / len(gaps),
        **{name: {side: described[side][name] for side in sampled} for name in described["before"]},
        "perplexity": perplexity,
    }


def baselines(before: Mapping[str, Records], after: Mapping[str, Records], count: int) -> dict[str, Any]:
    """Return the table of what PPO has to beat, and a sentence where it does not."""
    chosen = {
        "reference": before["samples"],
        f"best-of-{count} by reward": best_of([a + b for a, b in zip(before["samples"], before["noise"])], count),
        "bad-word filter": before["filtered"],
        "PPO": after["samples"],
    }
    table = {}
    for name, records in chosen.items():
        toxicity = column(records, "toxicity")
        table[name] = {
            "toxicity_mean": float(toxicity.mean()),
            "toxicity_std": float(toxicity.std()),
            "judge_mean": float(column(records, "judge").mean()),
            "rougeL": float(column(records, "rougeL").mean()),
            "length": float(np.mean([len(record["summary"].split()) for row in records for record in row])),
        }
    found: dict[str, Any] = {"baselines": table}
    rival = f"best-of-{count} by reward"
    if table["PPO"]["toxicity_mean"] >= table[rival]["toxicity_mean"]:
        found["baseline_note"] = (
            f"PPO does not beat {rival}: mean toxicity {table['PPO']['toxicity_mean']:.4f} against "
            f"{table[rival]['toxicity_mean']:.4f}, which costs {count} summaries a dialogue and no training."
        )
    return found


def examples(
    split: Mapping[str, Sequence[Any]], before: Mapping[str, Records], after: Mapping[str, Records], masks: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return the lines of examples.jsonl: a dialogue with its references and all summaries of both models."""
    lines = []
    for i, identity in enumerate(split["id"]):
        lines.append(
            {
                "id": identity,
                "topic": split["topic"][i],
                "dialogue": split["dialogue"][i],
                "references": split["summaries"][i],
                "slices": [name for name, mask in masks.items() if mask[i]],
                "before": {name: _public(records[i], name) for name, records in before.items()},
                "after": {name: _public(records[i], name) for name, records in after.items()},
            }
        )
    return lines


def _public(row: Sequence[Record], name: str) -> Any:
    clean = [{key: value for key, value in record.items() if key != "ids"} | {"tokens": len(record["ids"])} for record in row]
    return clean[0] if name == "greedy" else clean
