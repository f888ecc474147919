"""Artefacts: whole or absent whatever happens, with a manifest that tells everything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

import config
from detox.stage import artifacts, files
from detox.stage.errors import UserError
from tests.stage.artefacts import SETTINGS, publish, read, run_python, tree

KEYS = [
    *("schema_version", "stage", "config", "seed", "versions", "device", "git_rev", "created_utc"),
    *("inputs", "files", "counts", "seconds", "peak_memory_mb", "sha256"),
]


def test_manifest_tells_everything(tmp_path):
    source = publish(tmp_path / "run" / "prepared")
    later = publish(tmp_path / "other" / "prepared")
    settings = dataclasses.replace(config.preset(config.PPOTraining, "demo"), seed=7)
    target = tmp_path / "run" / "ppo" / "step-0001"
    with artifacts.publish(
        target, stage="training_ppo", settings=settings, device="cuda:0", inputs={"prepared": source}
    ) as draft:
        (draft.path / "adapter").mkdir()
        (draft.path / "adapter" / "weights").write_bytes(b"\0\1\2")
        draft.counts.update(examples=np.int64(3), mean=np.float32(0.5))
        draft.inputs["later"] = later
    manifest = artifacts.read_manifest(target, "training_ppo")
    assert manifest == json.loads((target / "manifest.json").read_text())
    assert list(manifest) == KEYS
    assert (manifest["schema_version"], manifest["stage"], manifest["seed"]) == (1, "training_ppo", 7)
    assert manifest["config"] == json.loads(json.dumps(dataclasses.asdict(settings)))
    assert manifest["device"] == "cuda:0"
    assert manifest["counts"] == {"examples": 3, "mean": 0.5}
    sha = hashlib.sha256(b"\0\1\2").hexdigest()
    assert manifest["files"] == [{"path": "adapter/weights", "bytes": 3, "sha256": sha}]
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {name for name, version in manifest["versions"].items() if version} == {
        *("python", "torch", "transformers", "trl", "peft", "datasets", "evaluate")
    }
    for name, folder in (("prepared", source), ("later", later)):
        recorded = manifest["inputs"][name]
        assert (target / recorded["path"]).resolve() == folder
        assert recorded["manifest_sha256"] == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert manifest["seconds"] >= 0
    assert manifest["peak_memory_mb"] > 1


def test_the_exact_set_of_files(artefact):
    assert list(tree(artefact.parent)) == [
        *(
            "prepared",
            "prepared/info.txt",
            "prepared/manifest.json",
            "prepared/train",
            "prepared/train/data.txt",
        )
    ]


def test_an_input_is_recorded_as_it_was_when_the_work_began(tmp_path):
    source = publish(tmp_path / "prepared", "first")
    before = files.sha256(source / "manifest.json")
    with artifacts.publish(tmp_path / "lora", stage="training_lora", settings=SETTINGS, inputs={"prepared": source}):
        publish(source, "second", overwrite=True)
    manifest = artifacts.read_manifest(tmp_path / "lora", "training_lora")
    assert manifest["inputs"]["prepared"]["manifest_sha256"] == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
    def fail():
        with artifacts.publish(tmp_path / "run" / "ppo" / "step", stage="training_ppo", settings=SETTINGS) as draft:
            (draft.path / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == {}


def test_an_existing_target_is_refused_before_any_work(artefact):
    before = tree(artefact.parent)
    with pytest.raises(UserError, match=r"prepared exists; pass --overwrite to replace it"):
        with artifacts.publish(artefact, stage="data_preparation", settings=SETTINGS):
            pytest.fail("worked")
    assert tree(artefact.parent) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("contents", [{}, {"thesis.txt": "the only copy"}])
def test_what_is_no_artefact_is_never_replaced(tmp_path, contents, overwrite):
    """Nor is it advised, which would be in vain."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    for name, text in contents.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match="has no manifest.json, so it is not replaced"):
        publish(folder, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == list(contents)


def test_the_old_is_whole_until_the_new_is(artefact, replacement):
    with artifacts.publish(artefact, stage="data_preparation", settings=SETTINGS, overwrite=True) as draft:
        (draft.path / "new.txt").write_text("new")
        assert len(read(artefact)["files"]) == 2
    assert [entry["path"] for entry in read(artefact)["files"]] == ["new.txt"]
    assert list(tree(artefact.parent)) == ["prepared", "prepared/manifest.json", "prepared/new.txt"]


def test_a_failed_replacement_keeps_the_old(artefact, replacement):
    before = tree(artefact.parent)
    with pytest.raises(RuntimeError):
        with artifacts.publish(artefact, stage="data_preparation", settings=SETTINGS, overwrite=True):
            raise RuntimeError
    assert tree(artefact.parent) == before


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path):
    (tmp_path / "big-disk").mkdir()
    publish(tmp_path / "big-disk" / "prepared")
    (tmp_path / "prepared").symlink_to(tmp_path / "big-disk" / "prepared")
    publish(tmp_path / "prepared", "new", overwrite=True)
    assert (tmp_path / "prepared").is_symlink()
    assert (tmp_path / "big-disk" / "prepared" / "train" / "data.txt").read_text() == "new"


KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from detox.stage import files, folders
from detox.stage.errors import UserError
from tests.stage.artefacts import publish, read, tree

folder, scenario = Path(sys.argv[1]), sys.argv[2]
if "aside" in scenario:
    folders._exchange = lambda one, other: False
target, single, old = folder / "prepared", folder / "state.json", "fresh" not in scenario
if old:
    publish(target, "old")
    files.write_atomic(single, "old")


def die_before(step):
    def dying(function):
        def call(*arguments, **options):
            nonlocal step
            step -= 1
            if step < 0:
                os._exit(9)
            return function(*arguments, **options)
        return call

    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    folders._exchange = dying(folders._exchange)
    files.write_new = dying(files.write_new)


def contents(path):
    return path.read_text() if path.exists() else None


steps, seen = 0, set()
while True:
    child = os.fork()
    if not child:
        die_before(steps)
        publish(target, "new", overwrite=True)
        files.write_atomic(single, "new")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        read(target)
        found = contents(target / "train" / "data.txt")
    except UserError as error:
        assert not old and "no such folder" in str(error), error
        found = None
    assert found in ("old" if old else None, "new"), found
    assert contents(single) in ("old" if old else None, "new")
    seen.add((found, contents(single)))
    if status == 0:
        break
    assert status == 9, status
    if old:
        publish(target, "old", overwrite=True)
        files.write_atomic(single, "old")
        assert list(tree(folder)) == [
            "prepared", "prepared/info.txt", "prepared/manifest.json",
            "prepared/train", "prepared/train/data.txt", "state.json",
        ], tree(folder)
    else:
        import shutil
        shutil.rmtree(target, ignore_errors=True)
        single.unlink(missing_ok=True)
    steps += 1
print(steps, sorted(map(str, seen)))
"""


@pytest.mark.parametrize("scenario", ["fresh", "replace", "replace aside"])
def test_killed_at_every_step(tmp_path, scenario):
    done = run_python(KILLED_AT_EVERY_STEP, tmp_path, scenario)
    assert done.returncode == 0, done.stderr
    steps, seen = done.stdout.split(maxsplit=1)
    assert int(steps) >= 12
    before = "None" if scenario == "fresh" else "'old'"
    assert seen.strip() == str(sorted([f"({before}, {before})", f"('new', {before})", "('new', 'new')"]))


def test_a_reader_during_every_replacement_sees_a_whole_artefact(artefact, replacement):
    child = os.fork()
    if not child:
        try:
            for number in range(30):
                publish(artefact, str(number), overwrite=True)
        finally:
            os._exit(0)
    reads = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        read(artefact, verify=False)
        reads += 1
    assert reads > 0
    assert (artefact / "train" / "data.txt").read_text() == "29"


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from detox.stage import artifacts, files
from detox.stage.errors import UserError
from tests.stage.artefacts import SETTINGS
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
folder, way = Path(sys.argv[1]), sys.argv[2]
try:
    if way == "file":
        files.write_atomic(folder / "prepared", bytes(200_000))
    target = folder / "prepared"
    with artifacts.publish(target, stage="data_preparation", settings=SETTINGS, overwrite=True) as draft:
        if way == "weights":
            save_file({"weights": np.zeros(200_000, np.uint8)}, draft.path / "weights.safetensors")
        (draft.path / "data").write_bytes(bytes(200_000))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("way", ["bytes", "weights", "file"])
def test_a_disk_that_takes_no_more(artefact, way):
    if way == "file":
        shutil.rmtree(artefact)
        files.write_atomic(artefact, "old")
    before = tree(artefact.parent)
    done = run_python(LIMITED, artefact.parent, way)
    assert done.stdout == f"{artefact}: File too large; raise the limit on file sizes (ulimit -f)\n", done.stderr
    assert tree(artefact.parent) == before


def test_what_another_stage_wrote_is_not_replaced(tmp_path):
    folder = publish(tmp_path / "prepared")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="was written by 'data_preparation', so it is not replaced; move it away"):
        with artifacts.publish(folder, stage="export", settings=SETTINGS, overwrite=True):
            pytest.fail("begun")
    assert tree(tmp_path) == before
