"""Manifests: whatever is damaged is told in one line, whatever is in one is read or refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detox.stage.errors import UserError
from tests.stage.artefacts import publish, read

KEYS = [
    *("schema_version", "stage", "config", "seed", "versions", "device", "git_rev", "created_utc"),
    *("inputs", "files", "counts", "seconds", "peak_memory_mb", "sha256"),
]


def damaged(damage):
    """Name a function that damages an artefact by what it does."""
    return pytest.param(damage, id=damage.__name__)


def truncate(folder):
    os.truncate(folder / "train" / "data.txt", 3)
    return "train/data.txt has 3 bytes instead of 8"


def flip_a_bit(folder):
    (folder / "train" / "data.txt").write_bytes(b"bontents")
    return "train/data.txt has changed"


def lose_a_file(folder):
    (folder / "info.txt").unlink()
    return "info.txt is missing"


def lose_a_folder(folder):
    shutil.rmtree(folder / "train")
    return "train/data.txt is missing"


def put_a_folder(folder):
    (folder / "info.txt").unlink()
    (folder / "info.txt").mkdir()
    return "info.txt is not a file"


def put_a_pipe(folder):
    (folder / "info.txt").unlink()
    os.mkfifo(folder / "info.txt")
    return "info.txt is not a file"


def edit(**changes):
    def editing(folder):
        manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return editing


def lose_the_manifest(folder):
    (folder / "manifest.json").unlink()
    return "has no manifest.json; move it away and run python data_preparation.py"


def lose_everything(folder):
    shutil.rmtree(folder)
    return "no such folder; run python data_preparation.py first"


def empty_the_manifest(folder):
    (folder / "manifest.json").write_bytes(b"")
    return "manifest.json is not JSON; run python data_preparation.py --overwrite to make it anew"


def truncate_the_manifest(folder):
    os.truncate(folder / "manifest.json", 100)
    return "manifest.json is not JSON"


def write_a_deep_manifest(folder):
    (folder / "manifest.json").write_text("[" * 200_000)
    return "manifest.json is not JSON"


def write_a_list(folder):
    (folder / "manifest.json").write_text("[]")
    return "manifest.json is not a JSON object"


def come_from_the_future(folder):
    (folder / "manifest.json").write_text('{"schema_version": 2}')
    return "has schema_version 2, newer than 1; update the program, or run python data_preparation.py"


def come_from_nowhere(folder):
    edit(schema_version=0)(folder)
    return "has the unknown schema_version 0"


def come_from_another_stage(folder):
    edit(stage="training_\x1b[31mppo")(folder)
    return "was written by 'training_"


def name_a_path_outside(folder):
    edit(files=[{"path": "train/../../secret", "bytes": 1, "sha256": "0"}])(folder)
    return "names 'train/../../secret', which is outside"


def name_an_absolute_path(folder):
    edit(files=[{"path": "/etc/hostname", "bytes": 1, "sha256": "0"}])(folder)
    return "names '/etc/hostname', which is outside"


@pytest.mark.parametrize(
    "damage",
    [
        *map(damaged, (truncate, flip_a_bit, lose_a_file, lose_a_folder, put_a_folder, put_a_pipe)),
        *map(damaged, (lose_the_manifest, lose_everything, empty_the_manifest, truncate_the_manifest)),
        *map(damaged, (write_a_deep_manifest, write_a_list, come_from_the_future, come_from_nowhere)),
        *map(damaged, (come_from_another_stage, name_a_path_outside, name_an_absolute_path)),
    ],
)
def test_damage_is_told(artefact, damage):
    expected = damage(artefact)
    with pytest.raises(UserError) as refusal:
        read(artefact)
    message = str(refusal.value)
    assert message.startswith(str(artefact)) and expected in message
    assert "data_preparation.py" in message
    assert message.isprintable()


def test_what_can_be_seen_without_hashing(artefact):
    flip_a_bit(artefact)
    assert read(artefact, verify=False)["stage"] == "data_preparation"
    truncate(artefact)
    with pytest.raises(UserError, match="3 bytes instead of 8"):
        read(artefact, verify=False)


def test_files_that_others_add_do_no_harm(artefact):
    (artefact / ".DS_Store").write_text("")
    assert read(artefact)["stage"] == "data_preparation"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("damage", ["lacks", "has a wrong"])
def test_every_key_is_checked(artefact, key, damage):
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest[key] = True
    if damage == "lacks":
        del manifest[key]
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"manifest.json {damage} '{key}'"):
        read(artefact)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {"path": st.text(st.characters()) | JSON, "bytes": st.integers(0, 20) | JSON, "sha256": JSON}
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """An artefact whose manifest is overwritten, and the manifest as it was."""
    folder = publish(tmp_path_factory.mktemp("fuzzed") / "prepared")
    return folder, read(folder)


def read_or_refuse(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    try:
        assert isinstance(read(folder), dict)
    except UserError as refusal:
        assert str(refusal).isprintable()


@given(content=st.binary())
def test_any_bytes_are_read_or_refused(fuzzed, content):
    read_or_refuse(fuzzed[0], content)


@given(value=JSON)
def test_any_json_is_read_or_refused(fuzzed, value):
    read_or_refuse(fuzzed[0], json.dumps(value).encode())


@given(key=st.sampled_from(KEYS), value=JSON)
def test_any_value_of_a_key_is_read_or_refused(fuzzed, key, value):
    folder, intact = fuzzed
    read_or_refuse(folder, json.dumps({**intact, key: value}).encode())


@given(entry=ENTRY | JSON)
def test_any_file_entry_is_read_or_refused(fuzzed, entry):
    folder, intact = fuzzed
    read_or_refuse(folder, json.dumps({**intact, "files": [*intact["files"], entry]}).encode())
