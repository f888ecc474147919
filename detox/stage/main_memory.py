"""How much main memory this process has held. No torch."""

from __future__ import annotations

import sys

import psutil


def peak_mb() -> float:
    """Return the most main memory that this process has held so far, in MiB."""
    return round(_peak_bytes() / (1 << 20), 1)


def _peak_bytes() -> int:
    found = psutil.Process().memory_info()
    if hasattr(found, "peak_wset"):  # Windows
        return int(found.peak_wset)
    try:
        import resource
    except ImportError:
        return int(found.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1 << 10)
