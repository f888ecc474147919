"""What `--plan` prints: memory by part; for several devices also what they exchange and how long an update takes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from detox.plan.machine import Machine, find_machine
from detox.plan.memory import GIB, GROWTH, Plan
from detox.plan.task import Task, read
from detox.plan.update_time import LATENCY, Estimate

if TYPE_CHECKING:
    import config


MB = 2**20


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


# --- one device ---


def one_device(task: Task, made: Plan) -> list[str]:
    """Return a line for each part of the memory, and one that says which microbatch fits the budget."""
    lines = [f"{name:<30}{size / MB:>10,.1f} MB" for name, size in made.parts.items()]
    lines.append(f"{'peak (rollout or update)':<30}{made.peak / MB:>10,.1f} MB")
    if made.dtype in GROWTH and task.device.type == "cpu":
        lines.append(f"a long run takes up to about {GROWTH[made.dtype]} more, as kernels are compiled for new shapes")
    if task.settings.plan_budget_gb is None:
        return lines
    budget, fits = f"{task.settings.plan_budget_gb:g} GB", task.largest_microbatch()
    advice = f"largest microbatch that fits {budget}: --ppo.microbatch-size {fits}"
    fixed = sum(size for name, size in made.parts.items() if not name.startswith(("activations", "logits")))
    if fixed > task.settings.plan_budget_gb * GIB:
        advice = f"nothing fits {budget}: models and libraries alone take {fixed / MB:,.1f} MB; take smaller models"
    elif fits is None:
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
    machine = find_machine(settings, task.device, task.is_here)  # takes memory, so after the plans
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
    lines += ["", "an update, base model whole on each", *_update_rows(updates, alone)]
    lines += [
        "",
        "an update, base model sharded (configs/fsdp.yaml), in Hugging Face's modules",
        _row("  base model of each, MB", [made.parts["base model"] / MB for made in sharded]),
        _row("  peak of each, MB", [made.peak / MB for made in sharded]),
        _row("  decoder whole as well, MB", [made.decoder / MB for made in sharded]),
        *_update_rows(spread, alone),
    ]
    return lines + ["", *assumptions(task, machine)]


def _update_rows(updates: list[Estimate], alone: Estimate) -> list[str]:
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


def assumptions(task: Task, machine: Machine) -> list[str]:
    """Return what the times stand on, a line each."""
    ppo, (compute, reading, link) = task.settings.ppo, machine.sources
    return [
        f"An update: {ppo.batch_size} prompts of {statistics.fmean(task.lengths):.0f} tokens on average, "
        f"{ppo.ppo_epochs} passes in minibatches of {ppo.minibatch_size}.",
        f"Each device keeps up {machine.gflops:,.0f} GFLOP a second ({compute}),",
        f"reads {machine.memory_rate:,.1f} GB of weights a second ({reading}),",
        f"and sends {machine.link_rate:,.2f} GB a second to another ({link}), {LATENCY * 1e6:.0f} us a step.",
        "Devices wait for no other's longer prompts, and nothing is exchanged while they compute.",
        "Sharded, each holds the whole decoder while it samples, where twice its memory is free; else it fetches what",
        "is missing for every token.",
    ]
