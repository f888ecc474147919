"""How much main memory this process has held. No torch."""

from __future__ import annotations

import sys


def peak_mb() -> float:
    """Return the most main memory that this process has held so far, in MiB."""
    return round(_peak_bytes() / (1 << 20), 1)


def _peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        found = psutil.Process().memory_info()
        return int(getattr(found, "peak_wset", found.rss))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1 << 10)
