"""Freed memory comes back without the system's help, where the C library is glibc; few kernels are kept."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import ctypes, resource, sys
from detox.model.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use(count, size):
    buffers = [libc.malloc(size) for _ in range(count)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, size)
    for buffer in buffers:
        libc.free(buffer)

for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use(count=8, size=24 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, int(hasattr(libc, "mallopt")))
"""
"""Prints how many pages the system had to give for 192 MiB of buffers, the fourth time; and whether this is glibc."""


def test_buffers_find_their_pages_again():
    faults = {}
    for mode in ("keep", "return"):
        command = [sys.executable, "-c", SCRIPT, mode]
        printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        faults[mode], glibc = map(int, printed.split())
    if glibc and sys.platform == "linux":
        assert faults["keep"] < 100 < 5000 < faults["return"]


KERNELS = """
import sys, psutil, torch
from detox.model.allocator import keep_few_kernels
if sys.argv[1] == "few":
    keep_few_kernels()
weight, held = torch.randn(64, 64, dtype=torch.bfloat16), psutil.Process().memory_info
torch.randn(3, 64, dtype=torch.bfloat16) @ weight
before = held().rss
for rows in range(5, 600):
    torch.randn(rows, 64, dtype=torch.bfloat16) @ weight
print((held().rss - before) // 2**20)
"""
"""Prints by how many MiB 595 products of different shapes make the process grow."""


def test_kernels_of_former_shapes_are_given_up():
    hidden = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    grown = {}
    for mode in ("few", "default"):
        command = [sys.executable, "-c", KERNELS, mode]
        grown[mode] = int(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)
    if grown["default"] > 100:  # this processor's products in bfloat16 are oneDNN's
        assert grown["few"] < grown["default"] / 2
