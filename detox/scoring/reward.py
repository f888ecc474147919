"""The reward of a summary: the signal of a classifier, and further terms, added with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from datasets import Dataset
from torch import Tensor, nn

from detox.scoring import reward_terms
from detox.scoring.classifier import Classifier, classify, is_ill, log_probabilities
from detox.stage import notes
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


Signal = Literal["logit", "logprob", "probability"]


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
        if isinstance(summaries, str):
            raise ValueError("a text alone: give a list of summaries")
        scores = classify(self.classifier, summaries, self.batch_size)
        if self.signal != "logit":
            scores = log_probabilities(self.classifier, scores)
        if self.signal == "probability":
            scores = scores.exp()
        return scores[:, self.classifier.label_id].clone()


class WeightedReward:
    """The score of a summary: the classifier's signal and further terms, added with their weights.

    Args:
        settings: weights and names of the terms.
        classifier: as the settings name it.
        examples: what the rows of `score` count in; has the columns `dialogue` and `summaries`.

    Raises:
        UserError: a term cannot be loaded, or fails on the first examples with their own references as summaries.
    """

    def __init__(self, settings: config.Reward, classifier: RewardModel, examples: Dataset):
        self.settings, self.classifier, self.examples = settings, classifier, examples
        if is_ill(settings.label):
            notes.tell(f"--reward.label={settings.label}: PPO makes this label more likely, and its name speaks of ill")
        self.terms = {name: reward_terms.load(name) for name in settings.terms}
        self.labels = reward_terms.labels(settings.terms)
        some = examples[: min(4, len(examples))]  # a term that cannot do is told now, not in the middle of a run
        reward_terms.measure(self.terms, [group[0] for group in some["summaries"]], some["dialogue"], some["summaries"])

    def score(self, rows: Sequence[int], summaries: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scores of summaries and what they are the sums of.

        Args:
            rows: B rows of the examples, whose dialogues were summarized.
            summaries: B texts without special tokens.

        Returns:
            The scores [B] float32 on the CPU; and `classifier` and each further term by its label, [B] before
            weighting, or nothing where there are no further terms.

        Raises:
            UserError: the classifier or a further term fails.
        """
        signal = self._signal(summaries)
        scores = self.settings.weight * signal
        if not self.terms:
            return scores, {}
        texts = self.examples[list(rows)]
        values = reward_terms.measure(self.terms, summaries, texts["dialogue"], texts["summaries"])
        for name, weight in self.settings.terms.items():
            scores = scores + weight * values[name]
        return scores, {"classifier": signal, **{self.labels[name]: each for name, each in values.items()}}

    def _signal(self, summaries: Sequence[str]) -> Tensor:
        try:
            return self.classifier.score(summaries)
        except Exception as error:  # a model of others can fail in any way
            reason = printable(f"{type(error).__name__}: {error}", 200)
            raise UserError(
                f"--reward.model={self.settings.model}: it failed on {len(summaries)} summaries ({reason}); what was "
                f"saved is whole: lower --reward.batch-size={self.settings.batch_size} if memory is short, or "
                "name another model"
            ) from error
