"""Tensors of a simulated device, and what happens when an operator meets one."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.devices.kernels import MAKE_LIKE, Operator
from tests.devices.sums import blockwise_sums

WIDE = (torch.float64, torch.complex128)
PROJECT = os.environ.get("SIMULATED_PROJECT", str(Path(__file__).resolve().parent.parent.parent)) + os.sep
_OWN = str(Path(__file__).resolve().parent) + os.sep
_PRODUCTS = frozenset("mm bmm addmm addmm_ baddbmm baddbmm_".split())
TAG = "[simulated device]"


class Log:
    """What was seen: launches and waits by (line of the program, operator or reason), calls of torch's by name.

    Attributes:
        inside: how many fused kernels, whose parts do not count, are being run.
    """

    def __init__(self) -> None:
        self.launches: collections.Counter[tuple[str, str]] = collections.Counter()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self.calls: collections.Counter[str] = collections.Counter()
        self.inside = 0

    def clear(self) -> None:
        for counter in (self.launches, self.waits, self.calls):
            counter.clear()

    def launch(self, operator: str) -> None:
        if not self.inside:
            self.launches[_place(), operator] += 1

    def wait(self, reason: str) -> None:
        self.waits[_place(), reason] += 1

    def counts(self) -> tuple[int, int]:
        """Return the launches and the waits so far."""
        return self.launches.total(), self.waits.total()


def _place() -> str:
    """Return file and line of the nearest frame of the program."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT) and not name.startswith(_OWN) and "site-packages" not in name:
            return f"{name[len(PROJECT) :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "(elsewhere)"


class DeviceTensor(Tensor):
    """A tensor on the simulated device, around the one on the CPU that holds its numbers."""

    simulator: Simulator

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
            requires_grad=False,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.simulator.dispatch(function, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        with torch.no_grad():
            return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if type(value) is not DeviceTensor or value.device != self.device:
            raise RuntimeError(f".data of another device {TAG}")
        if value.shape != self.shape or value.dtype != self.dtype:
            raise RuntimeError(f".data of another shape or dtype {TAG}")
        if value.inner.stride() != self.inner.stride():
            value = value.clone(memory_format=torch.contiguous_format)
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            f"memory first. {TAG}"
        )

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        if id(self) not in memo:
            with torch.no_grad():
                copied = self.detach().clone()
            copied.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.inner, str(self.device), self.requires_grad)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner!r}, device={str(self.device)!r})"


class _Mode(TorchDispatchMode):
    """Sees operators none of whose operands is on the device."""


def _rebuilt(inner: Tensor, device: str, requires_grad: bool) -> Tensor:
    return DeviceTensor(inner, torch.device(device)).requires_grad_(requires_grad)


