"""The inside of the stand-in, for tests: its queues, locks, links and tokens. `server` has these methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.standin.boxes import Counts
from tests.standin.loop import Loop
from tests.standin.state import Queue
from tests.standin.tokens import path_of

if TYPE_CHECKING:
    from tests.standin.connection import Peer

Entry = tuple[str | None, int, Any]


class Inside:
    """Methods that look inside. Each is thread-safe, and does not wait for clients."""

    loop: Loop
    peers: set[Peer]

    def _find(self, path: str) -> Queue | None:
        raise NotImplementedError

    def counts(self, entity: str) -> Counts:
        """Return the numbers of an entity's messages by state."""
        return self.loop.call(lambda: self._queue(entity).counts())

    def completed(self, entity: str) -> list[Entry]:
        """Return session id, sequence number and message id of the completed messages, in order."""
        return self.loop.call(lambda: list(self._queue(entity).completed))

    def accepted(self, entity: str) -> list[Entry]:
        """Return session id, sequence number and message id of the accepted messages, in order."""
        return self.loop.call(lambda: list(self._queue(entity).accepted))

    def locked_sessions(self, entity: str) -> set[str]:
        """Return the ids of the locked sessions."""
        boxes = self._queue(entity).boxes
        return self.loop.call(lambda: {box.name for box in boxes.values() if box.holder is not None})

    def waiting_accepts(self, entity: str) -> int:
        """Return how many links wait for the next available session of an entity."""
        queue = self._queue(entity)
        return self.loop.call(lambda: len(queue.waiting))

    def contents(self, entity: str) -> list[object]:
        """Return the parts of the waiting messages that their senders wrote."""
        messages = self._queue(entity).order.messages

        def find() -> list[object]:
            found = [message.content for message in messages.values()]
            return [(each.properties, each.application, each.body, each.annotations, each.header[:2]) for each in found]

        return self.loop.call(find)

    def links(self) -> int:
        """Return how many links there are, including those of `$cbs` and `$management`."""
        return self.loop.call(lambda: sum(len(peer.links) for peer in self.peers))

    def connections(self) -> int:
        """Return how many connections there are."""
        return self.loop.call(lambda: len(self.peers))

    def tokens(self) -> list[float]:
        """Return when the tokens of all connections expire, in seconds since 1970."""
        return self.loop.call(lambda: [grant.expires for peer in self.peers for grant in peer.grants.values()])

    def _queue(self, entity: str) -> Queue:
        queue = self._find(path_of(entity))
        if queue is None:
            raise KeyError(entity)
        return queue

    def lock_end(self, entity: str, session_id: str) -> float | None:
        """Return when the lock of a session ends, in seconds since 1970, or `None` if it is not locked."""
        boxes = self._queue(entity).boxes

        def find() -> float | None:
            box = boxes.get(session_id)
            return None if box is None or box.holder is None else box.locked_until

        return self.loop.call(find)

    def locked_dead_letters(self, entity: str) -> list[str]:
        """Return the lock tokens of the dead letters that are locked."""
        dead_letters = self._queue(entity).dead_letter
        assert dead_letters is not None
        return self.loop.call(lambda: [token.hex() for token in dead_letters.locked])
