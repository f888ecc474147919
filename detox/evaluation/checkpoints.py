"""Which checkpoints are evaluated: found, of one model, with the models that they were trained from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.model import sources
from detox.ppo import checkpoint_record
from detox.scoring import classifier
from detox.stage import artifacts, checkpoint_folders, commands, paths
from detox.stage.errors import UserError
from detox.stage.manifest import content, content_of

if TYPE_CHECKING:
    import config


_COMMIT = 40
"""Length of a commit of the hub; the hash of a folder is longer."""
_MOST = 20
"""Steps of a run that are listed."""


@dataclass(frozen=True)
class Case:
    """One checkpoint to evaluate, the run that it is of, and where its evaluation goes."""

    name: str
    checkpoint: Path
    run: Path
    training: config.PPOTraining
    suffix: str
    """Marks a split other than test."""
    weights: Mapping[str, str]
    """What told the models of training from others, by the names that they have in `training`."""
    looked_in: tuple[Path, ...]
    """Folders in which those were looked for, besides the working folder."""
    data: Mapping[str, Any]
    """What was recorded of the prepared data that it was trained on."""
    content: str
    """What tells the checkpoint that was found from one that takes its place."""
    prepared: str | None
    """The same of the run's prepared data."""

    @property
    def target(self) -> Path:
        return self.run / "evaluation" / f"{Path(os.path.abspath(self.checkpoint)).name}{self.suffix}"


def find(settings: config.EvaluationStage, trained: type[config.PPOTraining]) -> list[Case]:
    """Find the checkpoints, whole and of one model.

    Args:
        settings: of the stage.
        trained: class of the settings of training.

    Raises:
        UserError: one is missing, damaged or of another model, or two would be written to the same place.
    """
    own = Path(settings.checkpoints) / settings.run_name
    checkpoint_folders.settle(own / "ppo")
    for name in settings.checkpoint:
        checkpoint_folders.restore(Path(name))
    folders = [named(name, own / "ppo") for name in settings.checkpoint]
    if not folders:
        folders = [own / "ppo" / checkpoint_folders.name(number) for number in checkpoint_folders.numbers(own / "ppo")]
        if not folders:
            first = commands.missing("training_ppo", settings, own / "ppo")
            raise UserError(f"{own / 'ppo'} holds no checkpoint; {first}, or pass --checkpoint")
        folders = folders if settings.select is not None else folders[-1:]
    cases = []
    for folder in folders:
        _check_is_checkpoint(folder, own, settings)
        manifest, weights = checkpoint_record.read_manifest(folder), checkpoint_record.read_weights(folder)
        run = _run_of(folder, own)
        roots = tuple(checkpoint_record.working_folders(folder, manifest))
        training, weights = _from_here(
            _pinned(checkpoint_record.settings_of(manifest, trained), weights), weights, run, roots
        )
        suffix = "" if settings.split == "test" else f"-{settings.split}"
        data = manifest["inputs"].get("prepared", {})
        checkpoint_record.check_prepared(data, settings.stages(), run)
        now = content(manifest), content_of(run / "prepared")
        name = f"{run.name}/{Path(os.path.abspath(folder)).name}"
        cases.append(Case(name, folder, run, training, suffix, weights, roots, data, *now))
    if len({os.path.realpath(case.target) for case in cases}) < len(cases):
        raise UserError("--checkpoint: two of these have the same run and name; name each one once")
    if len({_start(case) for case in cases}) > 1:
        raise UserError("--checkpoint: these start from different models; evaluate them one at a time")
    if len({case.name for case in cases}) < len(cases):  # runs of the same name in different folders
        cases = [replace(case, name=str(case.checkpoint)) for case in cases]
    return cases


def named(name: str, series: Path) -> Path:
    """Return the folder that is meant: as it is named, or else of this name in the run's `ppo`."""
    folder = Path(name)
    is_bare = not folder.exists() and folder.name == str(folder)
    return series / folder if is_bare and (series / folder).is_dir() else folder


def _run_of(folder: Path, own: Path) -> Path:
    """Return the folder of the run that a checkpoint's folder lies in, or else the run of the settings."""
    series = Path(os.path.abspath(folder)).parent
    return paths.shown(series.parent) if series.name == "ppo" else own


def _check_is_checkpoint(folder: Path, run: Path, settings: config.EvaluationStage) -> None:
    """Demand a checkpoint's folder; name those that are near where it is another one."""
    if (folder / artifacts.MANIFEST).exists():
        return
    name = f"--checkpoint={folder}"
    if not folder.exists():
        there = [path.name for path in checkpoint_folders.near(run / "ppo")]
        if there and str(folder).startswith("step-"):
            shown = f"{'..., ' if len(there) > _MOST else ''}{', '.join(there[-_MOST:])}"
            raise UserError(f"{name}: {run / 'ppo'} has no such step; it has {shown}")
        near = checkpoint_folders.near(folder.parent) if len(folder.parts) > 1 else []
        near = near or checkpoint_folders.near(run)
        advice = _names(near) or commands.missing("training_ppo", settings, _run_of(folder, run) / "ppo")
        raise UserError(f"{name}: no such folder; {advice}")
    parents = [above for above in Path(os.path.abspath(folder)).parents if checkpoint_folders.is_name(above.name)]
    around = [paths.shown(above) for above in parents if (above / artifacts.MANIFEST).exists()]
    if around:
        raise UserError(f"{name}: part of a checkpoint; name {around[0]}")
    inside = checkpoint_folders.near(folder)
    if inside:
        raise UserError(f"{name}: no checkpoint itself, it holds some; {_names(inside)}")
    what = "an incomplete checkpoint" if checkpoint_folders.is_name(folder.name) else "no checkpoint"
    raise UserError(
        f"{name}: {what} (it has no {artifacts.MANIFEST}); {_names(checkpoint_folders.near(run)) or 'name one'}"
    )


