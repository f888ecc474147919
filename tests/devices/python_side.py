"""Torch's Python side, which asks for a device without an operator, made to believe in the simulated one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.devices.dispatch import TAG, DeviceTensor, Simulator

MB = 2**20


def patch(simulator: Simulator) -> None:
    """Replace what asks the driver; what is counted goes to the simulator's log."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    _fuse(simulator)
    (_patch_cuda if simulator.kind == "cuda" else _patch_mps)(simulator)


# ---------------------------------------------------------------------------------------------- fused kernels


@contextlib.contextmanager
def _fused(simulator: Simulator, name: str) -> Iterator[None]:
    """Count as one kernel what the CPU runs in parts."""
    simulator.log.launch(name)
    simulator.log.inside += 1
    try:
        yield
    finally:
        simulator.log.inside -= 1


def _fuse(simulator: Simulator) -> None:
    attention, rms_norm = F.scaled_dot_product_attention, F.rms_norm

    def scaled_dot_product_attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if type(query) is not DeviceTensor:
            return attention(query, key, value, attn_mask, *args, **kwargs)
        dtypes = {query.dtype, key.dtype, value.dtype}
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            dtypes.add(attn_mask.dtype)
        if len(dtypes) > 1:
            raise RuntimeError(f"attention of {', '.join(map(str, dtypes))} {TAG}")
        if simulator.kind == "cuda":
            _check_alignment(simulator, query, key, value, attn_mask)
        with _fused(simulator, "scaled_dot_product_attention"):
            return attention_in_parts(query, key, value, attn_mask, *args, **kwargs)

    def norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        one_dtype = weight is None or weight.dtype == x.dtype
        has_kernel = one_dtype and (simulator.kind == "cuda" or not torch.is_grad_enabled())
        if type(x) is not DeviceTensor or not has_kernel:
            return rms_norm(x, shape, weight, eps)
        with _fused(simulator, "rms_norm"):
            return rms_norm(x, shape, weight, eps)

    F.scaled_dot_product_attention, F.rms_norm = scaled_dot_product_attention, norm


def attention_in_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what `scaled_dot_product_attention` returns, without a fused kernel."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        added = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = added.masked_fill_(attn_mask.logical_not(), -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _check_alignment(simulator: Simulator, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Raise where CUDA's memory-efficient kernel, taken where there is a mask, would read it off its alignment.

    It is not taken where q, k or v are off; a mask whose strides are no multiples of 8 is copied first; nothing looks
    at where a mask begins, of which 16 bytes are read at once.
    """
    if mask is None or any(x.stride(-1) != 1 for x in (query, key, value, mask)):
        return
    if any(x.storage_offset() * x.element_size() % 16 for x in (query, key, value)):
        simulator.log.calls["attention without its fused kernel"] += 1
    elif mask.dtype == torch.bool or any(stride % 8 for stride in mask.stride()[:-1]):
        simulator.log.calls["attention after a copy of its mask"] += 1
    elif simulator.aligned and mask.storage_offset() * mask.element_size() % 16:
        raise RuntimeError(
            f"CUDA error: misaligned address (attn_mask of shape {tuple(mask.shape)}, storage offset "
            f"{mask.storage_offset()} * {mask.element_size()} bytes) {TAG}"
        )


# ------------------------------------------------------------------------------------------- torch.cuda, torch.mps


def _counted(simulator: Simulator, name: str, value: Any = None) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        simulator.log.calls[name] += 1
        return value

    return function


def _random_state(simulator: Simulator) -> tuple[Callable[..., Any], ...]:
    def get(*_: Any) -> Tensor:
        return simulator.random.get_state()

    def put(state: Tensor, *_: Any) -> None:
        simulator.random.set_state(state)

    def seed(value: int, *_: Any) -> None:
        simulator.random.manual_seed(int(value))

    return get, put, seed


def _patch_cuda(simulator: Simulator) -> None:
    cuda: Any = torch.cuda
    get, put, seed = _random_state(simulator)

    def current() -> int:
        return torch._C._accelerator_getDeviceIndex()

    def set_device(device: Any) -> None:
        index = device if isinstance(device, int) else torch.device(device).index
        torch._C._accelerator_setDeviceIndex(0 if index is None else index)

    def exchange(index: int) -> int:
        return torch._C._accelerator_exchangeDevice(index) if index >= 0 else 0

    card = SimpleNamespace(
        name="Simulated GPU",
        major=9,
        minor=0,
        total_memory=80 * 1024 * MB,
        multi_processor_count=132,
        gcnArchName="",
        L2_cache_size=50 * MB,
    )
    new = {
        "_lazy_init": lambda: None,
        "_initialized": True,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: simulator.count,
        "current_device": current,
        "set_device": set_device,
        "_exchange_device": exchange,
        "_maybe_exchange_device": exchange,
        "get_device_properties": lambda *_, **__: card,
        "get_device_name": lambda *_, **__: card.name,
        "get_device_capability": lambda *_, **__: (card.major, card.minor),
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda *_, **__: (70 * 1024 * MB, card.total_memory),
        "manual_seed": seed,
        "manual_seed_all": seed,
        "get_rng_state": get,
        "get_rng_state_all": lambda: [get() for _ in range(simulator.count)],
        "set_rng_state": put,
        "set_rng_state_all": lambda states: put(states[0]),
        "reset_peak_memory_stats": lambda *_: None,
    }
    for name, value in new.items():
        setattr(cuda, name, value)
    cuda.random.manual_seed_all = seed
    cuda.empty_cache = cuda.memory.empty_cache = _counted(simulator, "empty_cache")
    cuda.synchronize = _counted(simulator, "synchronize")
    for name in ("max_memory_allocated", "memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(cuda, name, _counted(simulator, name, 123 * MB))
    torch.backends.cuda.is_built = lambda: True


def _patch_mps(simulator: Simulator) -> None:
    mps: Any = torch.mps
    get, put, seed = _random_state(simulator)
    torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: True
    torch.backends.mps.is_macos_or_newer = lambda *_: True
    new = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "empty_cache": _counted(simulator, "empty_cache"),
        "synchronize": _counted(simulator, "synchronize"),
        "driver_allocated_memory": _counted(simulator, "driver_allocated_memory", 123 * MB),
        "current_allocated_memory": _counted(simulator, "current_allocated_memory", 100 * MB),
        "recommended_max_memory": lambda: 16 * 1024 * MB,
        "manual_seed": seed,
        "get_rng_state": get,
        "set_rng_state": put,
    }
    for name, value in new.items():
        setattr(mps, name, value)
