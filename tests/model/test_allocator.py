"""Freed memory comes back without the system's help, where the C library is glibc."""

from __future__ import annotations

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
