"""A device or a machine that has no memory left: known by its words, told in one line. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from detox.stage.errors import UserError

_NO_MEMORY = (
    "out of memory",  # CUDA, MPS, Accelerate
    "can't allocate memory",  # torch on Linux and macOS
    "not enough memory",  # torch on Windows
    "alloc_failed",  # cuBLAS, cuDNN and cuSPARSE, which take memory of their own
    "invalid buffer size",  # Metal, of one that is larger than the device allows
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that the device or the machine has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


@contextmanager
def told(advice: str) -> Iterator[None]:
    """Turn a lack of memory into one line.

    Args:
        advice: what to lower.

    Raises:
        UserError: the device or the machine has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: {advice}, or free some") from None
