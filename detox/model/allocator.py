"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""
LARGEST_KEPT = 2**25
"""Bytes of the largest buffer whose memory malloc can keep: glibc's limit."""
KEPT = 2**28
"""Bytes that malloc keeps for buffers to come."""


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
