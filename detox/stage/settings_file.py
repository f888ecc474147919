"""Settings from a file (`--config`): YAML or a manifest, turned into the words that would be typed. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detox.stage import checkpoint_folders, flags, paths
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NONE = ("", "~", "null", "none")
_MANIFEST = {"schema_version", "stage", "config"}
"""Keys by which a manifest is known; its settings are in the last one."""


class Given(NamedTuple):
    """One setting in the file."""

    key: str
    """As it is written there, with dots."""
    node: Any
    """Of the YAML document: its text is taken as it stands, whatever YAML would make of `1e-5` or `no`."""


class SettingsFile(NamedTuple):
    """What a file sets, by flag."""

    path: str
    given: dict[str, Given]

    def words(self, settings: config.Stage) -> list[str]:
        """Return what to type for the settings that a stage has.

        Raises:
            UserError: a value is none that the setting can have.
        """
        known = [flag for group in flags.groups(settings) for flag in group.flags if flag.name in self.given]
        has_usual_name = self.text("--run") == settings.preset
        return [word for flag in known if flag.name != "--run" or not has_usual_name for word in self._words(flag)]

    def text(self, flag: str) -> str | None:
        """Return what stands in the file for a flag, None if it has nothing."""
        text = getattr(self.given[flag].node, "value", None) if flag in self.given else None
        return text if isinstance(text, str) else None

    def turns_on(self, flag: str) -> bool:
        """Return whether the file sets a switch to true."""
        return _SWITCH.get(str(self.text(flag)).lower(), False)

    def blamed(self, error: UserError) -> UserError:
        """Return an error about a flag as one about the key of the file, where the file sets it."""
        flag = flags.blamed(error)
        if flag not in self.given:
            return error
        return UserError(f"{self.path}: {self.given[flag].key}{str(error)[len(flag) :]}")

    def _words(self, flag: flags.Flag) -> list[str]:
        key, node = self.given[flag.name]
        where, is_list = f"{self.path}: {key}", flag.kind.startswith("[")
        if node.id == "sequence":
            if not is_list:
                raise UserError(f"{where}: takes one value, not a list")
            if any(item.id != "scalar" for item in node.value):
                raise UserError(f"{where}: takes a list of plain values")
            if wrong := next((item.value for item in node.value if item.value.startswith("-")), None):
                raise UserError(f"{where}: {wrong}: no value of a list begins with a dash")
            return [flag.name, *map(_text, node.value)]
        text = _text(node)
        if not flag.kind:
            if text.lower() not in _SWITCH:
                raise UserError(f"{where}={text}: must be true or false")
            return [flag.name if _SWITCH[text.lower()] else flag.off]
        if node.style is None and text.lower() in _NONE:
            if "None" in flag.kind.split("|"):
                text = "None"
            elif text.lower() != "none":  # a text, such as that of --model.adapter none
                raise UserError(f"{where}: a value is missing")
        return [flag.name, text] if is_list else [f"{flag.name}={text}"]


def read(name: str, stages: Mapping[str, type[config.Stage]]) -> SettingsFile:
    """Read a file of settings.

    Args:
        name: of the file.
        stages: whose settings it may hold.

    Raises:
        UserError: it can't be read, or names a setting that no stage has.
    """
    path = Path(name).expanduser()
    checkpoint_folders.restore(path)
    top = _document(path, f"--config={name}")
    entries = [] if top is None else list(top.value)
    inner = {key.value: value for key, value in entries if key.id == "scalar"}
    known = {flag for stage in stages.values() for flag in flags.flag_names(stage())} - {flags.CONFIG.name}
    is_manifest = inner.keys() >= _MANIFEST and inner["config"].id == "mapping"
    found = SettingsFile(str(path), {})
    _collect(found, inner["config"].value if is_manifest else entries, "", known)
    if is_manifest:
        found.given.pop("--overwrite", None)  # was meant for that call
        _set_place(found, path, inner)
    return found


def _set_place(found: SettingsFile, path: Path, manifest: Mapping[str, Any]) -> None:
    """Let a manifest that lies in a run name this run, and its own adapter, wherever they were when it was written."""
    run = _run_of(Path(os.path.abspath(path)).parent, manifest["stage"].value)
    if run is None:
        return
    checkpoints = paths.shown(run.parent)
    own = {"run": run.name, "checkpoints": str(checkpoints)}
    inputs = manifest.get("inputs")
    if inputs is not None and inputs.id == "mapping" and "lora" in [key.value for key, _ in inputs.value]:
        own["model.adapter"] = str(checkpoints / run.name / "lora")
    for key, text in own.items():
        node = type(manifest["stage"])("tag:yaml.org,2002:str", text, style='"')
        found.given[f"--{key}"] = Given(key, node)


def _run_of(folder: Path, stage: str) -> Path | None:
    """Return the folder of the run in which the artefact of a stage lies, None where it lies in none."""
    within = folder.parent
    if (stage, folder.name) in (("data_preparation", "prepared"), ("training_lora", "lora")):
        return within
    is_checkpoint = stage == "training_ppo" and within.name == "ppo" and checkpoint_folders.is_name(folder.name)
    is_evaluation = stage == "evaluate_ppo" and within.name == "evaluation"
    return within.parent if is_checkpoint or is_evaluation else None


def _document(path: Path, flag: str) -> Any:
    """Return the mapping at the top of the file, None if that is empty."""
    import yaml

    try:
        top = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader)  # builds no objects
    except FileNotFoundError:
        raise UserError(f"{flag}: no such file; name a YAML file or a manifest.json") from None
    except IsADirectoryError:
        raise UserError(f"{flag}: is a folder; name a YAML file or the manifest.json in it") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path}: not text in UTF-8; save it as that") from None
        raise UserError(f"{flag}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}: not YAML{line} ({why or 'unreadable'}); write such as `ppo: {{updates: 20}}`"
        ) from None
    if top is None or (top.id == "scalar" and top.style is None and top.value.lower() in _NONE):
        return None
    if top.id != "mapping":
        raise UserError(f"{path}: must hold names with values, such as `ppo: {{updates: 20}}`")
    return top


def _collect(found: SettingsFile, entries: list[tuple[Any, Any]], prefix: str, known: set[str]) -> None:
    for name, node in entries:
        key = prefix + (name.value if name.id == "scalar" else "?")
        flag = "--" + key.replace("_", "-")
        if flag in known:
            if flag in found.given:
                raise UserError(f"{found.path}: {key} is given twice; keep one of them")
            if node.id == "mapping":
                raise UserError(f"{found.path}: {key}: takes a value, not names with values")
            found.given[flag] = Given(key, node)
        elif any(other.startswith(f"{flag}.") for other in known) and not prefix:
            if node.id == "mapping":
                _collect(found, node.value, f"{key}.", known)
            elif node.id != "scalar" or node.value.lower() not in _NONE:
                raise UserError(f"{found.path}: {key}: is a group; write its settings below it, or as {key}.NAME")
        else:
            near = flags.nearest(flag, sorted(known))
            advice = f"did you mean {near.removeprefix('--')}?" if near else "docs/settings.md has all of them"
            raise UserError(f"{found.path}: {key}: no such setting; {advice}")


def _text(node: Any) -> str:
    """Return the text of a scalar; JSON writes what lies past 16 bits as two halves."""
    text: str = node.value
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
