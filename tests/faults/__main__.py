"""`python -m tests.faults [WORD ...]`: try all faults, or those with a WORD; print the table."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.faults import suite, world


def main() -> int:
    """Return 0 where nothing was lost."""
    wanted, started, rows = sys.argv[1:], time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        the = world.World(Path(folder))
        for attempt in suite.full():
            if wanted and not any(word in str(attempt) for word in wanted):
                continue
            row = attempt(the)
            print(
                f"{time.monotonic() - started:6.0f} s  {row.fault}: {row.whole} of {row.tried}",
                file=sys.stderr,
            )
            for problem in row.problems:
                print(f"          {problem}", file=sys.stderr)
            rows.append(row)
    print(suite.table(rows))
    return int(any(row.lost or row.whole < row.tried for row in rows))


if __name__ == "__main__":
    sys.exit(main())
