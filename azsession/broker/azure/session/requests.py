"""Requests about one session to Azure's management node. `HeldSession` has one `SessionRequests`.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from ....amqp import Condition, Response
from ....errors import QueueError
from ..error_mapping import SESSION_LOCK_LOST_CONDITION
from ..transport.links import CONNECTION_LOST, Receiver

OnAnswer = Callable[["Response | Condition"], object]


class KnownState:
    """Digests of the session states that the holder knows: the confirmed one, and those that it asked Azure to set."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __bool__(self) -> bool:
        """Return whether the holder knows the state."""
        return bool(self._digests)

    def confirm(self, state: object) -> None:
        """Note the state that Azure has."""
        self._digests = {_digest(state)}

    def may_become(self, state: object) -> None:
        """Note a state that Azure is asked to set."""
        if self._digests:
            self._digests.add(_digest(state))

    def allows(self, state: object) -> bool:
        """Return whether Azure can have this state without another holder having set it."""
        return _digest(state) in self._digests


def _digest(state: object) -> bytes:
    return hashlib.sha256(state).digest() if isinstance(state, bytes) else b""


class RequestingSession(Protocol):
    """The session, as its requests see it."""

    error: QueueError | None

    @property
    def link(self) -> Receiver | None:
        """The link, while the lock is known to be held by it."""

    def send_request(self, operation: str, body: dict[str, Any], on_answer: OnAnswer) -> None:
        """Send a request by the present link, once."""

    def lose(self, why: str) -> None:
        """End the session: its lock is lost."""


class SessionRequests:
    """Requests about one session. Each waits for the link, and is sent again where the link was lost before the answer.

    Args:
        session: The session.
        state: Is updated by the requests that get and set the session state.
    """

    def __init__(self, session: RequestingSession, state: KnownState) -> None:
        self._session = session
        self._state = state
        self._waiting: list[Callable[[], object]] = []

    def send(self, operation: str, body: dict[str, Any], done: OnAnswer) -> None:
        """Send a request that may be repeated, and call `done` with the answer or the error."""
        link = self._session.link
        if self._session.error is not None:
            done(Condition(SESSION_LOCK_LOST_CONDITION, "", {}))
            return
        if link is None:
            self._waiting.append(lambda: self.send(operation, body, done))
            return
        if operation == "set-session-state":
            self._state.may_become(body["session-state"])

        def answered(answer: Response | Condition) -> None:
            if isinstance(answer, Condition):
                if answer.condition in (CONNECTION_LOST, SESSION_LOCK_LOST_CONDITION) and self._session.link is not link:
                    self.send(operation, body, done)
                    return
                if answer.condition == SESSION_LOCK_LOST_CONDITION:
                    self._session.lose("Azure refused a request about it")
            elif operation == "set-session-state":
                self._state.confirm(body["session-state"])
            elif operation == "get-session-state" and isinstance(answer.body, dict):
                self._state.confirm(answer.body.get("session-state"))
            done(answer)

        self._session.send_request(operation, body, answered)

    def resume(self) -> None:
        """Send the requests that wait, or answer them where the session is over."""
        waiting, self._waiting = self._waiting, []
        for send in waiting:
            send()
