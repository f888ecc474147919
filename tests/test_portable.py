"""The demo without what Windows lacks: modules of POSIX, `fork`, `poll`, SIGKILL, renaming over files, open folders.

Nothing of this project may ask for these; libraries may, which bring other ways for Windows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_POSIX = """
import builtins, ctypes, os, select, signal, sys
sys.path.insert(0, ROOT)
OWN = ("config", "detox", "data_preparation", "training_lora", "training_ppo", "evaluate_ppo", "__main__")
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "crypt"}
really_import, really_open, really_rename, library = builtins.__import__, os.open, os.rename, ctypes.CDLL


def import_(name, globals=None, locals=None, fromlist=(), level=0):
    caller = (globals or {}).get("__name__", "").partition(".")[0]
    if name.partition(".")[0] in POSIX and caller in OWN:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return really_import(name, globals, locals, fromlist, level)


def open_(path, flags, *rest, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return really_open(path, flags, *rest, **options)


def rename(source, target, **options):
    if os.path.lexists(target):
        raise FileExistsError(17, "File exists", os.fspath(source))
    return really_rename(source, target, **options)


def load(name, *rest, **options):
    # the allocator itself asks for Linux before it does
    if name is None and sys._getframe(1).f_globals["__name__"] != "detox.model.allocator":
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return library(name, *rest, **options)


import multiprocessing.context, shutil, subprocess  # what uses the rest where it is there
import accelerate, datasets, evaluate, huggingface_hub, matplotlib.pyplot, peft, torch, trl
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, Seq2SeqTrainer
shutil._use_fd_functions = False
builtins.__import__, os.open, os.rename, ctypes.CDLL = import_, open_, rename, load
os.process_cpu_count = os.cpu_count  # as where it has no affinity to ask
for module, names in (
    (os, "fork register_at_fork getuid geteuid getpgid killpg sched_getaffinity"),
    (select, "poll epoll"),
    (signal, "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGCHLD pthread_sigmask"),
):
    for name in names.split():
        delattr(module, name) if hasattr(module, name) else None

import config, data_preparation, training_ppo, evaluate_ppo
from detox.stage import cli

for kind, stage, flags in (
    (config.Preparation, data_preparation, "--data.max-examples 12"),
    (
        config.PPOTraining,
        training_ppo,
        "--ppo.updates 1 --ppo.batch-size 4 --ppo.minibatch-size 4 --ppo.value-warmup 0 --save.every 1 --save.keep 1",
    ),
    (config.EvaluationStage, evaluate_ppo, "--evaluation.examples 2 --evaluation.samples 1 --evaluation.best-of 0"),
):
    for again in ([], ["--overwrite"]):
        words = ["--preset", "demo", *flags.split(), *again]
        assert cli.run(kind, stage.main, words) == 0, (stage.__name__, again)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("windows")
    script = WITHOUT_POSIX.replace("ROOT", repr(str(ROOT)))
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return place, done


def test_every_stage_runs_and_replaces_what_it_wrote(finished):
    place, done = finished
    run = place / "checkpoints" / "demo"
    assert (run / "evaluation" / "step-0001" / "report.html").exists()
    assert [path.name for path in sorted((run / "ppo").glob("step-*"))] == ["step-0001"]
    assert "Mean toxicity" in done.stdout


def test_no_lock_or_draft_is_left(finished):
    place, _ = finished
    assert not [path for path in place.rglob(".*")]
