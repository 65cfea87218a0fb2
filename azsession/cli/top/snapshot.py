"""The contents of `azsession top`: the numbers of queues and sessions at one moment, and their changes since the last one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import islice

import attrs

from ...client.management import each_session
from ...client.provider import ServiceBusProvider, core_of
from ...errors import UnsupportedOperationError
from ...messages import SessionInfo
from ...queues import QueueStatistics
from .counters import Counters, rates, read_counters

#: Sessions of one queue that are read. Each 1000 of them need a request.
MAX_SESSIONS = 5000


@attrs.frozen
class QueueNumbers:
    """A queue at one moment.

    Attributes:
        statistics: Its numbers.
        sessions: Its sessions, by id; the first `MAX_SESSIONS`.
        has_more: Whether there are more.
        change: Active messages that were added in a second since the last moment, less than 0 if they became fewer. `None`
            if it is unknown.
    """

    statistics: QueueStatistics
    sessions: Sequence[SessionInfo]
    has_more: bool
    change: float | None = None

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.statistics.name


@attrs.frozen
class Snapshot:
    """The queues at one moment.

    Attributes:
        at: The moment.
        clock: The moment on the monotonic clock.
        queues: The queues, by name.
        counters: The gateway's counters; `None` if it has none.
        rates: How much the counters grew in a second since the last moment; `None` if it is unknown.
    """

    at: datetime
    clock: float
    queues: Sequence[QueueNumbers]
    counters: Counters | None = None
    rates: Counters | None = None


@attrs.frozen
class SessionRow:
    """A session with its queue."""

    queue: str
    info: SessionInfo


@attrs.frozen
class Consumer:
    """A client that holds sessions.

    Attributes:
        name: How the client calls itself.
        sessions: How many sessions it holds.
        messages: Active messages in them; `None` if they are unknown.
    """

    name: str
    sessions: int
    messages: int | None


def take_snapshot(provider: ServiceBusProvider, names: Sequence[str], before: Snapshot | None = None) -> Snapshot:
    """Ask the server for the numbers of queues. Blocks.

    Args:
        provider: The connection.
        names: The queues; none stands for all.
        before: The last snapshot, for the changes.

    Raises:
        UnsupportedOperationError: There are no names, and the server does not list its queues.
        QueueError: The server did not answer, or refused.
    """
    names = names or _all_names(provider)
    at, clock = datetime.now(timezone.utc), time.monotonic()
    old = {} if before is None else {queue.name: queue for queue in before.queues}
    seconds = 0.0 if before is None else clock - before.clock
    queues = []
    for name in names:
        statistics = provider.queue_statistics(name)
        sessions = list(islice(each_session(core_of(provider), name), MAX_SESSIONS + 1))
        numbers = QueueNumbers(statistics, sessions[:MAX_SESSIONS], len(sessions) > MAX_SESSIONS)
        queues.append(attrs.evolve(numbers, change=_change(old.get(name), statistics, seconds)))
    # A server without counters is not asked for them again.
    counters = read_counters(provider) if before is None or before.counters is not None else None
    return Snapshot(at, clock, queues, counters, None if before is None else rates(before.counters, counters, seconds))


def _all_names(provider: ServiceBusProvider) -> list[str]:
    try:
        return [queue.name for queue in provider.list_queues()]
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            "this server does not list its queues: name them with --queue", code=error.code
        ) from None


def _change(before: QueueNumbers | None, now: QueueStatistics, seconds: float) -> float | None:
    old = None if before is None else before.statistics.active_count
    if old is None or now.active_count is None or seconds <= 0:
        return None
    return (now.active_count - old) / seconds


def sorted_sessions(snapshot: Snapshot, by: str) -> list[SessionRow]:
    """Return the sessions of all queues: by ``age``, the one with the oldest message first, or by ``count``."""
    rows = [SessionRow(queue.name, info) for queue in snapshot.queues for info in queue.sessions]

    def age(row: SessionRow) -> tuple[object, ...]:
        oldest = row.info.oldest_enqueued_at
        # Where the server tells no age, held sessions come first.
        return oldest is None, oldest or snapshot.at, row.info.locked_until is None, row.queue, row.info.session_id

    def count(row: SessionRow) -> tuple[object, ...]:
        return -(row.info.message_count or 0), row.info.locked_until is None, row.queue, row.info.session_id

    return sorted(rows, key=age if by == "age" else count)


def consumers(snapshot: Snapshot) -> list[Consumer]:
    """Return the clients that hold sessions. The one with the most sessions comes first."""
    held: dict[str, list[SessionInfo]] = {}
    for queue in snapshot.queues:
        for info in queue.sessions:
            if info.holder is not None:
                held.setdefault(info.holder, []).append(info)
    found = []
    for name, infos in held.items():
        counts = [info.message_count for info in infos if info.message_count is not None]
        found.append(Consumer(name, len(infos), sum(counts) if len(counts) == len(infos) else None))
    return sorted(found, key=lambda one: (-one.sessions, one.name))
