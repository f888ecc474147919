"""Stopping where it is safe: SIGINT and SIGTERM wait until the work under way is saved."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

from detox.stage import environment

ANSWER = "interrupted: finishing this update and saving it; once more stops at once"


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
            if environment.is_first_process():
                at_bar = "\n" if sys.stderr.isatty() else ""
                text = f"{at_bar}{ANSWER}\n"
                with contextlib.suppress(OSError):
                    os.write(2, text.encode())  # a print may come in the middle of another
            for other, handler in self._handlers.items():
                signal.signal(other, handler)  # type: ignore[arg-type]