class Simulator:
    """One process's simulated device.

    Attributes:
        kind: cuda or mps.
        log: what was seen.
        aligned: a mask off its alignment is an error.
        products: None, or the dtype in which parts of a matrix product are summed: it is then taken in parts, whose
            number depends on its rows, as a GPU's choice of kernels does, so that what a row gives depends, in its
            last bits, on what else is in the batch. In the operands' own dtype the parts are rounded, which torch's
            default allows for bfloat16.
        scans: a cumulative sum adds up block by block, as a GPU does, so that it is not monotone.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.log = Log()
        self.aligned = True
        self.products: torch.dtype | None = None
        self.scans = False
        self.count = 2 if kind == "cuda" else 1
        self.random = torch.Generator()  # stands for the device's default generator
        self._twins: dict[torch.Generator, torch.Generator] = {}
        self._operators: dict[Any, Operator] = {}
        DeviceTensor.simulator = self

        def dispatched(_: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.dispatch(function, args, kwargs or {})

        # Set past torch's metaclass, whose wrapper costs time at every operator.
        type.__setattr__(_Mode, "__torch_dispatch__", dispatched)
        self._mode = _Mode()

    def start(self) -> None:
        """Let every operator of this process come by here."""
        # torch.tensor(..., device=): first on the CPU, then through the mode to the device.
        torch._C._set_only_lift_cpu_tensors(True)
        self._mode.__enter__()

    # --- one operator ---

    def dispatch(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator as the device would, or raise what the device would."""
        tensors = _tensors([*args, *kwargs.values()])
        on_device = [tensor for tensor in tensors if type(tensor) is DeviceTensor]
        target = kwargs.get("device")
        if not on_device and not any(self._is_own(value) for value in (target, *args)):
            return function(*args, **kwargs)
        operator = self._operator(function)
        if operator.implicit:
            with self._mode:
                return function.decompose(*args, **kwargs)
        if (special := self._SPECIAL.get(operator.name)) is not None:
            return special(self, operator, function, *args, **kwargs)
        if isinstance(target, torch.device) and target.type == "cpu" and on_device:  # empty_like(..., device="cpu")
            return function(*map(_inner, args), **{key: _inner(value) for key, value in kwargs.items()})
        place = self._placed(target) if self._is_own(target) else None
        self._check_devices(operator, args, kwargs, tensors, place)
        place = place or on_device[0].device
        self._refuse_wide(kwargs.get("dtype"))
        generator = kwargs.get("generator") or next((arg for arg in args if isinstance(arg, torch.Generator)), None)
        if generator is not None and generator.device.type != self.kind:
            raise RuntimeError(
                f"Expected a '{self.kind}' device type for generator but found '{generator.device.type}' {TAG}"
            )
        if operator.as_parts:
            with self._mode:
                return function._op_dk(getattr(torch._C.DispatchKey, str(operator.explicit)), *args, **kwargs)
        self._refuse_missing(operator)
        self._count(operator, args)
        found = self._run(operator, function, args, kwargs, generator)
        known = {id(tensor.inner): tensor for tensor in on_device}
        if operator.view and torch.is_inference_mode_enabled() and not tensors[0].is_inference():
            with torch.inference_mode(False):  # a view of an ordinary tensor is one too
                return self._wrapped(found, place, known)
        return self._wrapped(found, place, known)

    def _operator(self, function: Any) -> Operator:
        if function not in self._operators:
            self._operators[function] = Operator(function, self.kind.upper())
        return self._operators[function]

    def _run(
        self,
        operator: Operator,
        function: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        generator: torch.Generator | None,
    ) -> Any:
        """Return what the operator gives on the CPU."""
        own = {key: _inner(value) for key, value in kwargs.items()}
        own |= {"device": torch.device("cpu")} if own.get("device") is not None else {}
        own |= {"pin_memory": False} if own.get("pin_memory") else {}
        inner = [_inner(arg) for arg in args]
        if self.products is not None and operator.name in _PRODUCTS:
            return self._product(operator.name, inner, own)
        if self.scans and operator.name == "cumsum":
            return blockwise_sums(*inner)
        if operator.draws:
            own |= {"generator": None} if "generator" in own else {}
            inner = [None if isinstance(arg, torch.Generator) else arg for arg in inner]
            return self._drawn(lambda: function(*inner, **own), generator)
        return function(*inner, **own)

    def _wrapped(self, found: Any, place: torch.device, known: Mapping[int, DeviceTensor]) -> Any:
        if isinstance(found, Tensor):
            if type(found) is DeviceTensor:
                return found
            if id(found) in known:
                return known[id(found)]
            self._refuse_wide(found.dtype)
            return DeviceTensor(found, place)
        if isinstance(found, (list, tuple)):
            return type(found)(self._wrapped(item, place, known) for item in found)
        return found

    # --- what a device refuses ---

    def _is_own(self, value: Any) -> bool:
        return type(value) is torch.device and value.type == self.kind

    def _placed(self, device: torch.device) -> torch.device:
        index = device.index
        if index is None:
            index = torch._C._accelerator_getDeviceIndex() if self.kind == "cuda" else 0
        if index >= self.count:
            raise RuntimeError(f"CUDA error: invalid device ordinal ({device}) {TAG}")
        return torch.device(self.kind, index)

    def _check_devices(
        self,
        operator: Operator,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        target: torch.device | None,
    ) -> None:
        """Raise where the operands lie on devices that do not go together."""
        own = {tensor.device for tensor in tensors if type(tensor) is DeviceTensor}
        if target is not None and own and operator.name not in MAKE_LIKE:
            own.add(target)
        if len(own) > 1:
            _refuse_mixed(operator, *sorted(map(str, own))[:2])
        plain = [tensor for tensor in tensors if type(tensor) is not DeviceTensor]
        if not own or not plain:
            return
        device = str(own.pop())
        if operator.indexing:
            self._check_index(operator, args, device)
            return
        named = {**dict(zip(operator.arguments, args)), **kwargs}
        written = {id(named[name]) for name in operator.writes if isinstance(named.get(name), Tensor)}
        for tensor in plain:
            if tensor.device.type != "cpu" or tensor.dim() or not operator.takes_numbers or id(tensor) in written:
                _refuse_mixed(operator, device, str(tensor.device))

    def _check_index(self, operator: Operator, args: Sequence[Any], device: str) -> None:
        """Raise where an indexed tensor, its indices and its new values do not go together; count copies of them."""
        indices, values = [index for index in args[1] if index is not None], args[2:3]
        if type(args[0]) is not DeviceTensor:
            if any(type(index) is DeviceTensor for index in indices):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor (cpu) {TAG}"
                )
            if any(type(value) is DeviceTensor and value.dim() for value in values):
                _refuse_mixed(operator, "cpu", device)
            return
        for tensor in (*indices, *values):
            if isinstance(tensor, Tensor) and type(tensor) is not DeviceTensor:
                if tensor.dim() and any(tensor is value for value in values):
                    _refuse_mixed(operator, device, "cpu")
                self.log.wait("copy of an index or a value to the device")

    def _refuse_missing(self, operator: Operator) -> None:
        if self.kind == "mps" and operator.kernel == "none":
            raise NotImplementedError(
                f"The operator 'aten::{operator.short}' is not currently implemented for the MPS device. {TAG}"
            )

    def _refuse_wide(self, dtype: torch.dtype | None) -> None:
        if self.kind == "mps" and dtype in WIDE:
            raise TypeError(
                f"Cannot convert a MPS Tensor to {str(dtype).removeprefix('torch.')} dtype as the MPS framework "
                f"doesn't support float64. Please use float32 instead. {TAG}"
            )

    def _count(self, operator: Operator, args: Sequence[Any]) -> None:
        if operator.indexing:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            number = len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
            number &= not (len(args) > 3 and args[3])
            if masks and not (number and sum(index is not None for index in args[1]) == 1):
                for _ in masks:
                    self.log.wait("boolean index")
        elif operator.size_unknown:
            self.log.wait("result of unknown size")
        if not operator.free:
            self.log.launch(operator.short)

    # --- what a device does in its own way ---

    def _drawn(self, call: Callable[[], Any], generator: torch.Generator | None) -> Any:
        """Run `call`, which draws, from the device's own stream of random numbers, or that of a generator."""
        source = self.random
        if generator is not None:
            source = self._twins.setdefault(generator, torch.Generator())
            source.set_state(generator.get_state())
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(source.get_state())
        try:
            return call()
        finally:
            source.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)
            if generator is not None:
                generator.set_state(source.get_state())

    def _product(self, name: str, args: Sequence[Tensor], options: Mapping[str, Any]) -> Tensor:
        """Return a product of matrices whose inner sum is taken in 1 to 4 parts, after the number of rows."""
        adds = name.rstrip("_") in ("addmm", "baddbmm")
        left, right = args[1:3] if adds else args[:2]
        parts = 1 + (-(-left.shape[-2] // 32)) % 4 if left.shape[-1] >= 16 else 1
        total = torch.zeros(())
        for a, b in zip(left.tensor_split(parts, -1), right.tensor_split(parts, -2)):
            part = a.float() @ b.float()
            total = total + (part if parts == 1 else part.to(self.products).float())
        if adds:
            total = args[0].float() * options.get("beta", 1) + total * options.get("alpha", 1)
        total = total.to(left.dtype)
        if name.endswith("_"):
            return args[0].copy_(total)
        return options["out"].copy_(total) if options.get("out") is not None else total

    def _copy_(self, operator: Operator, function: Any, target: Tensor, source: Tensor, *_: Any, **__: Any) -> Tensor:
        to, of = type(target) is DeviceTensor, type(source) is DeviceTensor
        if to and of:
            self.log.launch(operator.short)
        else:
            self.log.wait("copy to the device" if to else "copy from the device")
        _inner(target).copy_(_inner(source))
        return target

    def _to_copy(self, operator: Operator, function: Any, source: Tensor, **kwargs: Any) -> Tensor:
        of, target = type(source) is DeviceTensor, kwargs.get("device")
        place = (source.device if of else torch.device("cpu")) if target is None else target
        place = self._placed(place) if self._is_own(place) else place
        to = place.type == self.kind
        if to:
            self._refuse_wide(kwargs.get("dtype") or source.dtype)
        if to and of:
            self.log.launch(operator.short)
        elif to or of:
            self.log.wait("copy to the device" if to else "copy from the device")
        options = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        found = function(_inner(source), device=torch.device("cpu"), **options)
        return DeviceTensor(found, place) if to else found

    def _item(self, operator: Operator, function: Any, source: Any) -> Any:
        self.log.wait("a number read")
        return function(source.inner)

    def _equal(self, operator: Operator, function: Any, one: Tensor, other: Tensor) -> bool:
        self._check_devices(operator, (one, other), {}, [one, other], None)
        self.log.wait("a comparison read")
        return function(_inner(one), _inner(other))

    def _not_pinned(self, operator: Operator, function: Any, *_: Any, **__: Any) -> bool:
        return False

    def _refuse_pinning(self, operator: Operator, function: Any, *_: Any, **__: Any) -> Tensor:
        raise RuntimeError(f"cannot pin a tensor of a device: only dense CPU tensors can be pinned {TAG}")

    _SPECIAL: Mapping[str, Any] = {
        "copy_": _copy_,
        "_to_copy": _to_copy,
        "_local_scalar_dense": _item,
        "equal": _equal,
        "is_pinned": _not_pinned,
        "_pin_memory": _refuse_pinning,
    }


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _inner(value: Any) -> Any:
    if type(value) is DeviceTensor:
        return value.inner
    return type(value)(map(_inner, value)) if type(value) in (list, tuple) else value


def _refuse_mixed(operator: Operator, one: str, other: str) -> None:
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {one} and {other}! "
        f"(when checking argument in method {operator.name}) {TAG}"
    )
