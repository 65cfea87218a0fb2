"""Helpers of the renewer's tests: a holder that needs no server, and the renewer's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from azsession.client.lock_renewer import Renewer

from ..conftest import PATIENCE


class Lock:
    """A holder whose lock is due at a given time. After each renewal it is due `again` seconds later.

    Attributes:
        due: When the lock is due, on the monotonic clock. `None`: never.
        renewed: When it was renewed.
        gate: A renewal waits for it.
        failure: Is raised by the next renewal.
    """

    def __init__(self, due_in: float | None = 0.0, again: float | None = None) -> None:
        self.due = None if due_in is None else time.monotonic() + due_in
        self.again = again
        self.renewed: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None

    def renewal_due(self) -> float | None:
        return self.due

    def renew_in_background(self) -> float | None:
        self.renewed.append(time.monotonic())
        assert self.gate.wait(20)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.due = None if self.again is None else time.monotonic() + self.again
        return self.due


def stop(renewer: Renewer) -> None:
    """Stop a renewer. A stop that hangs is a failure."""
    stopping = threading.Thread(target=renewer.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def workers() -> list[threading.Thread]:
    return threads("azsession-renewer-worker")


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, attempts: list[float] | None = None) -> Callable[[], None]:
    """Let the system refuse threads of this name, until the result is called. Add the times to `attempts`."""
    start, refused = threading.Thread.start, [name]

    def maybe(thread: threading.Thread) -> None:
        if thread.name in refused:
            if attempts is not None:
                attempts.append(time.monotonic())
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", maybe)
    return refused.clear
