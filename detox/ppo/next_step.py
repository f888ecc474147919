"""What to type after training: the evaluation, which reads from the run how that was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detox.scoring.classifier import Classifier, measures, toxic_label
from detox.stage import commands
from detox.stage.errors import printable

if TYPE_CHECKING:
    import config


def measures_as_trained(reward: config.Reward, begun: config.PPOTraining, usual: config.EvaluationStage) -> bool:
    """Return whether toxicity is measured by another classifier than usual, the one that was trained against.

    It is where a run departs from a preset whose stages have one and the same.

    Args:
        reward: of the run.
        begun: settings of training in its preset.
        usual: settings of the evaluation in the same preset.
    """
    there, here = begun.reward, usual.toxicity
    return (there.model, there.revision) == (here.model, here.revision) != (reward.model, reward.revision)


def next_step(settings: config.PPOTraining, usual: config.EvaluationStage, reward: Classifier) -> str:
    """Say what to type next; which of many labels is toxic is left to the user.

    Args:
        settings: of training.
        usual: the evaluation's settings in the same preset.
        reward: what was trained against.
    """
    words, asked = [], ""
    known = reward.model.config
    if (
        measures_as_trained(settings.reward, settings.of_preset(settings.preset), usual)
        and measures(known)
        and toxic_label(known, settings.reward.label, usual.toxicity.label) is None
        and not commands.in_file("--toxicity.model")
        and not commands.in_file("--toxicity.label")
    ):
        words = ["--toxicity.label", "LABEL"]
        asked = f" (LABEL: the toxic one of {printable(', '.join(reward.labels), 300)})"
    command = commands.other("evaluate_ppo.py", settings, lambda flag: flag in commands.MACHINE, *words)
    return f"next: {command}{asked}"
