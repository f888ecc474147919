"""Frozen weights spread over the processes: a model that one device can't hold (FSDP, per transformer block)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from detox.model import devices
from detox.stage.errors import UserError
from detox.stage.parallel import Processes

_MOST = 0.5
"""Share of the free memory that weights gathered for a rollout may take; its caches need the rest."""


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
        # Said, because FSDP's default keeps the weights of a block that lies in no other sharded module.
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)


def is_sharded(model: nn.Module) -> bool:
    """Return whether a part of the model's weights lies with other processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextlib.contextmanager
def gathered(model: nn.Module, device: torch.device) -> Iterator[bool]:
    """Keep the sharded blocks of a model here in full while the context lasts, as many as fit; others run as before.

    For a model that runs many times in a row, such as a decoder that samples token by token. All processes call this
    together, and keep as many as fits the one with the least free memory.

    Yields:
        Whether all of them are here, so that no step needs the other processes.
    """
    blocks = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not blocks:
        yield True
        return
    room = _MOST * devices.free_memory(device)
    fit = torch.tensor(sum(total <= room for total in accumulate(map(_bytes, blocks))), device=device)
    distributed.all_reduce(fit, distributed.ReduceOp.MIN)
    kept = blocks[: int(fit)]
    try:
        for block in kept:
            block.set_reshard_after_forward(False)
            block.unshard()
        yield len(kept) == len(blocks)
    finally:
        for block in kept:
            block.set_reshard_after_forward(True)
            block.reshard()


def _bytes(block: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in block.parameters() if isinstance(one, DTensor))
