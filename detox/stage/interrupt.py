"""Stopping where it is safe: SIGINT and SIGTERM wait until the work under way is saved."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupt:
    """Context in which SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed at once.

    Attributes:
        received: number of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            for other, handler in self._handlers.items():
                signal.signal(other, handler)  # type: ignore[arg-type]
