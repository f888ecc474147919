"""A sequence classifier, whole, and the label of it that is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from detox.model import loading, sources, tokenizers, weights
from detox.stage.errors import UserError, printable

USUAL_LABEL = "nothate"
_ILL = re.compile(r"hate|hatred|tox|offens|abus|insult|obscen|threat|harm|spam|^neg|bad", re.IGNORECASE)


@dataclass
class Classifier:
    """A sequence classifier, its tokenizer, and the label that is asked for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_id: int
    name: str

    @property
    def labels(self) -> list[str]:
        """Names of the labels by index."""
        return _labels(self.model.config)

    @property
    def label(self) -> str:
        """Name of the label that is asked for."""
        return self.labels[self.label_id]

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes, special ones included.

        RoBERTa counts positions from behind its padding index, so its 514 rows hold 512 tokens.
        """
        limit = self.tokenizer.model_max_length
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
                limit = min(limit, module.num_embeddings - offset)
        return int(limit)

    @property
    def multi_label(self) -> bool:
        """Whether labels are independent (sigmoid) or exclusive (softmax), as in transformers' pipeline."""
        return self.model.config.problem_type == "multi_label_classification" or len(self.labels) == 1

    def index(self, label: str) -> int:
        """Return the index of the label called `label`, wherever the model has it.

        Raises:
            UserError: there is none, or more than one.
        """
        found = [index for index, name in enumerate(self.labels) if name == label]
        if len(self.labels) == 1 and label == USUAL_LABEL and not _ILL.search(self.labels[0]):
            return 0  # nobody asked for another one
        if len(found) != 1:
            problem = "no label" if not found else "more than one label"
            choices = printable(", ".join(self.labels), 300)
            raise UserError(f"{self.name}: has {problem} {label!r}; choose from: {choices}")
        return found[0]

    def check_probabilities(self) -> None:
        """Demand that the outputs can be made probabilities.

        Raises:
            UserError: it is a regression.
        """
        if self.model.config.problem_type == "regression":
            raise UserError(
                f"{self.name}: is a regression, whose output is no probability of anything; it can be a reward "
                "(--reward.signal logit), but choose a classifier to measure toxicity"
            )

    def with_label(self, label: str) -> Classifier:
        """Return the same classifier, weights shared, asked for another label.

        Raises:
            UserError: there is no such label, or more than one.
        """
        return replace(self, label_id=self.index(label))


def _labels(settings: PreTrainedConfig) -> list[str]:
    names: Mapping[Any, str] = settings.id2label or {}
    return [str(name) for _, name in sorted(names.items())]


def load_classifier(
    name: str, revision: str | None = None, label: str = "hate", dtype: torch.dtype = torch.float32
) -> Classifier:
    """Load a sequence classifier, in eval mode, on the CPU.

    Args:
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.
        label: name of the label that is wanted, as in the model's config. Of a model with one label, such as a reward
            model, `nothate` takes that one, unless its name speaks of ill.
        dtype: of the weights.

    Raises:
        UserError: not found, not a classifier, no such label, or its weights are missing or damaged.
    """
    source = sources.locate(name, revision, loading.WHOLE, weights.PICKLED)
    settings = loading.model_config(source)
    if not loading.is_classifier(settings):
        kind = (settings.architectures or [settings.model_type])[0]
        raise UserError(f"{name}: {kind} is not a sequence classifier; choose one that has the label {label!r}")
    tokenizer = tokenizers.tokenizer_of(source)
    model = loading.load_whole(AutoModelForSequenceClassification, source, settings, "a sequence classifier", dtype)
    tokenizers.check_vocabulary(source, tokenizer, loading.embedding_rows(model))
    classifier = Classifier(model, tokenizer, 0, name)
    return classifier.with_label(label)
