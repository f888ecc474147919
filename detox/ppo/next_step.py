"""What to type after training: the evaluation, told of what it would take from the preset and not from the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detox.scoring.classifier import Classifier
from detox.stage import commands
from detox.stage.errors import printable

if TYPE_CHECKING:
    import config


def next_step(settings: config.PPOTraining, usual: config.EvaluationStage, reward: Classifier) -> str:
    """Say what to type next.

    Toxicity is measured by the model that was trained against, as in the presets. Of two labels the other one is ill;
    of more, its user knows.

    Args:
        settings: of training.
        usual: the evaluation's settings in the same preset.
        reward: what was trained against.
    """
    words = commands.changed(settings, lambda flag: flag in commands.MACHINE)
    limit = settings.rollout.max_new_tokens
    words += [] if limit == usual.evaluation.max_new_tokens else ["--evaluation.max-new-tokens", str(limit)]
    measured, asked = usual.toxicity, ""
    if (settings.reward.model, settings.reward.revision) != (measured.model, measured.revision) and reward.measures:
        words += ["--toxicity.model", settings.reward.model]
        words += [] if settings.reward.revision is None else ["--toxicity.revision", settings.reward.revision]
        label = reward.other_label or (measured.label if measured.label in reward.labels else None)
        words += [] if label in (None, measured.label) else ["--toxicity.label", label]
        if label is None:
            words += ["--toxicity.label", "LABEL"]
            asked = f" (LABEL: the toxic one of {printable(', '.join(reward.labels), 300)})"
    return f"next: {commands.command('evaluate_ppo.py', settings, *words)}{asked}"
