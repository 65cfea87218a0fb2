"""Connections for sessions that lost their links. `SessionRegistry` has one `Reconnector`.

A session gets an open connection at once. If there is none, a coroutine opens one for all sessions that wait.
Everything here runs in the loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ....errors import QueueError
from ..authorized_connection import AuthorizedConnection
from ..namespace import Namespace
from ..operation import Operation
from .held_session import HeldSession
from .relock import VERIFY_TIMEOUT
from .state import SessionState

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds before the next attempt to open a connection.
RECONNECT_PAUSE = 0.4
#: The part of the time for Azure's answer to an attach that Azure may wait for the session to be free.
_WAIT_PART = 0.8


class Reconnector:
    """The sessions that wait for a connection, and the coroutine that opens one.

    Args:
        namespace: The namespace.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._loop = namespace.loop
        self._waiting: set[HeldSession] = set()
        #: A coroutine is opening a connection, or is about to, or the next attempt is due after a pause.
        self._is_opening = False

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
        self._waiting.add(session)
        if not self._is_opening:
            self._is_opening = True
            # After the other events of this round: a lost connection ends many links.
            self._loop.later(0.0, self._start)

    def discard(self, session: HeldSession) -> None:
        """Forget a session that is over."""
        self._waiting.discard(session)

    def _start(self) -> None:
        by_entity: dict[str, list[HeldSession]] = {}
        for session in self._waiting:
            by_entity.setdefault(session.entity, []).append(session)
        self._waiting.clear()
        self._loop.spawn(self._open(by_entity))

    async def _open(self, by_entity: dict[str, list[HeldSession]]) -> None:
        failed = {entity: sessions for entity, sessions in by_entity.items() if not await self._connect_all(entity, sessions)}
        self._after_attempt(failed)

    async def _connect_all(self, entity: str, sessions: Iterable[HeldSession]) -> bool:
        try:
            connection = await self._namespace.connect(entity, Operation())
        except QueueError as error:
            logger.info("sessions of %s wait for the namespace: %s", entity, error)
            return False
        for session in sessions:
            _relock(session, connection)
        return True

    def _after_attempt(self, failed: dict[str, list[HeldSession]]) -> None:
        """Try again after a pause where the attempt failed, and at once for sessions that came meanwhile."""
        self._waiting.update(one for sessions in failed.values() for one in sessions if one.state is SessionState.LINK_LOST)
        self._is_opening = False

        def again() -> None:
            if self._waiting and not self._is_opening:
                self._is_opening = True
                self._start()

        self._loop.later(RECONNECT_PAUSE if failed else 0.0, again)


def _relock(session: HeldSession, connection: AuthorizedConnection) -> None:
    # Azure may wait for the session to be free, for a shorter time than its answer is waited for.
    session.connect(connection, min(VERIFY_TIMEOUT * _WAIT_PART, max(1.0, session.lock.left())))