def _names(folders: list[Path]) -> str:
    shown = ", ".join(str(folder) for folder in folders[-3:][::-1])
    return f"name {shown}{' or an earlier one' if len(folders) > 3 else ''}" if folders else ""


def _pinned(training: config.PPOTraining, weights: Mapping[str, str]) -> config.PPOTraining:
    """Ask the hub for the commits that training started from, whatever a branch has become since."""
    model = training.model
    commits = {name: value for name, value in weights.items() if len(value) == _COMMIT}
    start = replace(
        model,
        revision=commits.get(model.base, model.revision),
        adapter_revision=commits.get(model.adapter, model.adapter_revision),
    )
    return replace(training, model=start)


def _from_here(
    training: config.PPOTraining, weights: Mapping[str, str], run: Path, roots: Sequence[Path]
) -> tuple[config.PPOTraining, dict[str, str]]:
    """Return settings and weights of a checkpoint with the names that the folders of its models have from here."""
    own = Path(training.checkpoints) / training.run_name / "lora"

    def found(name: str) -> str:
        if name == "none" or name.startswith("demo:") or len(weights.get(name, "")) == _COMMIT:
            return name
        return str(run / "lora") if name == str(own) and (run / "lora").is_dir() else paths.find(name, roots) or name

    model = replace(training.model, base=found(training.model.base), adapter=found(training.model.adapter))
    here = replace(training, model=model, reward=replace(training.reward, model=found(training.reward.model)))
    return here, {found(name): value for name, value in weights.items()}


def check_unchanged(case: Case) -> None:
    """Demand that the checkpoint is the one that was found; training may go on, and remove or replace it.

    Raises:
        UserError: it is not.
    """
    _check_same(case.checkpoint, case.content)


def check_same_data(case: Case) -> None:
    """Demand that the prepared data are those that were found; they may have been made anew; errors as above."""
    _check_same(case.run / "prepared", case.prepared)


def _check_same(folder: Path, found: str | None) -> None:
    if content_of(folder) != found:
        raise UserError(f"{folder} was replaced or removed meanwhile; start again with what there is now")


@contextlib.contextmanager
def unchanged(case: Case) -> Iterator[None]:
    """Read from a checkpoint in this block. Where that fails since it is gone, say so; errors as `check_unchanged`."""
    try:
        yield
    except (OSError, UserError):
        check_unchanged(case)
        raise
    check_unchanged(case)


def check_start(case: Case) -> None:
    """Demand that base, supervised adapter and reward model are those of training; no weight is loaded.

    A reward model of the hub is left to its name and revision.

    Raises:
        UserError: one of them is gone or has changed.
    """
    model, reward, weights = case.training.model, case.training.reward, case.weights
    start = ((model.base, model.revision), (model.adapter, model.adapter_revision))
    for name, revision in (*start, (reward.model, reward.revision)):
        was = weights.get(name, "")
        if name == "none" or (name == reward.model and len(was) == _COMMIT):
            continue
        how = "with" if name == reward.model else "from"
        advice = f"{case.checkpoint} was trained {how} it: put it back as it was, or train anew"
        if len(was) != _COMMIT and not sources.is_here(name):
            looked = " or ".join(str(folder) for folder in dict.fromkeys((Path.cwd(), *case.looked_in)))
            raise UserError(f"{name}: no such folder{'' if Path(name).is_absolute() else f' in {looked}'}; {advice}")
        identity = classifier.identity if name == reward.model else sources.identity
        if identity(name, revision) != was:
            raise UserError(f"{name}: not the model that it was; {advice}")


def _start(case: Case) -> tuple[config.Model, str | None, str | None]:
    """Return what training started from, by name and weights; a run's own supervised adapter has one name in all."""
    model = case.training.model
    own = os.path.abspath(model.adapter) == os.path.abspath(case.run / "lora")
    named = replace(model, adapter="auto") if own else model
    return named, case.weights.get(model.base), case.weights.get(model.adapter)


def differ_by_seed(cases: list[Case]) -> bool:
    """Return whether these are runs alike but for their seeds, one checkpoint each: settings, models, code and data."""
    free: dict[str, Any] = dict(run=None, checkpoints="", seed=0, overwrite=False)
    free |= dict(device="auto", threads=None, report_to="none")
    same = {
        (
            replace(case.training, **free, save=type(case.training.save)(), model=_start(case)[0]),
            tuple(sorted(case.weights.values())),
            case.data.get("content_sha256"),
            case.prepared,
            case.checkpoint.name,
        )
        for case in cases
    }
    seeds, runs = {case.training.seed for case in cases}, {os.path.realpath(case.run) for case in cases}
    return len(same) == 1 and len(seeds) == len(runs) == len(cases) > 1
