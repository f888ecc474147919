"""Memory on a CPU: what the C library does with freed buffers, and how many compiled kernels are kept."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""
LARGEST_KEPT = 2**25
"""Bytes of the largest buffer whose memory malloc can keep: glibc's limit."""
KEPT = 2**28
"""Bytes that malloc keeps for buffers to come."""
KERNELS_KEPT = "128"
"""More than an update has shapes of products at a time; of the 1,024 that are kept by default each takes 0.5 MB."""


def keep_few_kernels() -> None:
    """Let oneDNN and torch's layer over it keep fewer kernels, which in bfloat16 each new shape of a product costs.

    Each rollout has new shapes, so that a run would grow by hundreds of MB. Holds from the first such product on; the
    environment's own ONEDNN_PRIMITIVE_CACHE_CAPACITY and LRU_CACHE_CAPACITY count.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, KERNELS_KEPT)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, so that a loop that frees and allocates its buffers finds the same pages.

    By default it returns large buffers to the system, which zeroes their pages each time they come back. Does
    nothing with another C library. The environment variables MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_
    are overruled.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)
