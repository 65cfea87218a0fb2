"""Finds and creates the queues of an embedded broker. `Core` calls it."""

from __future__ import annotations

import attrs

from ...errors import QueueNotFoundError
from ...queues import QueueSettings
from .jobs import Transaction
from .queue_state import Queue
from .session_locks import SessionLocks
from .store import Store

#: The most queues that only readers have named. Beyond it, those that nobody uses are forgotten.
MAX_AWAITED = 1000


class QueueCreation:
    """Finds and creates queues. Only jobs may use it.

    With `auto_create`, a reader can wait for the first message of a queue that does not exist. The broker then has an
    *awaited* queue: it is in memory, no list shows it, and it ends with the broker. The first message or state stores it.

    Args:
        store: The stored queues.
        queues: The queues by name, stored and awaited. This object adds to it.
        locks: The locks of all sessions.
        auto_create: Store a queue when the first message is sent to it.
    """

    def __init__(self, store: Store, queues: dict[str, Queue], locks: SessionLocks, *, auto_create: bool) -> None:
        self._store = store
        self._queues = queues
        self._locks = locks
        self._auto_create = auto_create
        # Awaited queues have ids, too: the keys of their locks begin with it. So an id is chosen here, not by the database.
        self._next_id = store.last_queue() + 1

    def find(self, entity: str) -> Queue:
        """Return a queue.

        Raises:
            QueueNotFoundError: There is no such queue, and none can be awaited.
        """
        queue = self._queues.get(entity)
        if queue is not None:
            return queue
        if self._auto_create and self._has_room():
            queue = self._queues[entity] = self._new(entity, QueueSettings())
            return queue
        raise QueueNotFoundError(f"there is no queue {entity!r}")

    def find_to_write(self, tx: Transaction, entity: str) -> Queue:
        """Return a queue to store something in. With `auto_create`, create it.

        Raises:
            QueueNotFoundError: There is no such queue.
        """
        queue = self._queues.get(entity)
        if queue is not None and queue.is_stored:
            return queue
        if self._auto_create:
            return self.add(tx, entity, QueueSettings())
        raise QueueNotFoundError(f"there is no queue {entity!r}")

    def existing(self, entity: str) -> Queue:
        """Return a stored queue.

        Raises:
            QueueNotFoundError: There is no such queue.
        """
        queue = self._queues.get(entity)
        if queue is None or not queue.is_stored:
            raise QueueNotFoundError(f"there is no queue {entity!r}")
        return queue

    def add(self, tx: Transaction, entity: str, settings: QueueSettings) -> Queue:
        """Store a new queue. Readers that await it keep their place."""
        awaited = self._queues.get(entity)
        queue = awaited or self._new(entity, settings)
        before = queue.settings

        def undo() -> None:
            queue.is_stored, queue.settings = False, before
            if awaited is None:
                self._queues.pop(entity, None)

        tx.on_rollback(undo)
        self._queues[entity] = queue
        self._store.add_queue(queue.id, entity, attrs.asdict(settings))
        queue.is_stored, queue.settings = True, settings
        return queue

    def _new(self, entity: str, settings: QueueSettings) -> Queue:
        number, self._next_id = self._next_id, self._next_id + 1
        return Queue(number, entity, settings, 1, is_stored=False)

    def _has_room(self) -> bool:
        awaited = [queue for queue in self._queues.values() if not queue.is_stored]
        if len(awaited) < MAX_AWAITED:
            return True
        locked = {lock.key[0] for lock in self._locks}
        unused = [queue for queue in awaited if queue.id not in locked and not list(queue.acceptors)]
        for queue in unused:
            del self._queues[queue.name]
        return bool(unused)
