"""How far a long task is: a bar at a terminal; elsewhere a line every minute, and one when all is done.

The bar is on stderr, the lines are on stdout: where no terminal is, stderr is for what went wrong.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_PLAIN = "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left"


class Progress(tqdm):  # type: ignore[misc]
    """tqdm's bar, for a terminal of any width and for files.

    Args:
        things: to iterate over, if any.
        shown: the process may speak.
        settings: tqdm's own, such as `total`, `desc`, `unit` and `initial`.
    """

    EVERY = 60.0
    """Seconds between two lines."""
    plain, disable = False, True  # of one that a signal meets before it is made

    def __init__(self, things: Any = None, *, shown: bool = True, **settings: Any):
        self.plain = not sys.stderr.isatty()
        self.told = time.monotonic()
        form = {"bar_format": _PLAIN, "file": sys.stdout} if self.plain else {"dynamic_ncols": True}
        super().__init__(things, disable=not shown, **form, **settings)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if not self.plain:
            return super().display(msg, pos)
        now = time.monotonic()
        if now - self.told >= self.EVERY:
            self.told = now
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return True

    def clear(self, nolock: bool = False) -> None:
        if not self.plain:
            super().clear(nolock)

    def close(self) -> None:
        if self.plain and not self.disable:
            self.disable = True
            if self.n == self.total:
                took = self.format_interval(self.format_dict["elapsed"])
                self.fp.write(f"{self.desc}: {self.n} of {self.total} in {took}\n")
                self.fp.flush()
        super().close()
