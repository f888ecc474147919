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


def judge_beside(reward: config.Reward, begun: config.PPOTraining, usual: config.EvaluationStage) -> config.Judge:
    """Return the judge that a preset has beside a reward model, else the usual one; arguments as above."""
    for preset in commands.presets(usual):
        its = begun.of_preset(preset).reward
        if (its.model, its.revision) == (reward.model, reward.revision) and preset != usual.preset:
            return usual.of_preset(preset).judge
    return usual.judge


def next_step(settings: config.PPOTraining, usual: config.EvaluationStage, reward: Classifier) -> str:
    """Say what to type next; which of many labels is toxic is left to the user, and so is a judge for the usual one.

    Args:
        settings: of training.
        usual: the evaluation's settings in the same preset.
        reward: what was trained against.
    """
    words, asked = [], []
    known, begun = reward.model.config, settings.of_preset(settings.preset)
    if (
        measures_as_trained(settings.reward, begun, usual)
        and measures(known)
        and toxic_label(known, settings.reward.label, usual.toxicity.label) is None
        and not commands.in_file("--toxicity.model")
        and not commands.in_file("--toxicity.label")
    ):
        words = ["--toxicity.label", "LABEL"]
        asked = [f"LABEL: the toxic one of {printable(', '.join(reward.labels), 300)}"]
    judge = judge_beside(settings.reward, begun, usual)
    is_reward = (judge.model, judge.revision) == (settings.reward.model, settings.reward.revision)
    if is_reward and not commands.in_file("--judge.model"):
        words += ["--judge.model", "JUDGE", "--judge.label", "TOXIC"]
        asked += [f"JUDGE: another classifier than {judge.model}, TOXIC: its toxic label"]
    command = commands.other("evaluate_ppo.py", settings, lambda flag: flag in commands.MACHINE, *words)
    explained = f" ({'; '.join(asked)})" if asked else ""
    return f"next: {command}{explained}"
