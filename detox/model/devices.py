"""Devices: which one a stage takes, what one can do, and everything that is done otherwise on one than on another."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import psutil
import torch

from detox.stage import main_memory
from detox.stage.errors import UserError


def choose(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes the first of cuda, mps, cpu.

    Of several processes on a machine, each takes the CUDA device of its number.

    Raises:
        UserError: the device is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device={name}: no such device; choose auto, cpu, mps, cuda or cuda:N") from None
    count = torch.cuda.device_count() if cuda else 0
    there = ["cpu", *(["mps"] if mps else []), *(f"cuda:{index}" for index in range(count))]
    index = device.index or 0
    present = {"cpu": True, "mps": mps and index == 0, "cuda": index < count}.get(device.type, False)
    if not present:
        raise UserError(f"--device={name}: not on this machine; it has {', '.join(there)} (or leave it to auto)")
    return device


def take(name: str) -> torch.device:
    """Return the device called `name`, as `choose` does, and let libraries that choose for themselves take it too.

    Accelerate makes a state that all who use it in a process share, at the first call of any of them: TRL's value-head
    wrapper makes it, before a trainer could name a device.
    """
    device = choose(name)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if device.type == "cuda":
        torch.cuda.set_device(device if device.index is not None else 0)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights: `auto` is bfloat16 where the device computes in it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def name_of(device: torch.device) -> str:
    """Return what the device is, for people: the name of the card where it has one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


# ----------------------------------------------------------------------------------------------------- memory


def empty_cache(device: torch.device) -> None:
    """Give memory that torch's allocator holds but does not use back to the device; waits for the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def trim_cache(device: torch.device) -> None:
    """Empty the cache where it grows with every new shape; CUDA's allocator uses it again, and frees it at need."""
    if device.type == "mps":
        empty_cache(device)


def free_memory(device: torch.device) -> float:
    """Return the bytes that this process may still take on the device; an equal part each, where processes share it."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory used so far: of the accelerator, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    return main_memory.peak_mb()


# ------------------------------------------------------------------------------------------------- how they differ


@dataclass(frozen=True)
class Traits:
    """What the engines do otherwise on one kind of device than on another. Results differ by rounding alone.

    Attributes:
        wide_attention: attention, and LoRA on the few rows of a rollout, run in float32 whatever the weights' dtype.
        fused: the device's own kernels for norms, and for the attention of one query, are the faster ones.
        tall_head: fewer rows than these have the head's weight as the left factor of a product in float32.
        softmax_rows: rows of logits whose softmax is taken at once.
        slot_multiple: rows of a sequence are rounded up to it, so that more sequences share a call of a kernel.
        encode_rows: prompt tokens that the packed engine encodes at once.
        alike: prompts are decoded side by side if the longest has at most so many times the shortest's tokens.
        look_every: tokens between two looks at which responses have ended; each look waits for the device.
        crowded: ended responses leave the batch once the others are fewer than this share of it.
        ordered_scan: a cumulative sum never falls.
        pad_multiple: lengths of the Hugging Face engine are rounded up to it.
        compiles_shapes: the device compiles, and keeps, a kernel for each new shape.
    """

    wide_attention: bool = False
    fused: bool = True
    tall_head: int = 0
    softmax_rows: int = 192
    slot_multiple: int = 64
    encode_rows: int = 8192
    alike: float = math.inf
    look_every: int = 8
    crowded: float = 0.75
    ordered_scan: bool = False
    pad_multiple: int = 1
    compiles_shapes: bool = False


CPU = Traits(
    wide_attention=True,  # the fused kernel is no faster in bfloat16, and slower backwards
    fused=False,  # for one query the fused kernel repacks all keys, and the norm is a chain of kernels
    tall_head=16,  # up to twice as fast
    softmax_rows=32,  # the cache holds them
    slot_multiple=1,  # no padding: a call costs little, a row much
    encode_rows=1536,  # the cache holds a layer's activations
    alike=1.5,
    look_every=1,
    crowded=1.0,
    ordered_scan=True,  # one thread adds up a row, from left to right
)
CUDA = Traits()
MPS = Traits(pad_multiple=32, compiles_shapes=True)

BY_TYPE = {"cpu": CPU, "cuda": CUDA, "mps": MPS}
"""Traits by the device's type."""


def traits(device: torch.device) -> Traits:
    """Return how the engines run on a device; an unknown kind is taken for one like CUDA."""
    return BY_TYPE.get(device.type, CUDA)
