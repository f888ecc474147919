"""A sequence classifier: whole, the label of it that is asked for, and what it says of texts, in batches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from detox.model import loading, sources, tokenizers, weights
from detox.stage import notes
from detox.stage.errors import UserError, printable
from detox.stage.files import sha256

USUAL_LABEL = "nothate"
_ILL = re.compile(r"hate|hatred|tox|offens|abus|insult|obscen|threat|harm|spam|^neg|bad", re.IGNORECASE)
_NOT = re.compile(r"no(t|n|)[-_ ]?(?=hat|tox|off|abu|ins|obs|thr|har|spa|bad)", re.IGNORECASE)


@dataclass
class Classifier:
    """A sequence classifier, its tokenizer, and the label that is asked for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_id: int
    name: str
    last: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """The texts that were classified last, with their logits: one label of them after another may be asked for."""

    @property
    def labels(self) -> list[str]:
        """Names of the labels by index."""
        return labels_of(self.model.config)

    @property
    def label(self) -> str:
        """Name of the label that is asked for."""
        return self.labels[self.label_id]

    @property
    def max_length(self) -> int:
        """Most tokens that the model takes, special ones included.

        RoBERTa counts positions from behind its padding index, so its 514 rows hold 512 tokens; BART's table has rows
        besides those that its settings count.
        """
        limits = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None)]
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
                limits.append(module.num_embeddings - offset)
        return int(min(limit for limit in limits if limit is not None and limit > 0))

    @property
    def multi_label(self) -> bool:
        """Whether labels are independent (sigmoid) or exclusive (softmax), as in transformers' pipeline."""
        return _multi_label(self.model.config)

    def index(self, label: str) -> int:
        """Return the index of the label called `label`, wherever the model has it.

        Raises:
            UserError: there is none, or more than one.
        """
        return label_index(self.name, self.model.config, label)

    def check_probabilities(self) -> None:
        """Demand that the outputs can be made probabilities.

        Raises:
            UserError: it is a regression, or of one label without a word that this is a probability.
        """
        if measures(self.model.config):
            return
        if self.model.config.problem_type == "regression":
            what, otherwise = "is a regression, whose output is no probability of anything", ""
        else:
            what = "has one label, and its config.json does not say that its output is a probability"
            otherwise = ', or, if it is one, add "problem_type": "multi_label_classification" there'
        raise UserError(
            f"{self.name}: {what}; it can be a reward (--reward.signal logit), but choose a classifier to measure "
            f"toxicity{otherwise}"
        )

    def with_label(self, label: str) -> Classifier:
        """Return the same classifier, weights shared, asked for another label.

        Raises:
            UserError: there is no such label, or more than one.
        """
        return replace(self, label_id=self.index(label))


def identity(name: str, revision: str | None = None) -> str:
    """Return what tells a classifier from others: as of any model, and of a folder its tokenizer too.

    Raises:
        UserError: there is no such model.
    """
    known = sources.identity(name, revision)
    if not sources.is_here(name):
        return known
    folder, digest = sources.locate(name, revision, ()).folder, hashlib.sha256(known.encode())
    for path in (folder / file for file in tokenizers.FILES):
        if path.is_file():
            digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def labels_of(settings: PreTrainedConfig) -> list[str]:
    """Return the names of a classifier's labels by index."""
    names: Mapping[Any, str] = settings.id2label or {}
    return [str(name) for _, name in sorted(names.items())]


def label_index(name: str, settings: PreTrainedConfig, label: str) -> int:
    """Return the index of a label of the classifier called `name`, wherever it has it.

    Raises:
        UserError: there is no such label, or more than one.
    """
    labels = labels_of(settings)
    found = [index for index, one in enumerate(labels) if one == label]
    if len(labels) == 1 and label == USUAL_LABEL and not is_ill(labels[0]):
        return 0  # nobody asked for another one
    if len(found) != 1:
        problem = "no label" if not found else "more than one label"
        raise UserError(f"{name}: has {problem} {label!r}; choose from: {printable(', '.join(labels), 300)}")
    return found[0]


def _multi_label(settings: PreTrainedConfig) -> bool:
    return settings.problem_type == "multi_label_classification" or len(labels_of(settings)) == 1


def measures(settings: PreTrainedConfig) -> bool:
    """Return whether a classifier's outputs can be made probabilities.

    One label alone is a sigmoid's where its settings say so, else the score of a reward model.
    """
    is_sigmoid = settings.problem_type == "multi_label_classification"
    return is_sigmoid or (settings.problem_type != "regression" and len(labels_of(settings)) > 1)


