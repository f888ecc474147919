"""Artefacts: whole or absent whatever happens, damage is told in one line, one writer a run."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
from detox.stage import artifacts
from detox.stage.errors import UserError

ROOT = Path(artifacts.__file__).resolve().parents[2]
SETTINGS = config.preset(config.Preparation, "demo")
KEYS = [
    *("schema_version", "stage", "config", "seed", "versions", "device", "git_rev", "created_utc"),
    *("inputs", "files", "counts", "seconds", "peak_memory_mb", "sha256"),
]


def publish(target: Path, text: str = "contents", overwrite: bool = False) -> Path:
    with artifacts.publish(target, stage="data_preparation", settings=SETTINGS, overwrite=overwrite) as draft:
        (draft.path / "train").mkdir()
        (draft.path / "train" / "data.txt").write_text(text)
        (draft.path / "info.txt").write_text("about the data")
    return target


def read(folder: Path, **options: bool) -> dict:
    return artifacts.read_manifest(folder, "data_preparation", **options)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its contents; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def run_python(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60, **options})


@pytest.fixture(params=["exchange", "aside"])
def replacement(request, monkeypatch):
    """Both ways to replace a folder: in one step, or by two renames where the system knows no such step."""
    if request.param == "aside":
        monkeypatch.setattr(artifacts, "_exchange", lambda one, other: False)
    return request.param


@pytest.fixture
def artefact(tmp_path):
    return publish(tmp_path / "run" / "prepared")


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
    before = artifacts.sha256(source / "manifest.json")
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


@pytest.mark.parametrize("contents", [{}, {"thesis.txt": "the only copy"}])
def test_what_is_no_artefact_is_never_replaced(tmp_path, contents):
    folder = tmp_path / "prepared"
    folder.mkdir()
    for name, text in contents.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match="has no manifest.json, so it is not replaced"):
        publish(folder, overwrite=True)
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
sys.path.insert(0, "tests")
from tests.stage.test_artifacts import artifacts, publish, read, tree

folder, scenario = Path(sys.argv[1]), sys.argv[2]
if "aside" in scenario:
    artifacts._exchange = lambda one, other: False
target, single, old = folder / "prepared", folder / "state.json", "fresh" not in scenario
if old:
    publish(target, "old")
    artifacts.write_atomic(single, "old")


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
    artifacts._exchange = dying(artifacts._exchange)
    artifacts._write = dying(artifacts._write)


def contents(path):
    return path.read_text() if path.exists() else None


steps, seen = 0, set()
while True:
    child = os.fork()
    if not child:
        die_before(steps)
        publish(target, "new", overwrite=True)
        artifacts.write_atomic(single, "new")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        read(target)
        found = contents(target / "train" / "data.txt")
    except artifacts.UserError as error:
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
        artifacts.write_atomic(single, "old")
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


def begin_anew(folder):
    """Keep an old run aside; what is called `done` makes a run whole, and other names than `log` are not ours."""
    return artifacts.aside(folder, {"done", "log"}.__contains__, lambda run: (run / "done").exists())


def make(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_old_comes_back_where_its_successor_fails(tmp_path):
    make(tmp_path / "ppo", done="old", notes="mine")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError):
        with begin_anew(tmp_path / "ppo"):
            assert not (tmp_path / "ppo").exists()
            make(tmp_path / "ppo", log="new")
            raise RuntimeError
    assert tree(tmp_path) == before


def test_the_old_goes_when_its_successor_is_whole_but_not_what_the_user_put_there(tmp_path):
    make(tmp_path / "ppo", done="old", log="old", notes="mine")
    with begin_anew(tmp_path / "ppo"):
        make(tmp_path / "ppo", done="new")
    assert tree(tmp_path) == {"ppo": None, "ppo/done": b"new", "ppo/notes": b"mine"}


@pytest.mark.parametrize(("made", "left"), [({"log": "new"}, b"old"), ({"log": "new", "done": "new"}, b"new")])
def test_a_kill_between_old_and_new_is_settled_by_the_next_process(tmp_path, made, left):
    make(tmp_path / "ppo", done="old")
    child = os.fork()
    if not child:
        kept = begin_anew(tmp_path / "ppo")
        kept.__enter__()
        make(tmp_path / "ppo", **made)
        os._exit(9)
    os.waitpid(child, 0)
    with artifacts.lock(tmp_path):
        artifacts.settle(tmp_path / "ppo", {"done", "log"}.__contains__, lambda run: (run / "done").exists())
    assert (tmp_path / "ppo" / "done").read_bytes() == left
    assert [path.name for path in tmp_path.iterdir()] == ["ppo"]


def test_the_lock_of_a_run_sweeps_away_no_only_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_exchange", lambda one, other: False)
    publish(tmp_path / "prepared")
    (tmp_path / "prepared").rename(tmp_path / ".prepared.4000000-0123abcd.old")
    with artifacts.lock(tmp_path):
        read(tmp_path / "prepared")


HOLD = """
import os, sys, time
from pathlib import Path
from detox.stage import artifacts
with artifacts.lock(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        print("locked", os.getpid(), flush=True)
        time.sleep(60)
    if "fork" not in sys.argv:
        print("locked", os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_a_second_process_is_refused_until_the_first_dies(tmp_path, mode):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run", mode], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        worker = int(holder.stdout.readline().split()[1])
        try:
            with pytest.raises(UserError, match=f"run is in use by process {holder.pid}; "):
                with artifacts.lock(tmp_path / "run"):
                    pytest.fail("locked twice")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    try:
        with artifacts.lock(tmp_path / "run"):
            assert (tmp_path / "run" / ".lock").read_text() == f"{os.getpid()}\n"
    finally:
        if worker != holder.pid:
            os.kill(worker, signal.SIGKILL)


def test_a_lock_leaves_nothing_of_its_own(tmp_path):
    with artifacts.lock(tmp_path / "checkpoints" / "run"):
        pass
    assert tree(tmp_path) == {}
    with artifacts.lock(tmp_path / "checkpoints" / "run"):
        publish(tmp_path / "checkpoints" / "run" / "prepared")
    assert [path.name for path in (tmp_path / "checkpoints" / "run").iterdir()] == ["prepared"]


def test_a_lock_keeps_a_folder_that_was_there(tmp_path):
    with artifacts.lock(tmp_path):
        pass
    assert tmp_path.is_dir()


@pytest.mark.parametrize("path", ["file", "file/run", "file/run/deeper"])
def test_a_file_in_the_way_is_named(tmp_path, path):
    (tmp_path / "file").write_text("")
    for action in (
        artifacts.lock(tmp_path / path),
        artifacts.publish(tmp_path / path / "ppo", stage="s", settings=SETTINGS),
    ):
        with pytest.raises(UserError, match="file"):
            with action:
                pytest.fail("made")
    assert list(tree(tmp_path)) == ["file"]


def test_leftovers_of_dead_processes_go_and_drafts_of_living_ones_stay(tmp_path):
    dead = tmp_path / ".step-0010.4000000-0123abcd.tmp"
    dead.mkdir()
    (dead / "half").write_text("half")
    (tmp_path / ".state.json.4000000-0123abcd.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("not ours to remove")
    with artifacts.publish(tmp_path / "alive", stage="data_preparation", settings=SETTINGS) as draft:
        publish(tmp_path / "prepared")
        assert draft.path.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "alive", "prepared"]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
sys.path.insert(0, "tests")
from tests.stage.test_artifacts import SETTINGS, artifacts
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
folder, way = Path(sys.argv[1]), sys.argv[2]
try:
    if way == "file":
        artifacts.write_atomic(folder / "prepared", bytes(200_000))
    target = folder / "prepared"
    with artifacts.publish(target, stage="data_preparation", settings=SETTINGS, overwrite=True) as draft:
        if way == "weights":
            save_file({"weights": np.zeros(200_000, np.uint8)}, draft.path / "weights.safetensors")
        (draft.path / "data").write_bytes(bytes(200_000))
except artifacts.UserError as error:
    print(error)
"""


@pytest.mark.parametrize("way", ["bytes", "weights", "file"])
def test_a_disk_that_takes_no_more(artefact, way):
    if way == "file":
        shutil.rmtree(artefact)
        artifacts.write_atomic(artefact, "old")
    before = tree(artefact.parent)
    done = run_python(LIMITED, artefact.parent, way)
    assert done.stdout == f"{artefact}: File too large; raise the limit on file sizes (ulimit -f)\n", done.stderr
    assert tree(artefact.parent) == before


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, ""), "here: No space left on device; free some space"),
        (
            OSError(errno.EROFS, "", "there"),
            "there: Read-only file system; choose a folder that can be written",
        ),
        (OSError(errno.EACCES, "", b"there"), "there: Permission denied; check its permissions"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "here: No space left on device; free some space",
        ),
        (RuntimeError("No such file or directory (os error 2)"), None),
        (FileNotFoundError(errno.ENOENT, "", "there"), None),
        (ValueError("wrong"), None),
    ],
)
def test_storage_errors(error, line):
    told = artifacts.storage_error(error, "here")
    assert line == (told and str(told))


def test_storage_error_finds_the_cause():
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "", "there")
    assert str(artifacts.storage_error(error, "here")) == "there: No space left on device; free some space"


def test_a_read_only_target_is_told(tmp_path, monkeypatch):
    def read_only(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(
        UserError, match=f"^{tmp_path}/run: Read-only file system; choose a folder that can be written$"
    ):
        with artifacts.lock(tmp_path / "run"):
            pytest.fail("locked")


def test_write_atomic(tmp_path):
    artifacts.write_atomic(tmp_path / "file", "é\n")
    assert (tmp_path / "file").read_bytes() == "é\n".encode()
    artifacts.write_atomic(tmp_path / "file", b"\xff")
    assert tree(tmp_path) == {"file": b"\xff"}


def test_sha256_of_more_than_one_piece(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert artifacts.sha256(tmp_path / "file") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_git_rev_is_the_program_s_own_or_null(tmp_path):
    program = tmp_path / "project" / "program"
    (program / "detox" / "stage").mkdir(parents=True)
    for name in ("config.py", "detox/__init__.py", "detox/stage/errors.py", "detox/stage/artifacts.py"):
        shutil.copy(ROOT / name, program / name)

    def git(folder, *arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def git_rev(**options):
        done = run_python("from detox.stage import artifacts; print(artifacts.git_rev())", cwd=program, **options)
        assert done.stderr == ""
        return done.stdout.strip()

    assert git_rev() == "None"
    git(tmp_path / "project", "init", "-q")
    git(tmp_path / "project", "commit", "-q", "--allow-empty", "-m", "another project's")
    assert git_rev() == "None"
    git(program, "init", "-q")
    assert git_rev() == "None"
    git(program, "commit", "-q", "--allow-empty", "-m", "ours")
    assert git_rev() == git(program, "rev-parse", "HEAD")
    assert git_rev(env={"PATH": ""}) == "None"
