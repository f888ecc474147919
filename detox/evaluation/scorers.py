"""What marks summaries (toxicity, judge, reward, overlap with references), and what it adds to their records."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from detox.evaluation.alarms import Alarm
from detox.evaluation.examples import SIDES, Line, Record, Records, samples
from detox.model import sources
from detox.scoring import rouge, toxicity
from detox.scoring.classifier import Classifier, cut, identity, is_ill, load_classifier
from detox.scoring.reward import RewardModel
from detox.stage import notes, paths
from detox.stage.errors import UserError, printable
from detox.stage.parallel import ALONE, Processes

if TYPE_CHECKING:
    import config


Scorer = Callable[[list[str]], Sequence[float]]
Mark = TypeVar("Mark")

NO_BERT_SCORE = "--evaluation.bert-score: bert-score needs `pip install bert-score`; or leave it out"
_CHUNK = 64
"""Texts that a scorer is given at once."""


@functools.lru_cache(maxsize=1)
def load_scorers(
    measured: config.Toxicity, judge: config.Judge, reward: config.Reward, device: torch.device
) -> tuple[dict[str, Classifier], dict[str, Scorer]]:
    """Load toxicity measurement, judge and reward model; one that serves twice is loaded, and reads a text, once.

    Raises:
        UserError: one of them is not what it has to be, or the judge is what was trained against.
    """
    if _same(judge, reward):
        raise UserError(
            f"--judge.model={judge.model}: was trained against, so it can't judge what it has taught; name another one "
            "(and its toxic label, --judge.label)"
        )
    if _same(judge, measured):
        notes.tell(f"--judge.model={judge.model} also measures toxicity, so that it confirms nothing")
    loaded: dict[tuple[str, str | None], Classifier] = {}
    classifiers = {}
    for role, wanted in (("toxicity", measured), ("judge", judge), ("reward", reward)):
        source = wanted.model, wanted.revision
        if source not in loaded:
            loaded[source] = load_classifier(*source, wanted.label)
        classifiers[role] = loaded[source].with_label(wanted.label)
    raised, label = classifiers["reward"], classifiers["toxicity"].label
    if raised.label == label and not is_ill(label) and _same(measured, reward):
        notes.tell(f"--toxicity.label={label} is what training raised: the report takes less of it for less toxicity")
    for role in ("toxicity", "judge"):
        classifiers[role].check_probabilities()

    def probability(role: str, label: str) -> Scorer:
        measurement = toxicity.load_toxicity(classifiers[role], device)
        return lambda texts: measurement.compute(predictions=texts, toxic_label=label)["toxicity"]

    logit = RewardModel(classifiers["reward"], "logit", reward.batch_size, device)
    return classifiers, {
        "toxicity": probability("toxicity", measured.label),
        "judge": probability("judge", judge.label),
        "reward": lambda texts: logit.score(texts).tolist(),
    }


def _same(one: config.Judge | config.Toxicity, other: config.Toxicity | config.Reward) -> bool:
    """Return whether two classifiers are one, whatever they are asked for; copies on this disk are."""
    if one.revision == other.revision and (one.model == other.model or paths.same(one.model, other.model)):
        return True
    is_here = all(sources.is_here(classifier.model) for classifier in (one, other))
    return is_here and identity(one.model) == identity(other.model)


def score(
    groups: Sequence[Records],
    scorers: Mapping[str, Scorer],
    references: Sequence[Sequence[str]],
    bert_score: str | None = None,
    processes: Processes = ALONE,
    known: Sequence[Records] = (),
) -> None:
    """Add what the scorers say, the ROUGE F1 and BERTScore to every record; equal texts are scored once.

    Args:
        groups: records of the same n dialogues.
        scorers: name of the number to the function that gives it, from texts.
        references: reference summaries of the n dialogues.
        bert_score: encoder for BERTScore; None leaves it out.
        processes: share the work but for BERTScore, which is the main one's; all have the same records.
        known: records that have the scorers' marks already, which go to equal texts: a model would give them other last
            bits in other company.

    Raises:
        UserError: a scorer gives what is no number, or `bert-score` is not installed.
    """
    owned = [(i, record) for group in groups for i, row in enumerate(group) for record in row]
    marked = {
        record["summary"]: {name: record[name] for name in scorers}
        for group in known
        for row in group
        for record in row
    }
    _mark([record for _, record in owned], scorers, processes, marked)
    _overlap(owned, references, bert_score, processes)


def unread(classifiers: Iterable[Classifier], lines: Sequence[Line]) -> list[Alarm]:
    """Return a warning for each classifier that does not read all sampled summaries to their ends."""
    texts = [record["summary"] for side in SIDES for row in samples(lines, side) for record in row]
    found = []
    for name, each in {each.name: each for each in classifiers}.items():
        if number := cut(each, texts):
            ends = f"the ends of {number:,} of {len(texts):,} summaries count for nothing"
            sentence = f"{printable(name, 80)} reads {each.max_length} tokens of a text: {ends}."
            found.append(Alarm("unread", "warning", sentence))
    return found


def _mark(
    records: Sequence[Record],
    scorers: Mapping[str, Scorer],
    processes: Processes,
    known: Mapping[str, Mapping[str, float]],
) -> None:
    texts = [text for text in dict.fromkeys(record["summary"] for record in records) if text not in known]

    def marked(some: list[str]) -> list[list[float]]:
        """Return the marks of each text; a classifier that serves twice reads them once."""
        columns = [scorer(some) for scorer in scorers.values()]
        return [[float(column[i]) for column in columns] for i in range(len(some))]

    found = rate(texts, marked, processes)
    for name, values in zip(scorers, zip(*found)):
        if not all(map(math.isfinite, values)):
            raise UserError(f"{name}: its classifier gives NaN or infinity; check the model, or name another")
    marks = {**known, **{text: dict(zip(scorers, values)) for text, values in zip(texts, found, strict=True)}}
    for record in records:
        record |= marks[record["summary"]]


def _overlap(
    owned: Sequence[tuple[int, Record]],
    references: Sequence[Sequence[str]],
    bert_score: str | None,
    processes: Processes,
) -> None:
    """Add how much of its dialogue's references is in each summary, to records with their dialogue's number."""
    pairs = list(dict.fromkeys((i, record["summary"]) for i, record in owned))
    written, wanted = [text for _, text in pairs], [references[i] for i, _ in pairs]
    part = processes.share(len(pairs))
    parts = processes.gather_objects(rouge.rouge(written[part], wanted[part]))
    overlaps = {name: np.concatenate([part[name] for part in parts]) for name in rouge.OVERLAPS}
    if bert_score is not None:
        overlaps["bert_score"] = processes.on_main(lambda: rouge.bert_score(written, wanted, bert_score))
        if overlaps["bert_score"] is None:
            raise UserError(NO_BERT_SCORE)
    place = {pair: at for at, pair in enumerate(pairs)}
    for i, record in owned:
        at = place[i, record["summary"]]
        record |= {name: float(values[at]) for name, values in overlaps.items()}


def rate(
    texts: Sequence[str], scorer: Callable[[list[str]], Sequence[Mark]], processes: Processes = ALONE
) -> list[Mark]:
    """Return what a scorer says of each text; texts of like length go to it together, and processes take turns."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    found = processes.map(lambda rows: list(scorer([texts[i] for i in rows])), chunks)
    values = dict(zip(chain.from_iterable(chunks), chain.from_iterable(found), strict=True))
    return [values[i] for i in range(len(texts))]
