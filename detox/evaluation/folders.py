"""The folders of evaluations: one a checkpoint, told apart by what decides the figures; which are done already."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detox.evaluation.checkpoints import Case
from detox.ppo import checkpoint_record
from detox.scoring import classifier
from detox.stage import artifacts, commands, paths, run_lock
from detox.stage.errors import UserError
from detox.stage.files import sha256

if TYPE_CHECKING:
    import config


STAGE = "evaluate_ppo"
_NAMED = {"toxicity.model", "judge.model", "evaluation.bad_words", "evaluation.bert_score"}
_OWN_FILES = "own_files"
"""Where a manifest notes what tells the user's own files from others."""
_DECIDING = ("seed", "split", "engine", "dtype", "toxicity", "judge", "evaluation")


@contextlib.contextmanager
def locked(cases: list[Case]) -> Iterator[None]:
    """Keep other processes from writing to the same evaluations; training may go on. A stage begins with it."""
    _own_files.cache_clear()
    with contextlib.ExitStack() as stack:
        for folder in sorted({os.path.realpath(case.target.parent) for case in cases}):
            stack.enter_context(run_lock.hold(Path(folder)))
        yield


def is_finished(settings: config.EvaluationStage, case: Case) -> bool:
    """Return whether this very checkpoint was evaluated with these very settings; then its place holds that evaluation.

    The place holds the latest evaluation of a checkpoint. One under other settings, or of what the checkpoint was
    before, is kept beside it under a name of its own, and comes back when it is asked for. --overwrite replaces one of
    the same settings alone.

    Raises:
        UserError: it is damaged, and may not be replaced.
    """
    if place(settings, case) == case.target and case.target.exists():
        return not settings.overwrite
    kept = _kept(settings, case)
    if settings.overwrite or not kept.exists():
        return False
    read_manifest(settings, case, kept)
    take_place(settings, case)
    return True


def place(settings: config.EvaluationStage, case: Case) -> Path:
    """Return where an evaluation is written: in the checkpoint's place, or beside it while that holds another one.

    Raises:
        UserError: what is there is damaged, and may not be replaced.
    """
    if not case.target.exists():
        return case.target
    try:
        manifest = read_manifest(settings, case, case.target)
    except UserError:
        if settings.overwrite:
            return case.target
        raise
    known = _recorded(manifest)
    same = _identity(manifest["config"], {}) == _identity(asdict(settings), {})
    if same and (settings.overwrite or known | _hashes(settings, case) == known):
        return case.target
    return _kept(settings, case)


def take_place(settings: config.EvaluationStage, case: Case) -> None:
    """Put a whole evaluation from beside the checkpoint's place into it, and the one that was there beside it."""
    kept = _kept(settings, case)
    if not kept.exists():
        return
    if case.target.exists():
        manifest = read_manifest(settings, case, case.target, verify=False)
        os.rename(case.target, _beside(case, _identity(manifest["config"], _recorded(manifest))))
    os.rename(kept, case.target)


def _hashes(settings: config.EvaluationStage, case: Case) -> dict[str, Any]:
    """Return the hash of the content of each input that is there, artefacts and the user's own files."""
    there = {"checkpoint": case.content, "prepared": case.prepared}
    return {name: content for name, content in there.items() if content is not None} | _own_files(settings)


@functools.lru_cache(maxsize=1)
def _own_files(settings: config.EvaluationStage) -> dict[str, str]:
    """Return what tells the user's own files that an evaluation reads from others, by flag; looked at once a stage."""
    named = _flat(asdict(settings))
    own = {key: Path(named[key]).expanduser() for key in sorted(_NAMED) if named.get(key)}
    return {
        key: classifier.identity(str(path)) if path.is_dir() else sha256(path)
        for key, path in own.items()
        if path.exists()
    }


def _recorded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    of_inputs = {name: entry.get("content_sha256") for name, entry in manifest["inputs"].items()}
    return of_inputs | manifest.get("notes", {}).get(_OWN_FILES, {})


def read_manifest(settings: config.EvaluationStage, case: Case, folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return the manifest of a whole evaluation, or of a reference's part.

    Args:
        settings: of the stage that reads it.
        case: the checkpoint that it is of.
        folder: the artefact.
        verify: as of `artifacts.read_manifest`.

    Raises:
        UserError: it is damaged.
    """
    again = functools.partial(commands.again, f"{STAGE}.py", settings, "--checkpoint", str(case.checkpoint))
    remedy = f"run {again('--overwrite')} to make it anew"
    if not (folder / artifacts.MANIFEST).is_file():  # --overwrite would not replace it either
        remedy = f"move it away and run {again()}"
    return artifacts.read_manifest(folder, STAGE, verify=verify, remedy=remedy)


def _identity(values: Mapping[str, Any], hashes: Mapping[str, Any]) -> str:
    """Return a digest of what decides an evaluation; a folder or file is the same by any of its names."""
    decided = _deciding(json.loads(json.dumps(values)))
    for key in _NAMED:
        if paths.same(decided.get(key), decided.get(key)):  # it exists
            decided[key] = os.path.realpath(decided[key])
    what = json.dumps([decided, dict(hashes)], sort_keys=True)
    return hashlib.blake2b(what.encode(), digest_size=4).hexdigest()


def _kept(settings: config.EvaluationStage, case: Case) -> Path:
    """Return where this evaluation is kept while the checkpoint's place holds another one."""
    return _beside(case, _identity(asdict(settings), _hashes(settings, case)))


def _beside(case: Case, identity: str) -> Path:
    """Return where an evaluation is kept while its place holds another one."""
    return case.target.with_name(f"{case.target.name}-{identity}")


@contextlib.contextmanager
def publish(settings: config.EvaluationStage, target: Path, inputs: Mapping[str, Path], device: str) -> Iterator[Path]:
    """Yield the folder that takes the files of an artefact of this stage."""
    with artifacts.publish(
        target, stage=STAGE, settings=settings, device=device, overwrite=settings.overwrite, inputs=inputs
    ) as draft:
        own = _own_files(settings)
        draft.notes.update({_OWN_FILES: own} if own else {})
        yield draft.path


def inputs(case: Case) -> dict[str, Path]:
    return {"checkpoint": case.checkpoint, "prepared": case.run / "prepared"}


def has_other_data(case: Case) -> bool:
    """Return whether the run's data are others than the checkpoint was trained on."""
    recorded = case.data.get("content_sha256")
    return None not in (recorded, case.prepared) and recorded != case.prepared


def data_as_trained(settings: config.EvaluationStage, case: Case) -> str:
    """Say what to do for the run's data to be again those that the checkpoint was trained on."""
    return checkpoint_record.as_prepared(case.data, settings.stages(), case.run)


def _deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the figures, by flag; the batch size is none of them."""
    flat = _flat(values)
    flat.pop("evaluation.batch_size", None)
    return flat


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key in _DECIDING:
        value = values.get(key)
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def decides(flag: str) -> bool:
    """Return whether a flag of the stage decides the figures."""
    name = flag.removeprefix("--").replace("-", "_")
    return name != "evaluation.batch_size" and name.partition(".")[0] in _DECIDING
