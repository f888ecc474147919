"""Stages one after the other in each of the processes that a launcher starts, so that a test starts them once.

python -m torch.distributed.run --nproc-per-node 2 -m tests.launched '["data_preparation", "--run", "r"]' ...
"""

from __future__ import annotations

import importlib
import json
import sys

import config
from detox.stage import cli

SETTINGS = {
    "data_preparation": config.Preparation,
    "training_lora": config.LoraTraining,
    "evaluate_ppo": config.EvaluationStage,
}


def main(commands: list[list[str]]) -> int:
    """Run the stages, each with its flags; print the exit codes of this process as the last line."""
    codes = [cli.run(SETTINGS[stage], importlib.import_module(stage).main, flags) for stage, *flags in commands]
    print(f"exit codes {codes}", flush=True, file=sys.__stdout__)
    return 0


if __name__ == "__main__":
    sys.exit(main([json.loads(command) for command in sys.argv[1:]]))
