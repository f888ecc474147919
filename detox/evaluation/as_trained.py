"""What an evaluation takes from how its checkpoints were trained, where its user says nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from detox.evaluation import checkpoints
from detox.model import loading
from detox.ppo import checkpoint_record, next_step
from detox.scoring import classifier
from detox.stage import checkpoint_folders, commands, flags, manifest, notes, paths, run_preset
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


_TOXICITY = frozenset({"--toxicity.model", "--toxicity.revision", "--toxicity.label"})
_JUDGE = frozenset({"--judge.model", "--judge.revision", "--judge.label"})


def words(settings: config.EvaluationStage, named: Set[str], trained: type[config.PPOTraining]) -> list[str]:
    """Return what to type for preset, toxicity classifier, longest summary and dtype to be those of training.

    Where the reward model is that of another preset, the judge is that preset's too.

    Left alone is what presets do not pair, so that a value of the user's own in `config.py` counts, and all of it where
    the user names another preset.

    Args:
        settings: of the evaluation, with what is usual where nothing else is said.
        named: flags that the user has set.
        trained: class of the settings of training.

    Returns:
        What differs from the usual, which is told to the user too.

    Raises:
        UserError: nothing says which label of the classifier is the toxic one, or it is out of reach.
    """
    each = {folder: _departures(folder, settings, named, trained) for folder in _folders(settings)}
    if not each:
        return run_preset.words(settings, named)
    found = next(iter(each.values()))
    if "--preset" in found.keys() & named:
        preset = found["--preset"]
        notes.tell(
            f"{next(iter(each))} was trained under --preset {preset}: what was not set is now that of --preset "
            f"{settings.preset}, and figures may be others"
        )
    if any(other != found for other in each.values()):
        notes.tell("these checkpoints were trained in different ways, so what was not set is the preset's")
        commands.kept = frozenset().union(*each.values())
        return []
    commands.kept = found.keys() & named
    taken = [word for flag, value in found.items() if flag not in named for word in flags.words(flag, value)]
    if taken:
        notes.tell(f"{shlex.join(taken)}, to fit how {next(iter(each))} was trained")
    return taken


def _folders(settings: config.EvaluationStage) -> list[Path]:
    """Return the checkpoints that are named, or else the run's last."""
    series = Path(settings.checkpoints) / settings.run_name / "ppo"
    there = [checkpoints.named(name, series) for name in settings.checkpoint]
    last = checkpoint_folders.last(series)
    return [folder for folder in there if (folder / manifest.NAME).is_file()] or ([last] if last else [])


def _departures(
    folder: Path, settings: config.EvaluationStage, named: Set[str], trained: type[config.PPOTraining]
) -> dict[str, str]:
    """Return the flags that would be other than usual, with their values; those of flags that are named don't count."""
    try:
        made = manifest.glance(folder)
        training = checkpoint_record.settings_of(made, trained)
        usual, begun = settings.of_preset(training.preset), training.of_preset(training.preset)
        roots = checkpoint_record.working_folders(folder, made)
    except (KeyError, TypeError, AttributeError, UserError):
        return {}  # what is wrong with it is told where it is read in full
    found: dict[str, str] = {} if training.preset == settings.preset else {"--preset": training.preset}
    if found and "--preset" in named:
        return found
    if next_step.measures_as_trained(training.reward, begun, usual):
        found |= dict.fromkeys(_TOXICITY & named, "")
        if named.isdisjoint(_TOXICITY - {"--toxicity.label"}):
            name = paths.find(training.reward.model, roots) or training.reward.model
            found |= _classifier(name, training.reward, usual.toxicity, folder, "--toxicity.label" in named)
        if named.isdisjoint(_JUDGE):
            judge = next_step.judge_beside(training.reward, begun, usual)
            found |= {flag: value for flag, value in _judge(judge).items() if value != _judge(usual.judge)[flag]}
    limit = training.rollout.max_new_tokens
    if usual.evaluation.max_new_tokens == begun.rollout.max_new_tokens != limit:
        found["--evaluation.max-new-tokens"] = str(limit)
    if usual.dtype == begun.dtype != training.dtype:
        found["--dtype"] = training.dtype
    return found


def _judge(judge: config.Judge) -> dict[str, str]:
    return {"--judge.model": judge.model, "--judge.revision": str(judge.revision), "--judge.label": judge.label}


def _classifier(
    name: str, reward: config.Reward, usual: config.Toxicity, folder: Path, has_label: bool
) -> dict[str, str]:
    """Return the flags of the classifier that training maximised a label of, with the label that is toxicity."""
    try:
        model, _ = loading.read_config(name, reward.revision)
    except UserError as error:
        raise UserError(f"{error}; {folder} was trained with it, and is evaluated with it") from None
    if not classifier.measures(model):
        notes.tell(f"{name}, which {folder} was trained with, gives no probabilities: toxicity is by {usual.model}")
        return {}
    label = classifier.toxic_label(model, reward.label, usual.label)
    if label is None and not has_label:
        choices = printable(", ".join(classifier.labels_of(model)), 300)
        raise UserError(
            f"--toxicity.label={usual.label}: {name}, which {folder} was trained with, has no such label; "
            f"name the toxic one of {choices}"
        )
    found = {"--toxicity.model": name}
    found |= {} if reward.revision is None else {"--toxicity.revision": reward.revision}
    return found | ({} if label in (None, usual.label) else {"--toxicity.label": label})
