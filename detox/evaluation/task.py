"""What an evaluation works on: dialogues, the models that summarize them, the classifiers that mark the summaries."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from detox.data import counts
from detox.data.fingerprint import tokenizer_fingerprint
from detox.data.prepared import load_prepared
from detox.evaluation import bad_words, scorers, summaries
from detox.evaluation.checkpoints import Case, check_start
from detox.evaluation.examples import Records
from detox.evaluation.scorers import NO_BERT_SCORE, Scorer, load_scorers
from detox.evaluation.summaries import Draw
from detox.model import adapters, devices, loading, threads, tokenizers
from detox.model.engine import Engine
from detox.model.engines import make_engine
from detox.scoring.classifier import Classifier
from detox.stage import artifacts
from detox.stage.errors import UserError
from detox.stage.parallel import Processes

if TYPE_CHECKING:
    import config


@dataclass(frozen=True)
class Task:
    """What both models have to do, and what marks it.

    Attributes:
        settings: of the stage.
        split: the dialogues, columns of the prepared dataset.
        unknown: what of them the tokenizer does not know, see `counts.unknown`.
        queries: their prompts, [length] of ids each.
        tokenizer: of both models.
        banned: sequences of ids that a filter of bad words never lets through.
        classifiers, scorers: by role: toxicity, judge, reward.
        device: where models run.
        processes: share the work.
    """

    settings: config.EvaluationStage
    split: Mapping[str, list[Any]]
    unknown: dict[str, float]
    queries: list[Tensor]
    tokenizer: PreTrainedTokenizerBase
    banned: tuple[tuple[int, ...], ...]
    classifiers: Mapping[str, Classifier]
    scorers: Mapping[str, Scorer]
    device: torch.device
    processes: Processes

    def summarize(self, engine: Engine, draws: Mapping[str, Draw], title: str) -> dict[str, Records]:
        """Return a model's summaries of every dialogue, as `summaries.summarize` does."""
        return summaries.summarize(
            engine,
            self.tokenizer,
            self.queries,
            draws,
            self.settings.evaluation,
            seed=self.settings.seed,
            title=title,
            processes=self.processes,
        )

    def score(self, groups: list[Records], known: Sequence[Records] = ()) -> None:
        """Add to the records what the classifiers and the references say of them; `known` as in `scorers.score`."""
        references, with_bert = self.split["summaries"], self.settings.evaluation.bert_score
        scorers.score(groups, self.scorers, references, with_bert, self.processes, known)


def prepare(settings: config.EvaluationStage, case: Case, processes: Processes) -> Task:
    """Load tokenizer, dialogues and classifiers: small things first, so that errors come early.

    Raises:
        UserError: one of them is missing or does not fit the others.
    """
    loading.quiet()
    device = devices.take(settings.device)
    if settings.evaluation.bert_score is not None and importlib.util.find_spec("bert_score") is None:
        raise UserError(NO_BERT_SCORE)
    processes.on_main(lambda: check_start(case))
    base = case.training.model
    tokenizer = tokenizers.load_tokenizer(base.base, base.revision)
    loading.check_tokens("--evaluation.max-new-tokens", settings.evaluation.max_new_tokens, base.base, base.revision)
    threads.take(settings.threads, device, base.base, base.revision)
    words = bad_words.load(settings.evaluation.bad_words)
    prepared = load_prepared(case.run / "prepared", tokenizer_fingerprint(tokenizer), case.training)
    split = prepared[settings.split]
    split = split[: min(len(split), settings.evaluation.examples or len(split))]
    if not split["id"]:
        raise UserError(f"{case.run / 'prepared'} has no {settings.split} dialogues; prepare data that has some")
    queries = [torch.tensor(ids) for ids in split["input_ids"]]
    classifiers, scorers = load_scorers(settings.toxicity, settings.judge, case.training.reward, device)
    banned = bad_words.banned_sequences(tokenizer, words if settings.evaluation.best_of else [])
    made = artifacts.read_manifest(case.run / "prepared", "data_preparation", verify=False, reader=case.training)
    unknown = counts.unknown(made["counts"], settings.split)
    return Task(settings, split, unknown, queries, tokenizer, banned, classifiers, scorers, device, processes)


def load_engine(settings: config.EvaluationStage, case: Case, adapter: str, device: torch.device) -> Engine:
    """Load the base that a case's training started from, with an adapter, or `none`."""
    model = case.training.model
    base = loading.load_summarizer(model.base, model.revision, devices.choose_dtype(settings.dtype, device))
    revision = model.adapter_revision if adapter == model.adapter else None
    adapted: nn.Module = (
        base if adapter == "none" else adapters.fold_head(adapters.load_adapter(base, adapter, revision))
    )
    return make_engine(settings.engine, adapted.to(device).requires_grad_(False))
