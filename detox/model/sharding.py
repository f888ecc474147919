"""Frozen weights spread over the processes: a model that one device can't hold (FSDP, per transformer block)."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from detox.stage.errors import UserError
from detox.stage.parallel import Processes


def shard(model: PreTrainedModel, processes: Processes) -> None:
    """Leave each process an equal part of every block's frozen weights, on its device.

    A block's weights are gathered when the block runs, forward or backward, and let go after it. What is trained,
    the embedding and the head stay whole in every process; the trainer sums the gradients itself.

    Args:
        model: the backbone, adapters included, on the CPU or on the device.
        processes: each of them calls this with the same model.

    Raises:
        UserError: the architecture does not say what its blocks are.
    """
    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise UserError(
            f"--model.base: {type(model).__name__} names no blocks to shard; launch with configs/multi.yaml, which "
            "gives each process the whole model"
        )
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for block in blocks:
        trained = {parameter for parameter in block.parameters() if parameter.requires_grad}
        fully_shard(block, mesh=mesh, ignored_params=trained)


def is_sharded(model: nn.Module) -> bool:
    """Return whether a part of the model's weights lies with other processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
