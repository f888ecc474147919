"""The classifier as reward: one number a summary, and the batched pass that the measurement shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detox.scoring.classifier import Classifier

Signal = Literal["logit", "logprob", "probability"]


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
    model, tokenizer = classifier.model.eval(), classifier.tokenizer
    logits = torch.empty(len(texts), model.config.num_labels)
    if not texts:
        return logits
    tokens = tokenizer(list(texts), truncation=True, max_length=classifier.max_length)
    order = sorted(range(len(texts)), key=lambda i: len(tokens["input_ids"][i]), reverse=True)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({key: [tokens[key][i] for i in rows] for key in tokens}, return_tensors="pt")
        logits[rows] = model(**batch.to(model.device)).logits.float().cpu()
    return logits


def probabilities(classifier: Classifier, texts: Sequence[str], batch_size: int) -> Tensor:
    """Return the probabilities of all labels, [B, labels] float32 on the CPU; arguments as in `classify`."""
    return _log_probabilities(classifier, classify(classifier, texts, batch_size)).exp()


def _log_probabilities(classifier: Classifier, logits: Tensor) -> Tensor:
    """Turn logits into log-probabilities, as transformers' text-classification pipeline does."""
    if classifier.multi_label:
        return torch.nn.functional.logsigmoid(logits)
    return torch.log_softmax(logits, dim=-1)


class RewardModel:
    """Scores summaries with one label of a classifier."""

    def __init__(
        self,
        classifier: Classifier,
        signal: Signal = "logit",
        batch_size: int = 16,
        device: torch.device | str = "cpu",
    ):
        """Move the classifier to `device`.

        Args:
            classifier: with the label to maximise.
            signal: `logit`; or `logprob` or `probability`, which saturate and are there to show it.
            batch_size: summaries in one forward pass.
            device: where it computes.

        Raises:
            UserError: a signal other than `logit` of a regression.
        """
        if signal != "logit":
            classifier.check_probabilities()
        self.classifier = classifier
        self.signal = signal
        self.batch_size = batch_size
        model: nn.Module = classifier.model
        model.to(device).eval().requires_grad_(False)

    def score(self, summaries: Sequence[str]) -> Tensor:
        """Return the score of each summary.

        Args:
            summaries: the summary alone, without the dialogue and without special tokens.

        Returns:
            [B] float32 on the CPU: logit, log-probability (nats) or probability of the label. What the
            classifier makes NaN or infinite stays so.
        """
        scores = classify(self.classifier, summaries, self.batch_size)
        if self.signal != "logit":
            scores = _log_probabilities(self.classifier, scores)
        if self.signal == "probability":
            scores = scores.exp()
        return scores[:, self.classifier.label_id].clone()
