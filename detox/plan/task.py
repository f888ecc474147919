"""What is planned: a run as its settings, its models' sizes and its prompts tell, without weights."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from detox.model import devices
from detox.plan import memory, update_time
from detox.plan.machine import Machine
from detox.plan.model_sizes import ClassifierSizes, Sizes
from detox.plan.published import Shape, find_shape
from detox.scoring.classifier import label_index
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


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

    def plan_update(self, machine: Machine, processes: int, sharded: bool = False) -> update_time.Estimate:
        """Return what an update takes on several devices."""
        mean = round(statistics.fmean(self.lengths))
        return update_time.estimate(
            self.settings, self.summarizer, self.classifier, self.device, mean, machine, processes, sharded
        )


def read(settings: config.PPOTraining, run: Path, most_tokens: int) -> Task:
    """Return what there is to plan.

    The prompts are those of the run's prepared dialogues; before there are any, each counts as the longest that the
    preset lets through. A model out of reach counts as its published shape, where that is known.

    Raises:
        UserError: a model is not to be had, or the classifier has no such label.
    """
    device, is_here = planned_device(settings.device)
    notes = []
    if not is_here:
        settings = replace(settings, dtype="bfloat16" if settings.dtype == "auto" else settings.dtype)
        notes.append(f"{device}: not on this machine; planned for one like NVIDIA's A100")
    base = find_shape(settings.model.base, settings.model.revision)
    reward = find_shape(settings.reward.model, settings.reward.revision)
    label_index(settings.reward.model, reward.settings, settings.reward.label)
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
