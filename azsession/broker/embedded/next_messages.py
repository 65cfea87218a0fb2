"""The messages that a receive delivers next, without those that have expired or were delivered too often.

`Receiving` calls `take_rows` in its jobs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import chain

from .core import Core
from .database_file import ACTIVE
from .jobs import Transaction
from .queue_state import Queue
from .session_locks import SessionLock
from .store import STEP_BYTES, STEP_ROWS
from .stored_message import Row


def take_rows(core: Core, tx: Transaction, queue: Queue, lock: SessionLock, max_count: int) -> tuple[list[Row], bool]:
    """Return messages to deliver, and remove expired messages and those beyond their delivery limit.

    The bodies have at most `STEP_BYTES` together, unless the first one is larger. The second result is `False` if there may
    be more messages behind those that this step has looked at.
    """
    found = core.store.session(*lock.key)
    if found is None or lock.key in core.delays:
        return [], True
    session, now = found[0], core.clock.now()
    if queue.settings.sessions_expire_together:
        _expire_together(core, lock, session, now)
    with closing(core.store.active_after(session, lock.cursor)) as behind:
        rows = chain(_returned(core, lock), behind)
        taken, expired, poisonous, is_complete = _select(queue, lock, rows, max_count, now)
    if expired or poisonous:
        core.due.remove_expired(tx, expired)
        core.dead_letter_failed(tx, poisonous, queue.settings.max_delivery_count)
        core.store.update_session(session)
    return taken, is_complete


def _select(
    queue: Queue, lock: SessionLock, rows: Iterable[Row | None], max_count: int, now: float
) -> tuple[list[Row], list[int], list[int], bool]:
    """Move past rows. Return those to deliver, the keys of the expired and of the poisonous ones, and `is_complete`.

    A function of its own because of its loop, see `interrupts`.
    """
    taken: list[Row] = []
    expired: list[int] = []
    poisonous: list[int] = []
    total = 0
    for row in rows:
        if row is None:
            return taken, expired, poisonous, False
        total += row.size
        looked_at = len(taken) + len(expired) + len(poisonous)
        if looked_at and (total > STEP_BYTES or len(expired) + len(poisonous) >= STEP_ROWS):
            return taken, expired, poisonous, False
        _move_past(lock, row)
        if _has_expired(queue, lock, row, now):
            expired.append(row.key)
        elif row.count >= queue.settings.max_delivery_count:
            poisonous.append(row.key)
        else:
            taken.append(row)
            if len(taken) == max_count:
                break
    return taken, expired, poisonous, True


def _returned(core: Core, lock: SessionLock) -> Generator[Row | None, None, None]:
    """Yield the abandoned messages, in order. They come before those behind the last delivered one.

    Yield `None` if many abandoned messages are gone, for example because they have expired: the step ends.
    """
    gone = 0
    while lock.returned:
        row = core.store.message(lock.returned[0])
        if row is not None and row.status == ACTIVE:
            yield row  # The receive then moves past the message, or ends.
        else:
            del lock.returned[0]
            gone += 1
            if gone >= STEP_ROWS:
                yield None


def _move_past(lock: SessionLock, row: Row) -> None:
    if lock.returned and lock.returned[0] == row.key:
        del lock.returned[0]
    else:
        lock.cursor = row.key


def _expire_together(core: Core, lock: SessionLock, session: int, now: float) -> None:
    """Let all active messages of the session expire if one of them has. An unsettled message has not."""
    unsettled = {message.key for message in lock.tokens.values()}
    with closing(core.store.expired_in(session, now)) as keys:
        if any(key > lock.expired_through and key not in unsettled for (key,) in keys):
            lock.expired_through = core.store.last_active(session)


def _has_expired(queue: Queue, lock: SessionLock, row: Row, now: float) -> bool:
    if queue.settings.sessions_expire_together:
        return row.key <= lock.expired_through
    return row.expires is not None and row.expires <= now
