"""Which checkpoints are evaluated, found and checked before any work; which evaluations are done already."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.model import hub
from detox.ppo import checkpoint
from detox.stage import artifacts, cli, paths, run_lock
from detox.stage.errors import UserError
from detox.stage.files import sha256

if TYPE_CHECKING:
    import config


STAGE = "evaluate_ppo"
_COMMIT = 40
"""Length of a commit of the hub; the hash of a folder is longer."""
_NAMED = {"toxicity.model", "judge.model", "evaluation.bad_words", "evaluation.bert_score"}
_DECIDING = ("seed", "split", "engine", "dtype", "toxicity", "judge", "evaluation")


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
    checkpoint.settle(own / "ppo")
    folders = [Path(name) for name in settings.checkpoint]
    if not folders:
        folders = [own / "ppo" / checkpoint.name(number) for number in checkpoint.numbers(own / "ppo")]
        if not folders:
            again = cli.command("training_ppo.py", settings)
            raise UserError(f"{own / 'ppo'} holds no checkpoint; run {again} first, or pass --checkpoint")
        folders = folders if settings.select is not None else folders[-1:]
    cases = []
    for folder in folders:
        _check_is_checkpoint(folder, own)
        manifest, weights = checkpoint.read_manifest(folder), checkpoint.read_weights(folder)
        place = Path(os.path.abspath(folder))
        run = paths.shown(place.parent.parent) if place.parent.name == "ppo" else own
        roots = tuple(checkpoint.working_folders(folder, manifest))
        training, weights = _from_here(_pinned(checkpoint.settings_of(manifest, trained), weights), weights, run, roots)
        suffix = "" if settings.split == "test" else f"-{settings.split}"
        cases.append(Case(f"{run.name}/{place.name}", folder, run, training, suffix, weights, roots))
    if len({case.target for case in cases}) < len(cases):
        raise UserError("--checkpoint: two of these have the same run and name; name each one once")
    if len({_start(case) for case in cases}) > 1:
        raise UserError("--checkpoint: these start from different models; evaluate them one at a time")
    if len({case.name for case in cases}) < len(cases):  # runs of the same name in different folders
        cases = [replace(case, name=str(case.checkpoint)) for case in cases]
    return cases


def _check_is_checkpoint(folder: Path, run: Path) -> None:
    """Demand a checkpoint's folder; name those that are near where it is another one."""
    if (folder / artifacts.MANIFEST).exists():
        return
    name = f"--checkpoint={folder}"
    if not folder.exists():
        advice = _names(checkpoint.near(run)) or "run training_ppo.py first"
        raise UserError(f"{name}: no such folder; {advice}")
    parents = [above for above in Path(os.path.abspath(folder)).parents if checkpoint.is_name(above.name)]
    around = [paths.shown(above) for above in parents if (above / artifacts.MANIFEST).exists()]
    if around:
        raise UserError(f"{name}: part of a checkpoint; name {around[0]}")
    inside = checkpoint.near(folder)
    if inside:
        raise UserError(f"{name}: no checkpoint itself, it holds some; {_names(inside)}")
    what = "an incomplete checkpoint" if checkpoint.is_name(folder.name) else "no checkpoint"
    raise UserError(f"{name}: {what} (it has no {artifacts.MANIFEST}); {_names(checkpoint.near(run)) or 'name one'}")


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


def check_start(case: Case) -> None:
    """Demand that the base and the supervised adapter are those that training started from; no weight is loaded.

    Raises:
        UserError: one of them is gone or has changed.
    """
    model, weights = case.training.model, case.weights
    for name, revision in ((model.base, model.revision), (model.adapter, model.adapter_revision)):
        if name == "none":
            continue
        advice = f"{case.checkpoint} was trained from it: put it back as it was, or train anew"
        was = weights.get(name, "")
        if len(was) != _COMMIT and not name.startswith("demo:") and not Path(name).expanduser().is_dir():
            looked = " or ".join(str(folder) for folder in dict.fromkeys((Path.cwd(), *case.looked_in)))
            raise UserError(f"{name}: no such folder{'' if Path(name).is_absolute() else f' in {looked}'}; {advice}")
        if hub.identity(name, revision) != was:
            raise UserError(f"{name}: not the model that it was; {advice}")


