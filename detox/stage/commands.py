"""What to type for a stage of the same run: complete, with each flag that matters there. No torch."""

from __future__ import annotations

import difflib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Container, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from detox.stage import checkpoint_folders, flags, manifest, paths
from detox.stage.figures import lookup

if TYPE_CHECKING:
    import config
    from config import S
    from detox.stage.settings_file import SettingsFile


BASE = ("--model.base", "--model.revision")
MACHINE = ("--device", "--threads", "--engine", "--dtype")
"""Flags that stages share, and that should be the same in all of a run."""
_RUN = ("--preset", "--run", "--checkpoints")
_PASSING = (*_RUN, "--overwrite", "--checkpoint")
"""Flags that are named otherwise, or that belong to one call alone."""
_MOST_RUNS = 5
"""Runs that are listed."""

installed: dict[str, str] = {}
"""What scripts are called where they were started as commands of an installed package."""
file: SettingsFile | None = None
"""The file that --config names for the stage that runs here, and that later ones may be given. No manifest: what it
records is of the stage that made it, and its checkpoint may be gone by then."""
kept: Set[str] = frozenset()
"""Flags that a command names though they are as in the preset, since the run has another value."""


def program(script: str) -> str:
    """Return what runs a script here: the one beside that which runs, as it was typed."""
    if script in installed:
        return installed[script]
    beside = Path(sys.argv[0]).parent / script
    return shlex.join(["python", str(beside if beside.is_file() else script)])


def command(script: str, settings: config.Stage, *words: str, said: Container[str] = ()) -> str:
    """Return what to type for `script` on the same run as `settings`, with further words.

    Args:
        script: of a stage.
        settings: of a stage.
        words: come last.
        said: flags to name although they are as they are without being named.
    """
    start = shlex.split(program(script))
    for flag in _RUN:
        value = _value(settings, flag)
        if value is not None and (value != _value(type(settings), flag) or flag in said or flag in kept):
            start += [flag, value]
    return shlex.join([*start, *words])


def in_file(flag: str) -> bool:
    """Return whether the file of settings sets a flag."""
    return file is not None and flag in file.given


def other(script: str, settings: config.Stage, matters: Callable[[str], bool], *words: str) -> str:
    """Return what to type for another stage of the run, with the flags of `settings` that matter to both.

    The file of settings is named where it has more for that stage or a later one; what the line says itself goes before
    it. That the file lets what is there be replaced holds for the stage that it was given to alone.
    """
    stages = settings.stages()
    later = list(stages)[list(stages).index(script) :]
    theirs = {flag for name in later for flag in flags.flag_names(stages[name]())}
    given = file.given if file is not None else {}
    more = any(flag in theirs and flag not in (*_RUN, "--overwrite") and not matters(flag) for flag in given)
    said = given if more else ()
    words = (*changed(settings, matters, said), *words)
    if file is None or not more:
        return command(script, settings, *words, said=said)
    keeps = ["--no-overwrite"] if file.turns_on("--overwrite") and "--overwrite" not in words else []
    return command(script, settings, *words, *keeps, flags.CONFIG.name, file.path, said=said)


def changed(settings: config.Stage, matters: Callable[[str], bool], said: Container[str] = ()) -> list[str]:
    """Return the flags that matter and are not their preset's, and those that are to be `said`, as words to type."""
    usual = settings.of_preset(settings.preset)
    words: list[str] = []
    for flag in (flag for group in flags.groups(settings) for flag in group.flags if flag != flags.CONFIG):
        value = _value(settings, flag.name)
        is_usual = value == _value(usual, flag.name) and flag.name not in said and flag.name not in kept
        if is_usual or not matters(flag.name):
            continue
        if isinstance(value, bool):
            words.append(flag.name if value else flag.off)
        elif isinstance(value, tuple):
            words += [flag.name, *map(str, value)]
        else:
            words += flags.words(flag.name, flag.default)
    return words


def again(script: str, settings: config.Stage, *words: str, without: tuple[str, ...] = ()) -> str:
    """Return what to type for a stage with all of its settings but --overwrite, and those that are left out.

    Args:
        script: of the stage.
        settings: its settings.
        words: come first.
        without: further flags to leave out.
    """
    return command(script, settings, *words, *changed(settings, lambda flag: flag not in (*_PASSING, *without)))


def go_on(script: str, settings: config.Stage, *words: str) -> str:
    """Return what to type for the stage that runs here to be begun again, with its file for it and later stages."""
    own = set(flags.flag_names(settings)) - set(_PASSING)
    return other(script, settings, lambda flag: flag in own, *words)


def following(
    script: str, settings: config.Stage, matters: Callable[[str], bool], made: str, words: Sequence[str] = ()
) -> str:
    """Return what to type for the training stage that comes next, as `other` does.

    What the run has from other data or another adapter is to be made again, with the settings that it had where no file
    says others; that is told.

    Args:
        script: that comes next.
        settings: of the stage that is done.
        matters: as in `other`.
        made: folder in the run of what that has made.
        words: to type beside.
    """
    there = results(script, settings)
    if not there or fits(script, settings, made):
        return other(script, settings, matters, *words)
    kept_settings = "" if file else ", with the settings that it had"
    print(f"note: {there[-1].parent} is from before; --overwrite replaces it{kept_settings}")
    return anew(script, settings, matters, *words)


