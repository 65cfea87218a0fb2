"""``python -m tests.torture --minutes N --seed S``: a torture run and its report."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from ..namespaces.choice import OWN, STANDIN
from .run import torture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults are injected (default: 2)")
    parser.add_argument("--seed", type=int, help="seed of the faults and of the work (default: random); it is printed")
    parser.add_argument(
        "--azure",
        nargs="?",
        const=OWN,
        choices=[OWN, STANDIN],
        help=f"run the gateway in front of a namespace: azsession's own AMQP endpoint ({OWN}, default) or the stand-in",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="empty folder that keeps the histories and the log (default: a temporary folder, kept after a violation)",
    )
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) if arguments.folder is None else arguments.folder
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty: a run needs an empty folder")
        report = torture(folder, seed, arguments.minutes * 60, azure=arguments.azure)
        if not report.is_good and arguments.folder is None:
            kept = tempfile.mkdtemp(prefix="torture-kept-")
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            print(f"the histories and the log are in {kept}")
    print(report.text())
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