def _start(case: Case) -> config.Model:
    """Return what training started from; a run's own supervised adapter counts as the same in every run."""
    model = case.training.model
    own = os.path.abspath(model.adapter) == os.path.abspath(case.run / "lora")
    return replace(model, adapter="auto") if own else model


@contextlib.contextmanager
def locked(cases: list[Case]) -> Iterator[None]:
    """Keep other processes from writing to the same evaluations; training may go on."""
    with contextlib.ExitStack() as stack:
        for folder in sorted({case.target.parent for case in cases}):
            stack.enter_context(run_lock.hold(folder))
        yield


def is_finished(settings: config.EvaluationStage, case: Case) -> bool:
    """Return whether this very checkpoint was evaluated with these very settings; then its place holds that evaluation.

    The place holds the latest evaluation of a checkpoint. One under other settings, or of what the checkpoint was
    before, is kept beside it under a name of its own, and comes back when it is asked for. --overwrite replaces one of
    the same settings alone.

    Raises:
        UserError: it is damaged, and may not be replaced.
    """
    there = {name: folder / artifacts.MANIFEST for name, folder in inputs(case).items()}
    hashes: dict[str, Any] = {name: sha256(path) for name, path in there.items() if path.exists()}
    if case.target.exists():
        try:
            manifest = artifacts.read_manifest(case.target, STAGE)
        except UserError:
            if settings.overwrite:
                return False
            raise
        known = {name: entry.get("manifest_sha256") for name, entry in manifest["inputs"].items()}
        same = _identity(manifest["config"], {}) == _identity(asdict(settings), {})
        if same and (settings.overwrite or known | hashes == known):
            return not settings.overwrite
        os.rename(case.target, _beside(case, _identity(manifest["config"], known)))
    kept = _beside(case, _identity(asdict(settings), hashes))
    if settings.overwrite or not kept.exists():
        return False
    artifacts.read_manifest(kept, STAGE)
    os.rename(kept, case.target)
    return True


def _identity(values: Mapping[str, Any], hashes: Mapping[str, Any]) -> str:
    """Return a digest of what decides an evaluation; a folder or file is the same by any of its names."""
    decided = _deciding(json.loads(json.dumps(values)))
    for key in _NAMED:
        if paths.same(decided.get(key), decided.get(key)):  # it exists
            decided[key] = os.path.realpath(decided[key])
    what = json.dumps([decided, dict(hashes)], sort_keys=True)
    return hashlib.blake2b(what.encode(), digest_size=4).hexdigest()


def _beside(case: Case, identity: str) -> Path:
    """Return where an evaluation is kept while its place holds another one."""
    return case.target.with_name(f"{case.target.name}-{identity}")


@contextlib.contextmanager
def publish(settings: config.EvaluationStage, target: Path, inputs: Mapping[str, Path], device: str) -> Iterator[Path]:
    """Yield the folder that takes the files of an artefact of this stage."""
    with artifacts.publish(
        target, stage=STAGE, settings=settings, device=device, overwrite=settings.overwrite, inputs=inputs
    ) as draft:
        yield draft.path


def inputs(case: Case) -> dict[str, Path]:
    return {"checkpoint": case.checkpoint, "prepared": case.run / "prepared"}


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the figures, by flag; the batch size is none of them."""
    flat: dict[str, Any] = {}
    for key in _DECIDING:
        value = values.get(key)
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    flat.pop("evaluation.batch_size", None)
    return flat


def decides(flag: str) -> bool:
    """Return whether a flag of the stage decides the figures."""
    name = flag.removeprefix("--").replace("-", "_")
    return name != "evaluation.batch_size" and name.partition(".")[0] in _DECIDING


def differ_by_seed(cases: list[Case]) -> bool:
    """Return whether these are runs of the same settings under different seeds, one checkpoint each."""
    free: dict[str, Any] = dict(run=None, checkpoints="", seed=0, overwrite=False)
    free |= dict(device="auto", threads=None, report_to="none")
    same = {
        (replace(case.training, **free, save=type(case.training.save)(), model=_start(case)), case.checkpoint.name)
        for case in cases
    }
    seeds, runs = {case.training.seed for case in cases}, {case.run for case in cases}
    return len(same) == 1 and len(seeds) == len(runs) == len(cases) > 1
