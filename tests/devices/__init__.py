"""A simulated CUDA or MPS device on a CPU build of torch, so that mistakes with devices show where there is none.

A device tensor is a wrapper with the device's real dispatch keys around a CPU tensor. A dispatch mode runs every
operator on what is inside, so that the arithmetic is the CPU's to the last bit, and raises what a device raises: two
devices in one operator (but 0-dim CPU scalars of pointwise ones, CPU indices, copies), numpy() of a device tensor, a
CPU generator for a device's draw; on CUDA an attention mask off the 16 bytes that its fused kernel reads at once; on
MPS float64, and operators that have no kernel there. It counts what is launched, and each wait of the program for the
device, by the program's own line.

Not simulated: memory, asynchrony, rounding and strides of a device's own kernels (but see `Simulator.products` and
`Simulator.scans`), fused attention (its parts run), foreach kernels, NCCL.

`python -m tests.devices.run cuda|mps -- script.py --flag value ...` runs a script with such a device.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tests.devices import guards

if TYPE_CHECKING:
    from tests.devices.dispatch import Simulator

KINDS = ("cuda", "mps")


def leave() -> None:
    """End this process with code 0, at once: threads that autograd has for a device would abort it later."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def install(kind: str) -> Simulator:
    """Make a device of `kind` be there for this process, whose `torch` must not be imported yet."""
    if "torch" in sys.modules or kind not in KINDS:
        raise RuntimeError("a simulated device is cuda or mps, and comes before `import torch`")
    guards.load(kind)
    from tests.devices import dispatch, python_side

    simulator = dispatch.Simulator(kind)
    python_side.patch(simulator)
    simulator.start()
    return simulator
