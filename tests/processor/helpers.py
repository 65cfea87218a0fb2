"""Helpers of the processor tests: a handler that records its calls, a gate that blocks it, and queries of the queue."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import attrs

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.testing import AzsessionServer

QUEUE = "orders"


class Seen:
    """A handler that records each message and how many calls ran at once. It then calls `then`, if given."""

    def __init__(self, then: Callable[[ReceivedMessage, SessionClient], object] | None = None) -> None:
        self._then = then
        self._lock = threading.Lock()  # Guards all fields below.
        self.by_session: dict[str, list[str]] = defaultdict(list)
        self.order: list[tuple[str, str]] = []
        self.running: Counter[str] = Counter()
        self.most_sessions = 0
        self.most_of_one = 0

    def __call__(self, message: ReceivedMessage, session: SessionClient) -> None:
        with self._lock:
            self.by_session[session.session_id].append(message.text())
            self.order.append((session.session_id, message.text()))
            self.running[session.session_id] += 1
            self.most_of_one = max(self.most_of_one, self.running[session.session_id])
            self.most_sessions = max(self.most_sessions, sum(self.running.values()))
        try:
            if self._then is not None:
                self._then(message, session)
        finally:
            with self._lock:
                self.running[session.session_id] -= 1

    @property
    def count(self) -> int:
        with self._lock:
            return len(self.order)


class Gate:
    """Blocks a handler until `opened` is set. Sets `reached` when a handler arrives."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def send(provider: ServiceBusProvider, session_id: str, texts: Iterable[str], queue: str = QUEUE) -> None:
    provider.send_messages(queue, [Message(text, session_id=session_id) for text in texts])


def lengthen_locks(server: AzsessionServer, queue: str = QUEUE) -> None:
    """Let the next locks of a queue last long. Without it, a slow machine could lose these, too."""
    known = server._service.broker._core.queues[queue]  # type: ignore[attr-defined]
    known.settings = attrs.evolve(known.settings, lock_duration=60)


def left(provider: ServiceBusProvider, queue: str = QUEUE) -> int:
    """Return the number of messages in a queue, without dead letters."""
    count = provider.get_queue(queue).active_count
    assert count is not None
    return count


def locked(provider: ServiceBusProvider, queue: str = QUEUE) -> list[str]:
    """Return the ids of the locked sessions."""
    return [found.session_id for found in provider.list_sessions(queue) if found.locked_until is not None]
