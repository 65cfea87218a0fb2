"""Microsoft's own tests of azure-servicebus: those of sessions pass on the stand-in and on azsession's AMQP endpoint.

Those of queues without sessions pass on the endpoint as far as they can run on a queue with sessions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.standin.microsoft.queues import NOT_APPLICABLE
from tests.standin.microsoft.sources import download_tests
from tests.standin.require import require_standin
from tests.support.paths import ROOT

#: The tests' clock runs faster by this factor, since some of them wait for four minutes.
FACTOR = 6
#: How many tests there are, and those that fail with any server, with the reason and a part of the error.
ALL = 36
FAILING = {
    # It expects that an accept takes more than 65 seconds, but since azure-servicebus 7.15.0,
    # `receive_messages(max_wait_time=5)` also ends the accept after 5.
    "next_available_session_timeout_value": "AssertionError",
}
#: The same for the tests of queues.
ALL_OF_QUEUES = 44
FAILING_OF_QUEUES = {
    # It replaces a method of the SDK by a function that lacks this argument, which azure-servicebus 7.15.0 passes.
    "queue_operation_negative": "got an unexpected keyword argument 'await_outcome'",
}


@pytest.mark.timeout(500)
@pytest.mark.parametrize("server", ["stand-in", "own endpoint"])
def test_microsofts_session_tests_pass(tmp_path: Path, server: str) -> None:
    if server == "stand-in":
        require_standin()
    options = ["--own"] if server == "own endpoint" else []
    ended = check(download_tests(tmp_path), FAILING, *options)
    assert len(ended) == ALL


@pytest.mark.timeout(500)
def test_microsofts_queue_tests_pass_on_queues_with_sessions(tmp_path: Path) -> None:
    tests = download_tests(tmp_path)
    there = set(re.findall(r"^    def test_(\w+)", (tests / "test_queues.py").read_text("utf-8"), re.MULTILINE))
    ended = check(tests, FAILING_OF_QUEUES, "--own", "--queues")
    # Each test runs, or it is said why it cannot.
    assert ended.isdisjoint(NOT_APPLICABLE)
    assert ended | set(NOT_APPLICABLE) == there
    assert len(ended) == ALL_OF_QUEUES


def check(tests: Path, failing: dict[str, str], *options: str) -> set[str]:
    """Run Microsoft's tests, check that exactly these fail, with these errors, and return the names of all.

    Another test that fails runs once more, alone: some have short waits, which a busy machine exceeds with all together.
    """
    ended, failed, report = run(tests, *options)
    for name in set(failed) - set(failing):
        _, again, report_again = run(tests, *options, "--only", f"test_{name}")
        report += f"\nalone:\n{report_again}"
        if name not in again:
            del failed[name]
    assert set(failed) == set(failing), report
    assert all(text in failed[name] for name, text in failing.items()), report
    return ended


def run(tests: Path, *options: str) -> tuple[set[str], dict[str, str], str]:
    """Run Microsoft's tests in a process; return the names of those that ended, the errors of the failed, and a report."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.standin.microsoft", str(tests), "--factor", str(FACTOR), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    results = {each["test"].removeprefix("test_"): each["error"] for each in map(json.loads, done.stdout.splitlines())}
    failed = {name: error for name, error in results.items() if error is not None}
    return set(results), failed, "\n".join([*(f"{name}\n{error}" for name, error in failed.items()), done.stderr[-2000:]])
