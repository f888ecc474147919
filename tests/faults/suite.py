"""The faults: each row tries one kind of accident and counts what was whole and what was lost."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from detox.stage.interrupt import ANSWER
from tests import tiny
from tests.faults import disk, world
from tests.faults.world import STAGES, UPDATES, Outcome, World

RUN = Path("checkpoints/r")
LAST = RUN / "ppo" / f"step-{UPDATES:04d}"
READERS = {
    RUN / "prepared": "training_lora",
    RUN / "lora": "training_ppo",
    LAST: "training_ppo",
    RUN / "evaluation" / f"step-{UPDATES:04d}": "evaluate_ppo",
}


@dataclass
class Row:
    """One fault.

    Attributes:
        fault: what was done.
        tried: how often.
        whole: after how many tries every artefact on disk was whole, and the stage ended as it should.
        problems: what was lost or not as it should be.
        message: what the user read, once.
    """

    fault: str
    tried: int = 0
    whole: int = 0
    problems: list[str] = field(default_factory=list)
    message: str = ""

    @property
    def lost(self) -> int:
        return len(self.problems)

    def count(self, *problems: str, message: str = "") -> None:
        """Count one try; a problem that is an empty string is none."""
        found = [problem for problem in problems if problem]
        self.tried += 1
        self.whole += not found
        self.problems += found
        self.message = self.message or re.sub(r"/\S*/trials/\d+/", "", message.strip().partition("\n")[0])


def unless(holds: bool, problem: str) -> str:
    return "" if holds else problem


def told(outcome: Outcome) -> str:
    """Ask for exit code 2 and one line."""
    return unless(outcome.told, f"exit {outcome.code}, stderr {outcome.err!r}")


def intact(place: Path) -> str:
    return "; ".join(world.damaged(place))


def goes_on(the: World, place: Path, stage: str) -> str:
    """Run the stage to its end: it must leave what a run without accident leaves, and nothing else."""
    replaces = stage in STAGES[:2] and not missing(place, stage)  # these two refuse what is there
    outcome = world.run(place, stage, *["--overwrite"] * replaces)
    if outcome.code:
        return f"{stage} does not go on: {outcome.err!r}"
    same = world.results(place, stage) == the.results[stage]
    rest = world.leftovers(place)
    return unless(same, f"{stage}: other results") or unless(not rest, f"left behind: {rest}")


def untouched(before: dict[str, str], place: Path) -> str:
    after = world.tree(place)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return unless(not changed, f"changed: {changed[:3]}")


def refused(row: Row, place: Path, stage: str, *flags: str, sabotage: tuple | None = None, names: str = "") -> None:
    """Count a try in which the stage must say in one line what is wrong, and change nothing."""
    before = world.tree(place)
    outcome = world.run(place, stage, *flags, sabotage=sabotage)
    named = unless(names in outcome.err, f"does not name {names!r}: {outcome.err!r}")
    row.count(told(outcome), named, untouched(before, place), message=outcome.err)


# ------------------------------------------------------------------------------------------------------- killed


def killed(the: World, stage: str, tries: int, number: int = signal.SIGKILL, replace: bool = False) -> Row:
    """Stop a stage at random moments, again and again; then let it go on to its end."""
    kind = signal.Signals(number).name
    row = Row(f"{kind} in {stage}{' --overwrite' if replace else ''}")
    draw = random.Random(f"{kind} {stage} {replace}")
    flags = ("--overwrite",) if replace else ()
    start = "done" if replace else f"before-{stage}"
    place = the.copy(start)
    for _ in range(20 * tries):
        if row.tried == tries:
            break
        kept = _checkpoints(place)
        after = draw.uniform(0.02, 1.0) * the.seconds[stage]
        outcome = world.run(place, stage, *flags, stop_after=after, stop_signal=number)
        done = stage in STAGES[:2] and not replace and not missing(place, stage) and not intact(place)
        if outcome.code == 0 or done:  # it was faster, or had no work left
            shutil.rmtree(place)
            place = the.copy(start)
            continue
        code = -9 if number == signal.SIGKILL else 128 + number
        back = not replace and _checkpoints(place)[-1:] < kept[-1:]
        there = not replace or stage == "training_ppo" or not missing(place, stage)
        lines = outcome.err.strip().splitlines()
        answered = lines[:1] == [ANSWER]  # at once, if an update was under way
        row.count(
            intact(place),
            unless(outcome.code == code, f"exit {outcome.code}: {outcome.err!r}"),
            unless(number == signal.SIGKILL or len(lines) == 1 + answered, f"stderr {outcome.err!r}"),
            unless(not back, f"the newest checkpoint is gone: {kept[-1:]}"),
            unless(there, f"{stage}: the old artefact is gone"),
            message=lines[-1] if lines else "(killed)",
        )
    row.problems += filter(None, [goes_on(the, place, stage)])
    return row


def missing(place: Path, stage: str) -> bool:
    return not any(found == stage for _, found in world.artefacts(place))


def _checkpoints(place: Path) -> list[str]:
    return sorted(path.name for path in (place / RUN / "ppo").glob("step-*"))


# --------------------------------------------------------------------------------------------------------- disk


def full_disk(the: World, stage: str, every: int) -> Row:
    """Let the disk be full from the n-th file, folder or renaming on, for every n (or each `every`-th)."""
    row = Row(f"disk full at each write of {stage}")
    tally = the.root / "tally"
    tally.write_text("")
    place = the.copy(f"before-{stage}")
    assert world.run(place, stage, sabotage=("count_writes", str(tally))).code == 0
    attempts = len(tally.read_text())
    for number in range(1, attempts + 1, every):
        place = the.copy(f"before-{stage}")
        outcome = world.run(place, stage, sabotage=("disk_fails", errno.ENOSPC, number))
        last = goes_on(the, place, stage) if number % (5 * every) == 1 or number + every > attempts else ""
        row.count(told(outcome), intact(place), last, message=outcome.err)
        shutil.rmtree(place)
    return row


def small_disk(the: World, stage: str, tries: int) -> Row:
    """Run a stage on disks from too small for its first file to nearly large enough for its result.

    The disk is a real one where the system lets a process mount it; else writes fail by decree, as in `full_disk`.
    """
    row = Row(f"small disk ({'tmpfs' if disk.possible() else 'simulated: mounting is not allowed here'}) in {stage}")
    following = STAGES[STAGES.index(stage) + 1 :]
    after = the.root / next((f"before-{name}" for name in following if name in the.seconds), "done")
    taken, whole = (disk.used(place / "checkpoints") for place in (the.root / f"before-{stage}", after))
    for number in range(tries):
        place, share = the.copy(f"before-{stage}"), number / tries
        if disk.possible():
            size = int(taken + share * (whole - taken)) // disk.PAGE * disk.PAGE
            outcome = world.run(place, stage, disk=max(size, disk.PAGE))
        else:
            outcome = world.run(place, stage, sabotage=("disk_fails", errno.ENOSPC, 1 + 2 * number))
        row.count(told(outcome), intact(place), goes_on(the, place, stage), message=outcome.err)
        shutil.rmtree(place)
    return row


def file_limit(the: World, stage: str, every: int) -> Row:
    """Let writing fail inside libraries too: no file may be as large as one that the stage writes."""
    row = Row(f"file-size limit in {stage}")
    folders = [path for path, found in world.artefacts(the.root / "done") if found == stage]
    sizes = {path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}
    for size in sorted(size for size in sizes if size > 1000)[::every]:
        place = the.copy(f"before-{stage}")
        outcome = world.run(place, stage, sabotage=("limit_files", size - 1))
        row.count(told(outcome), intact(place), goes_on(the, place, stage), message=outcome.err)
        shutil.rmtree(place)
    return row


def read_only(the: World, stages: tuple[str, ...]) -> Row:
    row = Row("read-only target")
    for stage in stages:
        refused(row, the.copy(f"before-{stage}"), stage, sabotage=("disk_fails", errno.EROFS), names="Read-only")
    return row


def export(the: World, every: int, kills: int) -> Row:
    """Let an export meet a full disk at each `every`-th of its writes, and SIGKILL at random moments."""
    row = Row("disk full or SIGKILL in evaluate_ppo --export")
    flags, tally, draw = ("--export", "exported"), the.root / "tally", random.Random(0)
    tally.write_text("")
    first = the.copy("done")
    outcome = world.run(first, "evaluate_ppo", *flags, sabotage=("count_writes", str(tally)))
    assert outcome.code == 0, outcome.err
    wanted = world.tree(first / "exported")
    accidents: list[dict] = [{"stop_after": draw.uniform(0.1, 1.0) * outcome.seconds} for _ in range(kills)]
    for number in range(1, len(tally.read_text()) + 1, every):
        accidents.append({"sabotage": ("disk_fails", errno.ENOSPC, number)})
    for accident in accidents:
        place = the.copy("done")
        outcome = world.run(place, "evaluate_ppo", *flags, **accident)
        ended = told(outcome) if "sabotage" in accident else unless(outcome.code in (-9, 0), f"exit {outcome.code}")
        if not (place / "exported").exists():
            world.run(place, "evaluate_ppo", *flags)
        found, rest = world.tree(place / "exported"), [path.name for path in place.glob(".exported*")]
        same = all(found.get(name) == wanted[name] for name in wanted if name != "manifest.json")
        row.count(
            ended,
            intact(place),
            unless(same, f"another model: {outcome.err!r}"),
            unless(not rest, f"left behind: {rest}"),
            message=outcome.err,
        )
        shutil.rmtree(place)
    return row


# ----------------------------------------------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def lose(path: Path) -> None:
    path.unlink()


DAMAGES = (truncate, flip_a_bit, lose)


def damage(the: World, folder: Path, way: Callable[[Path], None], every: int) -> Row:
    """Damage each file of an artefact in turn and run the stage that reads it."""
    kind = {truncate: "truncated", flip_a_bit: "bit flipped", lose: "missing"}[way]
    row = Row(f"{kind}: each file of {folder.relative_to(RUN)}")
    stage = READERS[folder]
    place = the.copy("done")
    if stage == "training_lora":
        shutil.rmtree(place / RUN / "lora")
    files = sorted(path.relative_to(place) for path in (place / folder).rglob("*") if path.is_file())
    for number, name in enumerate(files):
        if number % every == 0:
            path = place / name
            content = path.read_bytes()
            way(path)
            refused(row, place, stage, names=str(folder))
            path.write_bytes(content)
    return row


def damaged_models(the: World) -> Row:
    """Truncate or remove the files of a model that no manifest guards."""
    row = Row("truncated or missing: files of the base and the reward model")
    place = the.copy("before-training_ppo")
    for model, names in {
        "t5": ("config.json", "model.safetensors", "tokenizer.json"),
        "reward": ("config.json", "model.safetensors", "vocab.json"),
    }.items():
        for name in names:
            for way in (truncate, lose):
                path = place / model / name
                content = path.read_bytes()
                way(path)
                refused(row, place, "training_ppo", names=model)
                path.write_bytes(content)
    return row


def damaged_newest(the: World, tries: int) -> Row:
    """Damage the newest checkpoint, remove it as the message says, and go on from the one before."""
    row = Row("damaged newest checkpoint, removed as told")
    draw = random.Random(0)
    for _ in range(tries):
        place = the.copy("done")
        path = draw.choice(sorted(path for path in (place / LAST).rglob("*") if path.is_file()))
        draw.choice([truncate, flip_a_bit, lose])(path)
        outcome = world.run(place, "training_ppo")
        advice = f"move the folder {LAST} away, and training_ppo.py goes on from {_checkpoints(place)[-2]}"
        shutil.rmtree(place / LAST)
        row.count(
            told(outcome),
            unless(advice in outcome.err and "--overwrite" not in outcome.err, f"no advice: {outcome.err!r}"),
            goes_on(the, place, "training_ppo"),
            message=outcome.err,
        )
    return row


def torn_metrics(the: World, tries: int) -> Row:
    """Tear, spoil or lose metrics.jsonl, which grows between checkpoints, before a run goes on."""
    row = Row("metrics.jsonl torn, spoiled or missing")
    draw = random.Random(0)
    for number in range(tries):
        place = the.copy("done")
        shutil.rmtree(place / LAST)
        path = place / RUN / "ppo" / "metrics.jsonl"
        content = path.read_bytes()
        cut = draw.randrange(len(content))
        if number % 3 == 0:
            path.write_bytes(content[:cut])
        elif number % 3 == 1:
            path.write_bytes(content[:cut] + b"\0\xff\n" + content[cut + 3 :])
        else:
            path.unlink()
        row.count(goes_on(the, place, "training_ppo"), message="goes on, nothing missing")
    return row


# ----------------------------------------------------------------------------------------------------- others'


def _other_weights(place: Path) -> tuple[str, ...]:
    path = place / "t5" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    return "t5", "other weights"


def _other_reward(place: Path) -> tuple[str, ...]:
    shutil.rmtree(place / "reward")
    tiny.classifier(place / "reward", seed=7)
    return "reward", "other weights"


def _other_size(place: Path) -> tuple[str, ...]:
    shutil.rmtree(place / "t5")
    tiny.t5(place / "t5", d_model=32, layers=2)
    return "t5", "other weights"


def _other_tokenizer(place: Path) -> tuple[str, ...]:
    path = place / "t5" / "tokenizer.json"
    path.write_text(path.read_text().replace("▁stupid", "▁silly"))
    shutil.rmtree(place / RUN / "ppo")
    return "prepared", "tokenizer"


def _newer_schema(place: Path) -> tuple[str, ...]:
    _edit_manifest(place / LAST, schema_version=2)
    return str(LAST), "schema_version 2"


def _other_stage(place: Path) -> tuple[str, ...]:
    _edit_manifest(place / LAST, stage="training_lora")
    return str(LAST), "'training_lora'"


def _changed_manifest(place: Path) -> tuple[str, ...]:
    manifest = json.loads((place / LAST / "manifest.json").read_text())
    manifest["config"]["ppo"]["gamma"] = 0.5
    _edit_manifest(place / LAST, config=manifest["config"])
    return str(LAST), "manifest.json has changed"


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def foreign(the: World) -> Row:
    row = Row("checkpoint of another model, tokenizer, schema or stage")
    ways = (_other_weights, _other_reward, _other_size, _other_tokenizer)
    for way in (*ways, _newer_schema, _other_stage, _changed_manifest):
        place = the.copy("done")
        for name in way(place):
            refused(row, place, "training_ppo", "--ppo.updates", str(UPDATES + 1), names=name)
    return row


# ------------------------------------------------------------------------------------------ numbers and memory


def not_finite(the: World) -> Row:
    """Give NaN or infinity once (the update is skipped, the run goes on) or for good (the run stops)."""
    row = Row("NaN or infinite rewards, losses and gradients")
    for way in ("rewards", "losses", "gradients"):
        for value in (float("nan"), float("inf")):
            first = 4 if way == "rewards" else 5  # calls 1 and 2 or so are those of the first updates
            place = the.copy("before-training_ppo")
            outcome = world.run(place, "training_ppo", sabotage=(way, value, first, first))
            lines = world.results(place, "training_ppo")["metrics"] if outcome.code == 0 else []
            skipped = sum("skipped" in line for line in lines)
            row.count(unless(skipped == 1, f"{way} {value}: {outcome.err!r}"), intact(place))
            place = the.copy("before-training_ppo")
            outcome = world.run(place, "training_ppo", "--ppo.updates", "9", sabotage=(way, value, first, 10**9))
            stopped = unless("3 updates in a row were skipped" in outcome.err, outcome.err)
            kept = unless(bool(_checkpoints(place)), "no checkpoint left")
            row.count(told(outcome), stopped, kept, intact(place), message=outcome.err)
    return row


def reward_raises(the: World) -> Row:
    row = Row("reward model that raises")
    for first in (1, 2, 4):  # in the warm-up, in the first update, later
        place = the.copy("before-training_ppo")
        outcome = world.run(place, "training_ppo", sabotage=("reward_raises", first))
        row.count(told(outcome), intact(place), goes_on(the, place, "training_ppo"), message=outcome.err)
    return row


def out_of_memory(the: World) -> Row:
    """Let half a batch fit (the run goes on, with less at once) or nothing (it stops)."""
    row = Row("out of memory in rollout, forward pass and update")
    for where in ("rollout", "forward", "update"):
        place = the.copy("before-training_ppo")
        outcome = world.run(place, "training_ppo", sabotage=("memory", where, 1))
        lines = world.results(place, "training_ppo")["metrics"] if outcome.code == 0 else []
        same = len(lines) == UPDATES and all(
            abs(line[key] - its[key]) < 1e-3
            for line, its in zip(lines, the.results["training_ppo"]["metrics"], strict=True)
            for key in ("objective/score_mean", "objective/ref_kl", "tokens/response_mean")
        )
        row.count(unless(same, f"{where}: {outcome.err!r}"), intact(place), message=outcome.err)
        place = the.copy("before-training_ppo")
        outcome = world.run(place, "training_ppo", sabotage=("memory", where, 0))
        row.count(
            unless(outcome.code == 2 and "\nerror: out of memory" in f"\n{outcome.err}", outcome.err),
            intact(place),
        )
    return row


def collapse(the: World) -> Row:
    row = Row("collapse: empty or identical summaries, KL past its limit")
    for sabotage, flags, names in (
        (("summaries", "", 4), (), "all 4 summaries are empty"),
        (("summaries", "the same", 4), (), "all 4 summaries are the same"),
        (None, ("--ppo.max-ref-kl", "0.1"), "past --ppo.max-ref-kl=0.1"),
    ):
        place = the.copy("before-training_ppo")
        outcome = world.run(place, "training_ppo", *flags, sabotage=sabotage)
        kept = unless(bool(_checkpoints(place)), "no checkpoint left")
        found = unless(names in outcome.err, outcome.err)
        row.count(told(outcome), found, kept, intact(place), message=outcome.err)
        place = the.copy("before-training_ppo")
        outcome = world.run(place, "training_ppo", *flags, "--ppo.on-collapse", "warn", sabotage=sabotage)
        row.count(unless(outcome.code == 0 and names in outcome.out, outcome.err), intact(place))
    return row


def again(the: World) -> Row:
    """Run each stage twice with one seed and once with another."""
    row = Row("same seed, same bits; another seed, others")
    for stage in STAGES:
        place = the.copy(f"before-{stage}")
        row.count(goes_on(the, place, stage))
        if stage != "data_preparation":  # its result does not depend on the seed, but for the embedded corpus
            place = the.copy(f"before-{stage}")
            outcome = world.run(place, stage, "--seed", "1")
            row.count(
                unless(outcome.code == 0, outcome.err)
                or unless(world.results(place, stage) != the.results[stage], f"{stage}: seed without effect")
            )
    return row


# ------------------------------------------------------------------------------------------------------- suites


def full() -> list[partial]:
    """Return all faults."""
    tries = []
    for stage in STAGES:
        tries += [partial(killed, stage=stage, tries=8), partial(killed, stage=stage, tries=4, replace=True)]
        tries += [partial(killed, stage=stage, tries=3, number=signal.SIGTERM)]
        tries += [partial(killed, stage=stage, tries=2, number=signal.SIGINT)]
    for stage in STAGES:
        tries += [partial(full_disk, stage=stage, every=1), partial(small_disk, stage=stage, tries=6)]
        tries += [partial(file_limit, stage=stage, every=1)]
    tries += [partial(export, every=1, kills=4), partial(read_only, stages=STAGES)]
    tries += [partial(damage, folder=folder, way=way, every=1) for folder in READERS for way in DAMAGES]
    tries += [partial(damaged_models), partial(damaged_newest, tries=6), partial(torn_metrics, tries=6)]
    tries += [partial(row) for row in (foreign, not_finite, reward_raises, out_of_memory, collapse, again)]
    return tries


def short() -> list[partial]:
    """Return a few tries of some faults, without the evaluation, in seconds."""
    first, lora, ppo = STAGES[:3]
    return [
        partial(killed, stage=first, tries=2),
        partial(killed, stage=ppo, tries=2),
        partial(killed, stage=ppo, tries=2, number=signal.SIGINT),
        partial(full_disk, stage=first, every=9),
        partial(full_disk, stage=lora, every=12),
        partial(small_disk, stage=first, tries=2),
        partial(file_limit, stage=lora, every=2),
        partial(read_only, stages=(first, ppo)),
        partial(damage, folder=RUN / "prepared", way=flip_a_bit, every=6),
        partial(damage, folder=RUN / "lora", way=truncate, every=2),
        partial(damage, folder=LAST, way=flip_a_bit, every=3),
        partial(damaged_newest, tries=1),
    ]


def table(rows: list[Row]) -> str:
    """Lay out rows as a Markdown table."""
    lines = ["| fault | tried | whole | lost | message |", "|---|---:|---:|---:|---|"]
    for row in rows:
        message = row.message.replace("|", "\\|")
        lines.append(f"| {row.fault} | {row.tried} | {row.whole} | {row.lost} | {message} |")
    tried, whole, lost = (sum(getattr(row, name) for row in rows) for name in ("tried", "whole", "lost"))
    return "\n".join([*lines, f"| **all** | **{tried}** | **{whole}** | **{lost}** | |"])
