"""``python -m tests.fuzz TARGET --seconds N``: search for inputs that break a parser, with atheris.

It needs the extra ``fuzz``. ``--list`` shows the targets, which are in `targets.TARGETS`. A run starts with the seeds of the
target and the inputs that earlier runs kept in ``--corpus``. It is guided by coverage. It ends at the first input that fails,
writes it to a file and prints the traceback. To run a target with such a file again, name the file after the target.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

#: The largest input, in bytes.
LARGEST = 4096


def _try(target: Callable[[bytes], None], files: Sequence[Path]) -> NoReturn:
    """Parse files, then exit this process."""
    try:
        for file in files:
            target(file.read_bytes())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Run one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n\n")[0])
    parser.add_argument("target", nargs="?")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run once, instead of a search")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="a directory where a run keeps inputs for the next run")
    parser.add_argument("--findings", type=Path, default=Path("."), help="the directory for inputs that fail")
    parser.add_argument("--list", action="store_true", help="show the targets")
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit('atheris is not installed: pip install -e ".[fuzz]"')
    # atheris measures the coverage of the modules that are imported here.
    with atheris.instrument_imports(include=["azsession", "email", "json", "urllib", "tests.fuzz"]):
        from tests.fuzz import endpoint, served
        from tests.fuzz.client import scratch_file
        from tests.fuzz.targets import TARGETS
    if given.list or given.target not in TARGETS:
        sys.exit("the targets: " + ", ".join(TARGETS))
    target = TARGETS[given.target]
    with tempfile.TemporaryDirectory() as folder:
        # The fuzzer exits its process without cleanup, so it runs in a child.
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stack = ExitStack()
        stack.enter_context(served.serving())
        stack.enter_context(endpoint.serving())
        scratch_file(Path(folder, "keys"))
        if given.files:
            _try(target, given.files)
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for number, seed in enumerate(target.seeds):
            Path(seeds, str(number)).write_bytes(seed)
        corpus = given.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        given.findings.mkdir(parents=True, exist_ok=True)
        options = [
            f"-max_total_time={given.seconds}",
            f"-seed={given.seed}",
            f"-max_len={LARGEST}",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            f"-artifact_prefix={given.findings}/{target.name}-",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