def toxic_label(settings: PreTrainedConfig, maximised: str, usual: str) -> str | None:
    """Return the label whose probability is toxicity to a classifier that was trained against.

    It is the usual one if that is there, or the only one whose name speaks of ill, whatever was maximised. Else, of two
    labels that exclude each other, the other one; of more, its user knows: None.
    """
    labels = labels_of(settings)
    ill = [label for label in labels if is_ill(label)]
    if usual in labels or len(ill) == 1:
        return usual if usual in labels else ill[0]
    if len(labels) == 2 and maximised in labels and not _multi_label(settings):
        return labels[1 - labels.index(maximised)]
    return None


def is_ill(label: str) -> bool:
    """Return whether the name of a label speaks of what should not be."""
    return _ILL.search(label) is not None and _NOT.match(label) is None


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
    _try(classifier)
    return classifier.with_label(label)


def _try(classifier: Classifier) -> None:
    """Demand that a classifier reads texts of unlike length together, before hours have gone into what it is to read.

    Raises:
        UserError: it fails, scores a text by what is beside it, or its limit of tokens leaves no room for one.
    """
    special = classifier.tokenizer.num_special_tokens_to_add()
    if classifier.max_length <= special:
        raise UserError(
            f"{classifier.name}: takes {classifier.max_length} tokens, and {special} of these are special ones; "
            "correct model_max_length in its tokenizer_config.json, or name another classifier"
        )
    try:
        alike = any(_is_same_alone(classifier, side) for side in ("right", "left"))  # XLNet's last token is the one
    except Exception as error:  # a model of others can fail in any way
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{classifier.name}: fails on two short texts ({reason}); name another classifier") from None
    if not alike:
        raise UserError(
            f"{classifier.name}: scores a text otherwise beside a longer one, whatever side is padded; name another "
            "classifier"
        )


def _is_same_alone(classifier: Classifier, side: str) -> bool:
    """Return whether texts get the same logits together and alone if they are padded on this side, which stays set."""
    classifier.tokenizer.padding_side = side
    classifier.last.clear()
    texts = ["Yes.", "Tom and Ann have their dinner at seven."]
    together, alone = classify(classifier, texts, 2), torch.cat([classify(classifier, [text], 1) for text in texts])
    close = 1e-3 if classifier.model.dtype == torch.float32 else 0.1
    return torch.allclose(together, alone, rtol=close, atol=close)


@torch.no_grad()
def classify(classifier: Classifier, texts: Sequence[str], batch_size: int) -> Tensor:
    """Return the logits of all labels, in batches of texts of like length.

    Args:
        classifier: is used on the device where its model lies, in eval mode.
        texts: as many as one likes, empty ones too; cut to the model's limit of tokens.
        batch_size: texts in one forward pass; does not change the result but for rounding.

    Returns:
        [B, labels], float32, on the CPU, in the order of `texts`.
    """
    if tuple(texts) in classifier.last:
        return classifier.last[tuple(texts)].clone()
    model, tokenizer = classifier.model.eval(), classifier.tokenizer
    logits = torch.empty(len(texts), model.config.num_labels)
    if not texts:
        return logits
    limit = classifier.max_length
    tokens = tokenizer(list(texts), verbose=False)
    if any(len(ids) > limit for ids in tokens["input_ids"]):
        notes.tell(f"{classifier.name} reads {limit} tokens of a text; some are longer, and their ends are not read")
        tokens = tokenizer(list(texts), truncation=True, max_length=limit)
    order = sorted(range(len(texts)), key=lambda i: len(tokens["input_ids"][i]), reverse=True)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({key: [tokens[key][i] for i in rows] for key in tokens}, return_tensors="pt")
        logits[rows] = model(**batch.to(model.device)).logits.float().cpu()
    classifier.last.clear()
    classifier.last[tuple(texts)] = logits
    return logits.clone()


def cut(classifier: Classifier, texts: Sequence[str]) -> int:
    """Return how many texts are longer than what a classifier reads of them."""
    limit = classifier.max_length
    most_bytes = limit - classifier.tokenizer.num_special_tokens_to_add()  # a token is a byte or more
    long = [text for text in texts if len(text.encode()) > most_bytes]
    return sum(len(ids) > limit for ids in classifier.tokenizer(long, verbose=False)["input_ids"]) if long else 0


def probabilities(classifier: Classifier, texts: Sequence[str], batch_size: int) -> Tensor:
    """Return the probabilities of all labels, [B, labels] float32 on the CPU; arguments as in `classify`."""
    return log_probabilities(classifier, classify(classifier, texts, batch_size)).exp()


def log_probabilities(classifier: Classifier, logits: Tensor) -> Tensor:
    """Turn logits into log-probabilities, as transformers' text-classification pipeline does."""
    if classifier.multi_label:
        return nn.functional.logsigmoid(logits)
    return torch.log_softmax(logits, dim=-1)
