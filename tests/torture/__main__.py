"""``python -m tests.torture --minutes N --seed S``: a torture run, and what came of it."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from .run import torture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, help="of the faults and the work; printed")
    parser.add_argument("--azure", action="store_true", help="the gateway stands before the stand-in of Azure")
    parser.add_argument("--folder", type=Path, help="a new one, for histories and logs; by default gone at the end")
    asked = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if asked.seed is None else asked.seed
    print(f"seed {seed}, {asked.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) if asked.folder is None else asked.folder
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty: a run needs a folder of its own")
        report = torture(folder, seed, asked.minutes * 60, azure=asked.azure)
    print(report.text())
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
