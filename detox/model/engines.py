"""The choice between the engines, by name or by what runs a model best."""

from __future__ import annotations

from torch import nn

from detox.model.allocator import keep_few_kernels, keep_freed_memory
from detox.model.devices import traits
from detox.model.engine import Engine
from detox.model.hugging_face import HuggingFaceEngine
from detox.model.packed_t5 import PackedT5Engine
from detox.model.sharding import is_sharded
from detox.stage.errors import UserError


def make_engine(
    name: str, model: nn.Module, value_head: nn.Module | None = None, value_reads_detached: bool = True
) -> Engine:
    """Return the engine called `name` around `model`.

    Args:
        name: `hf`, `packed`, or `auto`: packed for the T5 family, but not where every new shape costs a kernel;
            there the Hugging Face engine's rounded lengths keep their number small.

    Raises:
        UserError: `packed` for a model that is not of the T5 family, or whose layers are unknown.
    """
    keep_freed_memory()
    keep_few_kernels()
    compiles, sharded = traits(next(model.parameters()).device).compiles_shapes, is_sharded(model)
    if name == "packed" and sharded:
        raise UserError("--engine=packed: reads weights in place, and these are sharded; leave it to auto, or use hf")
    if name == "packed" or (name == "auto" and not compiles and not sharded):
        if PackedT5Engine.supports(model):
            return PackedT5Engine(model, value_head, value_reads_detached)
        if name == "packed":
            raise UserError("--engine=packed: runs T5 models with plain or LoRA linear layers only; use --engine hf")
    return HuggingFaceEngine(model, value_head, value_reads_detached)