def anew(script: str, settings: config.Stage, matters: Callable[[str], bool], *words: str) -> str:
    """Return what to type for what a training stage has made in the run to be made again; arguments as in `other`."""
    if file:
        return other(script, settings, matters, *words, "--overwrite")
    old = str(results(script, settings)[-1])
    words = (*changed(settings, matters, BASE[:1]), *words, "--overwrite", flags.CONFIG.name, old)
    return command(script, settings, *words, said=("--preset",))


def fits(script: str, settings: config.Stage, made: str) -> bool:
    """Return whether the run has what a training stage makes, and from what lies in its folder `made` now."""
    there = results(script, settings)
    recorded = lookup(manifest.glance(there[-1].parent), "inputs", made, "content_sha256") if there else None
    now = manifest.content_of(Path(settings.checkpoints, settings.run_name, made))
    return recorded is not None and recorded == now


def results(script: str, settings: config.Stage) -> list[Path]:
    """Return the manifests of what a training stage has made in the run, the last one last."""
    run = Path(settings.checkpoints, settings.run_name)
    there = [run / "lora"] if script == "training_lora.py" else checkpoint_folders.steps(run / "ppo")
    return [folder / manifest.NAME for folder in there if (folder / manifest.NAME).is_file()]


def before(stage: str, settings: config.Stage | None, folder: Path, *words: str) -> str:
    """Return what to type for an earlier stage, which makes an artefact of a run.

    Args:
        stage: name of its script, without the suffix.
        settings: of a stage that reads the artefact; without them only the script is named.
        folder: the artefact, `<checkpoints>/<run>/<name>`.
        words: further ones.
    """
    if settings is None:
        return " ".join([program(f"{stage}.py"), *words])
    return other(f"{stage}.py", of_run(settings, folder.parent), lambda flag: flag in BASE, *words)


def remake(stage: str, settings: config.Stage | None, folder: Path, *words: str) -> str:
    """Return what to type for an artefact whose manifest is whole to be made anew, with the settings that it had.

    Those go after what the line says itself, and after a file of settings; arguments as in `before`.
    """
    words = (*words, "--overwrite")
    if settings is not None and file is None:
        words = (*words, flags.CONFIG.name, str(folder / manifest.NAME))
    return before(stage, settings, folder, *words)


def of_run(settings: S, run: Path) -> S:
    """Return settings for the run that lies in the folder `run`."""
    if run == Path(settings.checkpoints) / settings.run_name:
        return settings
    run = Path(os.path.abspath(run))
    name = None if run.name == settings.preset else run.name
    return replace(settings, run=name, checkpoints=str(paths.shown(run.parent)))


def forgotten_preset(settings: config.Stage, folder: Path) -> str | None:
    """Return what to type for the preset that the user seems to have meant, None where there is no sign of it.

    The sign: nothing says which run, there is none under the name of the default preset, and there is one of another.

    Args:
        settings: of a stage.
        folder: the artefact, `<checkpoints>/<run>/<name>`, that it does not find.
    """
    run = Path(settings.checkpoints) / settings.run_name
    if settings.preset != type(settings).preset or settings.run is not None or folder.parent != run:
        return None
    if _has_files(run):
        return None
    there = [preset for preset in presets(settings) if (run.with_name(preset) / folder.name).is_dir()]
    return f"--preset {there[0]}" if there else None


def presets(settings: config.Stage) -> tuple[str, ...]:
    """Return the names of the presets."""
    return get_args(get_type_hints(type(settings))["preset"])


def _has_files(run: Path) -> bool:
    """Return whether a run has more than what locks leave."""
    return run.is_dir() and any(not path.name.startswith(".") for path in run.iterdir())


def missing(stage: str, settings: config.Stage | None, folder: Path) -> str:
    """Return what to do about an artefact of an earlier stage that is not there; arguments as in `before`."""
    preset = None if settings is None else forgotten_preset(settings, folder)
    others = [] if settings is None else _other_runs(settings, folder)
    hint = f"did you forget {preset}? there is {folder.parent.with_name(preset.split()[1])}; or " if preset else ""
    if others:
        more = f" and {len(others) - _MOST_RUNS} more" if len(others) > _MOST_RUNS else ""
        runs = f"{'runs' if len(others) > 1 else 'run'} {', '.join(others[:_MOST_RUNS])}{more}"
        hint = f"{folder.parent.parent} has the {runs}: name one with --run, or "
    return f"{hint}run {before(stage, settings, folder)} first"


def _other_runs(settings: config.Stage, folder: Path) -> list[str]:
    """Return the runs that have what the run that was named lacks, if there is no such run: most alike first."""
    run = Path(settings.checkpoints) / settings.run_name
    if settings.run is None or folder.parent != run or _has_files(run):
        return []
    names = [there.parent.name for there in run.parent.glob(f"*/{folder.name}") if there.is_dir()]
    return difflib.get_close_matches(run.name, sorted(names), max(len(names), 1), 0.0)


def _value(settings: config.Stage | type[config.Stage], flag: str) -> Any:
    names = flag.removeprefix("--").replace("-", "_").split(".")
    return functools.reduce(getattr, names, settings)
