"""Connections for sessions that lost their links. `SessionRegistry` has one `Reconnector`.

A session gets an open connection at once. Without an open connection, one coroutine for each entity waits for one, for all
sessions of the entity. After each failure, the coroutine pauses longer. While the namespace cannot be reached, the whole
process shares the pauses: no session and no entity makes attempts of its own.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from ....errors import QueueError
from ....logs import SessionLogger, get_logger
from ..authorized_connection import AuthorizedConnection
from ..backoff import Backoff
from ..namespace import Namespace
from ..operation import Operation
from ..transport.task import pause as paused
from .held_session import HeldSession
from .relock import VERIFY_TIMEOUT
from .state import SessionState

logger: SessionLogger = get_logger(__name__)

#: The part of the time for Azure's answer to an attach that Azure may wait for the session to be free.
_WAIT_PART = 0.8


class Reconnector:
    """The sessions that wait for a connection, and the coroutines that open one.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._loop = namespace.loop
        #: The sessions that wait, by entity. There is a coroutine for each entity here.
        self._waiting: dict[str, set[HeldSession]] = {}
        #: The attempts to reach the namespace.
        self._unreachable = Backoff()

    def connect(self, session: HeldSession, pause: float) -> None:
        """Give the session a connection after `pause` seconds."""
        if pause:
            self._loop.later(pause, lambda: self.connect(session, 0.0))
            return
        if session.state is not SessionState.LINK_LOST:
            return
        connection = self._namespace.ready_connection(session.entity)
        if connection is not None:
            _relock(session, connection)
            return
        waiting = self._waiting.get(session.entity)
        if waiting is not None:
            waiting.add(session)
            return
        self._waiting[session.entity] = {session}
        self._loop.spawn(self._open(session.entity))

    def discard(self, session: HeldSession) -> None:
        """Forget a session that is over."""
        waiting = self._waiting.get(session.entity)
        if waiting is not None:
            waiting.discard(session)

    async def _open(self, entity: str) -> None:
        """Make attempts until no session of the entity waits."""
        refused, waiting = Backoff(), self._waiting[entity]
        try:
            # After the other events of this round: a lost connection ends many links.
            await paused(0.0)
            while waiting:
                left = max(refused.left(), self._unreachable.left())
                if left > 0.0:
                    await paused(left)
                    continue
                try:
                    connection = await self._namespace.connect(entity, Operation())
                except QueueError as error:
                    logger.info("sessions of %s wait for the namespace: %s", entity, error, queue=entity)
                    (refused if self._namespace.is_connected else self._unreachable).fail()
                    continue
                self._unreachable.succeed()
                while waiting and not connection.transport.is_full:
                    _relock(waiting.pop(), connection)
        finally:
            del self._waiting[entity]


def _relock(session: HeldSession, connection: AuthorizedConnection) -> None:
    # Azure may wait for the session to be free, for a shorter time than its answer is waited for.
    session.connect(connection, min(VERIFY_TIMEOUT * _WAIT_PART, max(1.0, session.lock.left())))
