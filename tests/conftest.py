"""Settings, fixtures and helpers of all tests."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

pytest_plugins = ["pytester"]

# No test has a deadline for one example, and in CI the examples are always the same.
settings.register_profile(
    "azsession", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("azsession")
if "CI" in os.environ:
    # Hypothesis draws some values from the constants of the loaded modules, which depend on the tests that ran before in the
    # same process. There is no setting for it.
    providers.is_local_module_file = lambda path: False  # type: ignore[attr-defined]

# A background job of a shell ignores SIGINT, and under nohup SIGHUP. So would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: Seconds that `eventually` waits. `python -m tests.mutation` waits less, because a mutant fails often.
PATIENCE = float(os.environ.get("AZSESSION_TEST_PATIENCE", "30"))

#: 329 GitHub webhooks in 70 sessions, interleaved.
WEBHOOKS = Path(__file__).parent / "data" / "github-webhooks.jsonl"


@pytest.fixture(scope="session")
def webhooks() -> list[dict[str, Any]]:
    """Return the webhooks in the order of the file."""
    return [json.loads(line) for line in WEBHOOKS.read_text(encoding="utf-8").splitlines()]


class _UnreadableRecords(logging.Handler):
    """Notes the log calls whose arguments do not fit their text. They must not fail the operation that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            record.getMessage()
        except Exception as error:
            self.found.append(f"{record.pathname}:{record.lineno}: {error!r}")


@pytest.fixture(scope="session")
def unreadable_records() -> Iterator[_UnreadableRecords]:
    handler = _UnreadableRecords()
    logging.getLogger("azsession").addHandler(handler)
    yield handler
    logging.getLogger("azsession").removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_unreadable_record(unreadable_records: _UnreadableRecords) -> Iterator[None]:
    """Fail a test during which a log call of azsession could not be shown."""
    unreadable_records.found.clear()
    yield
    assert unreadable_records.found == []


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread of azsession running."""
    before = set(threading.enumerate())
    # A server that outlives this test, for example the README's, starts threads when it needs them.
    has_server = any(thread.name == "azsession-server" for thread in before)
    lasting = ("azsession-presence", "azsession-server") if has_server else ()
    yield

    def left() -> list[str]:
        new = [thread.name for thread in threading.enumerate() if thread not in before]
        return [name for name in new if name.startswith("azsession") and not name.startswith(lasting)]

    eventually(lambda: not left(), lambda: f"threads left behind: {left()}")


def eventually(condition: Callable[[], object], why: Callable[[], str] | str = "", seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds. Fail the test if it does not hold within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(why if isinstance(why, str) else why())
        time.sleep(0.005)


def whole_lines(report: Path) -> list[str]:
    """Return the complete lines of a file to which processes are writing."""
    return report.read_text().rpartition("\n")[0].splitlines() if report.exists() else []
