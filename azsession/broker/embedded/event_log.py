"""The embedded broker's log records about locks that expired and messages that were dead-lettered.

Jobs call `EventLog`. A record is made after the commit of its job, in `LogThread`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from ...logs import About, SessionLogger, get_logger
from .jobs import Transaction
from .log_thread import LogThread
from .message_keys import SEQUENCE_BITS, SEQUENCE_MASK
from .session_locks import SessionLock

logger: SessionLogger = get_logger(__name__)


class EventLog:
    """Logs events of the broker.

    Attributes:
        thread: Makes the records. The broker closes it.
    """

    def __init__(self) -> None:
        self.thread: LogThread = LogThread()

    def lock_expired(self, tx: Transaction, queue_name: str | None, lock: SessionLock) -> None:
        """Log that a lock expired, and with it the locks of its unsettled messages."""
        if logger.isEnabledFor(logging.INFO):
            session_id = lock.key[1]
            text = "the lock of the session %r of %r expired; unsettled messages: %d"
            self._log(tx, text, session_id, queue_name, len(lock.tokens), about=_about(queue_name, session_id))

    def dead_lettered(
        self,
        tx: Transaction,
        queue_name_of: Callable[[int], str | None],
        session_of: Callable[[int], tuple[int, str] | None],
        rows: Iterable[tuple[str | None, str | None, int]],
    ) -> None:
        """Log that messages were dead-lettered.

        Args:
            tx: The transaction that does it.
            queue_name_of: Returns the name of the queue with an id.
            session_of: Returns the session of the message with a key.
            rows: The reason, the description and the key of each message.
        """
        if not logger.isEnabledFor(logging.INFO):
            return
        for reason, _, key in rows:
            session, queue_name = session_of(key), queue_name_of(key >> SEQUENCE_BITS)
            session_id, number = None if session is None else session[1], key & SEQUENCE_MASK
            text = "message %d of the session %r of %r was dead-lettered: %s"
            self._log(tx, text, number, session_id, queue_name, reason, about=_about(queue_name, session_id, number))

    def session_dead_lettered(self, tx: Transaction, queue_name: str, session_id: str, count: int, reason: str) -> None:
        """Log that all messages of a session are dead-lettered."""
        if logger.isEnabledFor(logging.INFO):
            text = "%d messages of the session %r of %r are dead-lettered: %s"
            self._log(tx, text, count, session_id, queue_name, reason, about=_about(queue_name, session_id))

    def _log(self, tx: Transaction, text: str, *arguments: object, about: About) -> None:
        tx.after_commit(partial(self.thread.submit, partial(logger.info, text, *arguments, **about)))


def _about(queue_name: str | None, session_id: str | None, number: int | None = None) -> About:
    return {"queue": queue_name, "session_id": session_id, "sequence_number": number}
