"""Runs Microsoft's session tests: `python -m tests.standin.microsoft DIRECTORY`. It prints one line of JSON per test.

Each test runs in a thread of its own: they wait most of the time.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from tests.standin.microsoft import fast
from tests.standin.microsoft.queues import ALONE, LAST, NOT_APPLICABLE

_MODULES = ("test_sessions", "test_list_sessions")
#: The tests of queues without sessions.
_QUEUES = ("test_queues",)
_clock = time.perf_counter


def main() -> None:
    """Run the tests and print their results."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin.microsoft", description=__doc__)
    parser.add_argument("directory", help="the folder `tests` of the source distribution")
    parser.add_argument("--factor", type=float, default=1.0, help="how much faster the tests' clock runs")
    parser.add_argument("--only", default="", help="run only tests with this in their names")
    parser.add_argument("--own", action="store_true", help="run them against azsession's own endpoint, not the stand-in")
    parser.add_argument("--queues", action="store_true", help="run the tests of queues without sessions, on one session each")
    asked = parser.parse_args()
    if asked.factor != 1:
        fast.hurry(asked.factor)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # The modules are imported now, so that they see the faster clock.
    from tests.standin.microsoft import shim

    for name in ("_common.utils", "_pyamqp.utils"):
        importlib.import_module(f"azure.servicebus.{name}").datetime = fast.DATETIME  # type: ignore[attr-defined]
    if asked.own:
        from tests.standin.microsoft.endpoint import OwnEndpoint as Server
    else:
        from tests.standin.server import StandIn as Server  # type: ignore[assignment]
    with Server() as standin:
        shim.install(standin, one_session=asked.queues)
        sys.path.insert(0, asked.directory)
        cases = [case for name in (_QUEUES if asked.queues else _MODULES) for case in _cases(name) if asked.only in case[1]]
        logging.disable()
        if asked.queues:
            cases = [case for case in cases if case[1].removeprefix("test_") not in NOT_APPLICABLE]
        for result in _results(cases):
            print(json.dumps(result), file=out, flush=True)
    # The SDK leaves threads behind.
    os._exit(0)


def _cases(name: str) -> list[tuple[Any, str]]:
    module = importlib.import_module(name)
    if hasattr(module, "datetime"):
        module.datetime = fast.Datetime
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
    return [(each, test) for each in classes for test in vars(each) if test.startswith("test_")]


def _results(cases: list[tuple[Any, str]]) -> Iterator[dict[str, Any]]:
    """Run the tests, at the same time if possible, and yield their results."""
    first, last = ([case for case in cases if case[1].removeprefix("test_") in names] for names in (ALONE, LAST))
    together = [case for case in cases if case not in first and case not in last]
    yield from itertools.starmap(_run, first)
    with ThreadPoolExecutor(max(1, len(together))) as threads:
        yield from (each.result() for each in as_completed([threads.submit(_run, *case) for case in together]))
    yield from itertools.starmap(_run, last)


def _run(case: Any, test: str) -> dict[str, Any]:
    """Run a test and return its name, its duration in seconds, and its error. Marks such as xfail do not count."""
    start, error = _clock(), None
    try:
        getattr(case(), test)(uamqp_transport=False)
    except BaseException:
        error = traceback.format_exc()
    return {"test": test, "seconds": round(_clock() - start, 1), "error": error}


if __name__ == "__main__":
    main()
