"""Microsoft's own session tests of azure-servicebus pass on the stand-in and on azsession's AMQP endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.standin.microsoft.sources import download_tests
from tests.standin.require import require_standin
from tests.support.paths import ROOT

#: The tests' clock runs faster by this factor, since some of them wait for four minutes.
FACTOR = 8
#: How many of the tests must pass. One cannot: test_next_available_session_timeout_value expects that an accept takes more
#: than 65 seconds, but since azure-servicebus 7.15.0, `receive_messages(max_wait_time=5)` also ends the accept after 5.
LEAST, ALL = 34, 36


@pytest.mark.parametrize("server", ["stand-in", "own endpoint"])
def test_microsofts_session_tests_pass(tmp_path: Path, server: str) -> None:
    tests = download_tests(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "tests.standin.microsoft", str(tests), "--factor", str(FACTOR)]
    if server == "stand-in":
        require_standin()
    else:
        command.append("--own")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=75)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {each["test"]: each["error"] for each in results if each["error"] is not None}
    report = "\n".join([*(f"{name}\n{error}" for name, error in failed.items()), done.stderr[-2000:]])
    assert len(results) >= ALL, f"only {len(results)} of {ALL} tests ended\n{report}"
    assert len(results) - len(failed) >= LEAST, f"{len(failed)} of {len(results)} tests failed\n{report}"
