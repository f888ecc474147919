"""Runs a script with a simulated device: python -m tests.devices.run cuda|mps -- script.py --flag value ..."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tests import devices


def main(kind: str, separator: str, script: str, *flags: str) -> None:
    """Run a script as if it had been called with these flags."""
    if separator != "--":
        raise SystemExit(__doc__)
    devices.install(kind)
    sys.argv = [script, *flags]
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
