"""What `--plan` prints: memory by part; for several devices also what they exchange and how long an update takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detox.model import devices
from detox.plan import memory, scaling
from detox.plan.sizes import ClassifierSizes, Shape, Sizes, find_shape
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


MB = 2**20


@dataclass(frozen=True)
class Task:
    """What is planned.

    Attributes:
        settings: of the stage.
        device: that it is planned for.
        is_here: this machine has the device.
        packed: the packed engine runs it, not that of Hugging Face.
        lengths: tokens of each prompt.
        notes: what was assumed so far, a line each.
    """

    settings: config.PPOTraining
    device: torch.device
    is_here: bool
    summarizer: Sizes
    classifier: ClassifierSizes
    packed: bool
    lengths: list[int]
    notes: tuple[str, ...]

    def own(self, processes: int) -> config.PPOTraining:
        """Return the settings of one of several processes."""
        return replace(self.settings, ppo=self.settings.ppo.share(processes))

    def plan_memory(self, processes: int = 1, sharded: bool = False) -> memory.Plan:
        """Return the memory of one of several processes; sharded weights run in Hugging Face's modules."""
        return memory.plan(
            self.own(processes),
            self.summarizer,
            self.classifier.weights,
            self.device,
            max(self.lengths),
            self.packed and not sharded,
            shards=processes if sharded else 1,
        )

    def largest_microbatch(self, processes: int = 1) -> int | None:
        """Return the largest microbatch of one of several processes that fits the budget, or None."""
        rest = (self.summarizer, self.classifier.weights, self.device, max(self.lengths), self.packed)
        return memory.largest_microbatch(self.own(processes), *rest)

    def plan_update(self, machine: scaling.Machine, processes: int, sharded: bool = False) -> scaling.Estimate:
        """Return what an update takes on several devices."""
        mean = round(statistics.fmean(self.lengths))
        return scaling.estimate(
            self.settings, self.summarizer, self.classifier, self.device, mean, machine, processes, sharded
        )


def report(settings: config.PPOTraining, run: Path, most_tokens: int) -> str:
    """Return the plan of a run as text.

    Raises:
        UserError: a model is not to be had.
    """
    task = read(settings, run, most_tokens)
    made = task.plan_memory(settings.plan_processes[0] if settings.plan_processes else 1)
    head = (
        f"{made.engine} engine on {task.device}, frozen weights in {str(made.dtype).removeprefix('torch.')}, "
        f"microbatches of {made.microbatch}, "
        f"prompts of {made.query_tokens} tokens, summaries of {made.new_tokens}"
    )
    parts = several_devices(task) if settings.plan_processes else one_device(task, made)
    return "\n".join([*task.notes, head, "", *parts])


def read(settings: config.PPOTraining, run: Path, most_tokens: int) -> Task:
    """Return what there is to plan.

    The prompts are those of the run's prepared dialogues; before there are any, each counts as the longest that the
    preset lets through. A model out of reach counts as its published shape, where that is known.

    Raises:
        UserError: a model is not to be had.
    """
    device, is_here = planned_device(settings.device)
    notes = []
    if not is_here:
        settings = replace(settings, dtype="bfloat16" if settings.dtype == "auto" else settings.dtype)
        notes.append(f"{device}: not on this machine; planned for one like NVIDIA's A100")
    base = find_shape(settings.model.base, settings.model.revision)
    reward = find_shape(settings.reward.model, settings.reward.revision)
    for name, shape in ((settings.model.base, base), (settings.reward.model, reward)):
        if shape.is_published:
            notes.append(f"{name}: not in reach; planned from its published shape")
    return Task(
        settings,
        device,
        is_here,
        Sizes.of(base.settings, settings.ppo, base.untied),
        ClassifierSizes.of(reward.settings),
        runs_packed(settings.engine, base, device),
        prompt_lengths(run, most_tokens),
        tuple(notes),
    )


def planned_device(name: str) -> tuple[torch.device, bool]:
    """Return the device called `name`, and whether it is here: plans are also made for a GPU that is not.

    Raises:
        UserError: there is no such device.
    """
    try:
        return devices.choose(name), True
    except UserError:
        if not name.startswith("cuda"):
            raise
        return torch.device("cuda"), False


def runs_packed(engine: str, shape: Shape, device: torch.device) -> bool:
    """Return whether training would take the packed engine."""
    by_itself = engine == "auto" and not devices.traits(device).compiles_shapes
    return shape.settings.model_type == "t5" and (engine == "packed" or by_itself)


