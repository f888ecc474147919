"""Stages one after the other in a process with a simulated device, on the CPU in that device's own way, or as it is.

python -m tests.devices.stages cuda '["training_ppo", "--device", "cuda"]' ...
python -m tests.devices.stages cpu-as-cuda '["training_ppo", "--device", "cpu"]' ...
python -m tests.devices.stages as-it-is '["training_ppo", "--device", "cuda"]' ...
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import config
from detox.stage import cli
from tests import devices

SETTINGS: dict[str, Any] = {
    "training_lora": config.LoraTraining,
    "training_ppo": config.PPOTraining,
    "evaluate_ppo": config.EvaluationStage,
}


def act_like(kind: str) -> None:
    """Take every branch on the CPU that is taken on a device of `kind`; what is left is its arithmetic."""
    from torch.nn import functional as F

    from detox.model import devices as ours
    from tests.devices.python_side import attention_in_parts

    ours.BY_TYPE["cpu"] = ours.BY_TYPE[kind]
    F.scaled_dot_product_attention = attention_in_parts


def main(how: str, commands: list[list[str]]) -> None:
    """Run stages with their flags; print their exit codes as the last line."""
    if how.startswith("cpu-as-"):
        act_like(how.removeprefix("cpu-as-"))
    elif how != "as-it-is":
        devices.install(how)
    from accelerate.state import AcceleratorState

    codes = []
    for stage, *flags in commands:
        print(stage, *flags, flush=True)
        codes.append(cli.run(SETTINGS[stage], importlib.import_module(stage).main, flags))
        AcceleratorState._reset_state(reset_partial_state=True)  # else the next stage would find this one's device
    print(json.dumps(codes))
    devices.leave()


if __name__ == "__main__":
    main(sys.argv[1], [json.loads(command) for command in sys.argv[2:]])
