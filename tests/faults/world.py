"""A folder with tiny models in which the four stages run as child processes, whole, killed or sabotaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import pkgutil
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detox
from tests.faults import disk as small_disk

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = """
    config data_preparation training_lora training_ppo evaluate_ppo
    matplotlib.backends.backend_agg matplotlib.figure peft safetensors.torch
    transformers.models.roberta transformers.models.t5 transformers.trainer_seq2seq
    tests.faults.disk tests.faults.sabotage tests.faults.world
"""
STAGES = ("data_preparation", "training_lora", "training_ppo", "evaluate_ppo")
UPDATES = 4
FLAGS = {
    "data_preparation": "--model.base t5 --data.dataset dialogues",
    "training_lora": "--model.base t5 --device cpu --lora.max-steps 3 --lora.batch-size 4 --lora.r 2",
    "training_ppo": (
        "--model.base t5 --reward.model reward --rollout.max-new-tokens 6 --dtype float32 --device cpu "
        "--ppo.batch-size 4 --ppo.minibatch-size 2 --ppo.ppo-epochs 1 --ppo.lora-r 2 "
        "--ppo.advantages gae --ppo.value-warmup 4 "
        f"--ppo.learning-rate 1e-2 --ppo.kl-control adaptive --save.every 1 --save.keep 2 --ppo.updates {UPDATES}"
    ),
    "evaluate_ppo": (
        "--toxicity.model reward --judge.model judge --judge.label toxic --dtype float32 --device cpu "
        "--evaluation.examples 4 --evaluation.samples 1 --evaluation.max-new-tokens 5 --evaluation.resamples 100 "
        "--evaluation.best-of 0"
    ),
}
VOLATILE = ("time/", "memory/")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: exit code (-9 = killed by SIGKILL), what it wrote, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def told(self) -> bool:
        """Whether it ended with one line for its user, and no more."""
        lines = self.err.strip().splitlines()
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def make(root: Path) -> Path:
    """Write tiny models and dialogues; a reward model and a judge with labels of their own."""
    from tests import tiny

    tiny.t5(root / "t5", d_model=16, layers=1)
    tiny.classifier(root / "reward")
    tiny.classifier(root / "judge", ("fine", "toxic"), seed=1)
    tiny.dialogsum(root / "dialogues", train=12, validation=4, test=4)
    return root


def run(
    place: Path,
    stage: str,
    *more: str,
    sabotage: tuple[Any, ...] | None = None,
    stop_after: float | None = None,
    stop_signal: int = signal.SIGKILL,
    disk: int | None = None,
) -> Outcome:
    """Run a stage in a child process.

    Args:
        place: working folder.
        stage: name of the script.
        more: flags; they replace those of `FLAGS`.
        sabotage: name of a function of `tests.faults.sabotage` and its arguments.
        stop_after: seconds until it gets `stop_signal`.
        stop_signal: SIGKILL, SIGTERM or SIGINT.
        disk: bytes of the disk on which the checkpoints are, where `disk.possible()`.
    """
    context = _context()
    said = [place.parent / f"{place.name}.{kind}" for kind in ("out", "err")]
    process = context.Process(target=_child, args=(str(place), stage, _argv(stage, more), sabotage, said, disk))
    started = time.monotonic()
    process.start()
    if stop_after is not None:
        process.join(stop_after)
        if process.is_alive():
            os.kill(process.pid, stop_signal)
    process.join()
    if disk is not None:
        shutil.rmtree(place / "checkpoints")
        small_disk.kept(place / "checkpoints").rename(place / "checkpoints")
    out, err = (path.read_text(errors="replace") if path.exists() else "" for path in said)
    for path in said:
        path.unlink(missing_ok=True)
    return Outcome(process.exitcode, out, err, time.monotonic() - started)


def _argv(stage: str, more: tuple[str, ...]) -> list[str]:
    flags = FLAGS[stage].split()
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    switches = [word for word in more if word in ("--overwrite",)]
    rest = [word for word in more if word not in switches]
    given |= dict(zip(rest[::2], rest[1::2], strict=True))
    return ["--run", "r", *(word for pair in given.items() for word in pair), *switches]


def _modules() -> list[str]:
    """Return the names of all that the stages may import of this program."""
    return [module.name for module in pkgutil.walk_packages(detox.__path__, "detox.") if "demo" not in module.name]


_CONTEXT: Any = None


def _context() -> Any:
    """Return the server whose children have all modules loaded, and no thread that a fork would lose."""
    global _CONTEXT
    if _CONTEXT is None:
        os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        before, path = os.getcwd(), os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)
        os.chdir(ROOT)
        try:
            _CONTEXT = multiprocessing.get_context("forkserver")
            _CONTEXT.set_forkserver_preload([*PRELOAD.split(), *_modules()])
            multiprocessing.forkserver.ensure_running()
        finally:
            os.chdir(before)
            os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
    return _CONTEXT


def _child(
    place: str, stage: str, argv: list[str], sabotage: tuple[Any, ...] | None, said: list[Path], disk: int | None
) -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started the suite in the background
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(place)
    for number, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import importlib

    import config
    from detox.stage import cli
    from tests.faults import sabotage as ways

    script = importlib.import_module(stage)
    kinds = (config.Preparation, config.LoraTraining, config.PPOTraining, config.EvaluationStage)
    sys.argv = [f"{stage}.py"]
    if stage == "training_ppo":
        ways.draw_quickly()
    if sabotage is not None:
        getattr(ways, sabotage[0])(*sabotage[1:])
    checkpoints = Path(place, "checkpoints")
    with contextlib.nullcontext() if disk is None else small_disk.small(checkpoints, disk):
        code = cli.run(dict(zip(STAGES, kinds, strict=True))[stage], script.main, argv)
    sys.exit(code)


# ------------------------------------------------------------------------------------------------ what is on disk


def artefacts(place: Path) -> list[tuple[Path, str]]:
    """Return the folders of a run that claim to be artefacts, each with its stage."""
    run = place / "checkpoints" / "r"
    single = [(run / "prepared", "data_preparation"), (run / "lora", "training_lora")]
    series = [(path, "training_ppo") for path in sorted((run / "ppo").glob("step-*"))]
    series += [(path, "evaluate_ppo") for path in sorted((run / "evaluation").glob("[!.]*")) if path.is_dir()]
    return [(path, stage) for path, stage in single + series if path.exists()]


def damaged(place: Path) -> list[str]:
    """Return what is wrong with the artefacts of a run."""
    from detox.stage import artifacts
    from detox.stage.errors import UserError

    problems = []
    for folder, stage in artefacts(place):
        try:
            artifacts.read_manifest(folder, stage)
        except UserError as error:
            problems.append(str(error))
    return problems


def leftovers(place: Path) -> list[str]:
    """Return what a finished stage should not leave: locks and temporary files."""
    return sorted(str(path.relative_to(place)) for path in (place / "checkpoints").rglob(".*"))


def tree(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, and of the folders' names."""
    return {
        str(path.relative_to(folder)): _sha256(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def results(place: Path, stage: str) -> dict[str, Any]:
    """Return what a stage's run must leave to the bit: all but times, memory and what follows from them."""
    run = place / "checkpoints" / "r"
    if stage == "training_ppo":
        lines = [json.loads(line) for line in (run / "ppo/metrics.jsonl").read_text().splitlines()]
        steady = [{key: line[key] for key in line if not key.startswith(VOLATILE)} for line in lines]
        last = run / "ppo" / f"step-{UPDATES:04d}"
        files = [*last.rglob("*.safetensors"), run / "ppo" / "training.png"]
        return {"metrics": steady} | {path.name: _sha256(path) for path in files if path.exists()}
    if stage == "evaluate_ppo":
        folder = run / "evaluation" / f"step-{UPDATES:04d}"
        return {name: _sha256(folder / name) for name in ("results.json", "examples.jsonl")}
    folder = run / {"data_preparation": "prepared", "training_lora": "lora"}[stage]
    return {name: digest for name, digest in tree(folder).items() if name != "manifest.json"}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class World:
    """Copies of one folder, as it is before each stage and after the last; the stages' results and durations."""

    def __init__(self, root: Path, stages: tuple[str, ...] = STAGES):
        self.root = root
        self.seconds: dict[str, float] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self._count = 0
        place = make(root / "start")
        run(place, stages[0], "--seed", "-1")  # starts the server
        for stage in stages:
            shutil.copytree(place, root / f"before-{stage}")
            outcome = run(place, stage)
            assert outcome.code == 0, f"{stage}: {outcome.err}"
            self.seconds[stage] = outcome.seconds
            self.results[stage] = results(place, stage)
        shutil.move(place, root / "done")

    def copy(self, which: str) -> Path:
        """Return a fresh copy: `before-<stage>` or `done`."""
        self._count += 1
        place = self.root / "trials" / str(self._count)
        shutil.copytree(self.root / which, place)
        return place