def prompt_lengths(run: Path, most: int) -> list[int]:
    """Return the tokens of each training prompt, or the most that there may be while none are prepared."""
    from detox.data.prepared import load_prepared

    prepared = run / "prepared"
    if not prepared.exists():
        return [most]
    return [len(query_ids) for query_ids in load_prepared(prepared)["train"]["input_ids"]]


# --- one device ---


def one_device(task: Task, made: memory.Plan) -> list[str]:
    """Return a line for each part of the memory, and one that says which microbatch fits the budget."""
    lines = [f"{name:<30}{size / MB:>10,.1f} MB" for name, size in made.parts.items()]
    lines.append(f"{'peak (rollout or update)':<30}{made.peak / MB:>10,.1f} MB")
    if task.settings.plan_budget_gb is None:
        return lines
    budget, fits = f"{task.settings.plan_budget_gb:g} GB", task.largest_microbatch()
    advice = f"largest microbatch that fits {budget}: --ppo.microbatch-size {fits}"
    if fits is None:
        advice = (
            f"no microbatch fits {budget}: lower --ppo.batch-size or --rollout.max-new-tokens, or drop long "
            "prompts in data_preparation.py (--data.max-query-tokens)"
        )
    return [*lines, "", advice]


# --- several devices ---


def several_devices(task: Task) -> list[str]:
    """Return a table with a column for each number of devices, and what it assumes."""
    settings, counts = task.settings, task.settings.plan_processes
    whole = [task.plan_memory(count) for count in counts]
    sharded = [task.plan_memory(count, sharded=True) for count in counts]
    machine = scaling.find_machine(settings, task.device, task.is_here)  # takes memory, so after the plans
    alone = task.plan_update(machine, 1)
    updates = [task.plan_update(machine, count) for count in counts]
    spread = [task.plan_update(machine, count, sharded=True) for count in counts]
    lines = [
        _row("devices", counts),
        _row("prompts of each", [settings.ppo.batch_size // count for count in counts]),
        "",
        "memory of each, MB",
        *(_row(f"  {name}", [made.parts[name] / MB for made in whole]) for name in whole[0].parts),
        _row("  peak (rollout or update)", [made.peak / MB for made in whole]),
    ]
    if settings.plan_budget_gb is not None:
        fits = [task.largest_microbatch(count) or "none" for count in counts]
        lines.append(_row(f"  microbatch in {settings.plan_budget_gb:g} GB", fits))
    lines += ["", "an update, backbone whole on each", *_update_rows(updates, alone)]
    lines += [
        "",
        "an update, backbone sharded (configs/fsdp.yaml)",
        _row("  backbone of each, MB", [made.parts["backbone"] / MB for made in sharded]),
        _row("  peak of each, MB", [made.peak / MB for made in sharded]),
        *_update_rows(spread, alone),
    ]
    return lines + ["", *assumptions(task, machine)]


def _update_rows(updates: list[scaling.Estimate], alone: scaling.Estimate) -> list[str]:
    gathered = [update.gathered_bytes / MB for update in updates]
    return [
        _row("  computing, s", [update.compute for update in updates], 2),
        _row("  exchange, s", [update.exchange for update in updates], 2),
        _row("  gradients summed, MB", [update.gradient_bytes / MB for update in updates]),
        *([_row("  weights fetched, MB", gathered)] if any(gathered) else []),
        _row("  in all, s", [update.seconds for update in updates], 2),
        _row("  times as fast as one", [alone.seconds / update.seconds for update in updates], 2),
    ]


def _row(name: str, values: Iterable[float | int | str], digits: int = 0) -> str:
    cells = (f"{value:,.{digits}f}" if isinstance(value, (int, float)) else value for value in values)
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def assumptions(task: Task, machine: scaling.Machine) -> list[str]:
    """Return what the times stand on, a line each."""
    ppo, (compute, reading, link) = task.settings.ppo, machine.sources
    return [
        f"An update: {ppo.batch_size} prompts of {statistics.fmean(task.lengths):.0f} tokens on average, "
        f"{ppo.ppo_epochs} passes in minibatches of {ppo.minibatch_size}.",
        f"Each device keeps up {machine.gflops:,.0f} GFLOP a second ({compute}),",
        f"reads {machine.memory_rate:,.1f} GB of weights a second ({reading}),",
        f"and sends {machine.link_rate:,.2f} GB a second to another ({link}), {scaling.LATENCY * 1e6:.0f} us a step.",
        "Devices wait for no other's longer prompts, and nothing is exchanged while they compute.",
    ]
