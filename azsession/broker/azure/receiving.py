"""`SessionReceiver`: receives and accepts on Azure. The broker calls it in the caller's thread, which waits here.

The sessions themselves belong to the loop's thread: see `session`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime, timedelta, timezone
from typing import Any

from ...amqp import Condition, Response
from ...errors import ProviderError, QueueError
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..base import AcceptRequest, CallContext, Caller, Delivery, ReceiveRequest
from .error_mapping import error_of
from .message_mapping import received
from .namespace import CONNECT_TIMEOUT, Namespace
from .session.held_session import HeldSession
from .session.pending_receives import DRAIN_TIMEOUT, PendingReceive
from .session.registry import SessionRegistry
from .session.state import SessionState
from .session.unsettled import UnsettledMessage, messages_by_number
from .session.verification import receive_by_number_body
from .transport.loop import closed_error

#: Seconds of one attach for the next available session. A longer wait is made of several.
ACCEPT_SECONDS = 60.0
#: Seconds before an accept attaches again, after its link was lost or Azure's wait was over. Each pause is twice as long.
FIRST_PAUSE, MAX_PAUSE = 0.02, 1.0
#: Seconds of a wait after which the caller is watched. A receive that finds messages is answered in less.
QUICKLY = 0.02


class SessionReceiver:
    """Takes session locks and receives messages.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here.
    """

    def __init__(self, namespace: Namespace, registry: SessionRegistry) -> None:
        self._namespace = namespace
        self._loop = namespace.loop
        self._registry = registry

    # Receiving

    def receive(self, request: ReceiveRequest, caller: Caller, context: CallContext) -> Delivery:
        """Take the lock if it is free, and receive messages. Blocks until the first message comes, or the timeout.

        Args:
            request: The session, the holder, and how many messages to receive.
            caller: The wait ends when this caller goes away.
            context: The deadline for Azure's answers.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session.
            ProviderError: A later attempt of the same request replaced this one.
            QueueError: Another error of Azure.
        """
        session_id, started = request.session_id, time.monotonic()
        if caller.is_gone():
            return Delivery(session_id, [], 0.0, 0.0)
        receive = PendingReceive(request.max_count, request.request_id, waits=request.timeout > 0)
        held = self._registry.held(request.entity, session_id)
        if held is not None and held.lock_id == request.lock_id:
            # Most receives come here: they wait for the loop's thread once, not twice.
            session = held
            self._loop.resolve(receive.future, lambda: session.receive(receive))
        else:
            session = self._claim(request, receive, context)
        try:
            messages = self._wait_for_messages(session, receive, started + request.timeout, caller, context)
        except BaseException:
            self._loop.call(lambda: session.receives.take_back(receive))
            raise
        if messages and caller.is_gone():
            self._loop.run(lambda: session.receives.take_back(receive))
            messages = []
        left = session.lock.left()
        return Delivery(session_id, _received(session, messages, left), left, time.monotonic() - started)

    def _claim(self, request: ReceiveRequest, receive: PendingReceive, context: CallContext) -> HeldSession:
        """Return the holder's session, with the receive waiting in it."""
        holds_lock = request.holds_lock and bool(request.lock_id)

        def job() -> tuple[HeldSession, bool]:
            session, is_new = self._registry.claim(request.entity, request.session_id, request.lock_id, holds_lock=holds_lock)
            session.receive(receive)
            return session, is_new

        session, is_new = self._loop.run(job)
        if is_new:
            self._open(session, context)
        return session

    def _wait_for_messages(
        self, session: HeldSession, receive: PendingReceive, deadline: float, caller: Caller, context: CallContext
    ) -> list[UnsettledMessage]:
        """Return a receive's messages. End its wait at the deadline, and when the caller goes away."""
        try:
            return receive.future.result(QUICKLY)
        except FutureTimeoutError:
            if receive.future.done():
                raise
        with caller.watched(lambda: self._loop.call(lambda: session.receives.cancel(receive))):
            try:
                return receive.future.result(max(0.0, deadline - time.monotonic()))
            except FutureTimeoutError:
                if receive.future.done():
                    raise
            self._loop.call(lambda: session.receives.expire(receive))
            # Azure answers which messages are there. A session that is being opened or relocked takes its own time.
            return self._namespace.wait(receive.future, context, self._namespace.timeout + DRAIN_TIMEOUT)

    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int], context: CallContext
    ) -> list[ReceivedMessage]:
        """Receive deferred messages: all of them, or none and an error. Blocks.

        A message that the holder received before and has not settled comes again, with the same lock token.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session, or never had it.
            ProviderError: The session has no deferred message with one of the numbers.
            QueueError: Another error of Azure.
        """
        session = self.hold(entity, session_id, lock_id, context)
        wanted = list(dict.fromkeys(sequence_numbers))
        unsettled = self._loop.run(session.unsettled.received_by_number)
        known = {message.sequence_number: message for message in unsettled}
        missing = [number for number in wanted if number not in known]
        if missing:
            answer = self.request(session, "receive-by-sequence-number", receive_by_number_body(missing), context)
            fresh = messages_by_number(answer)

            def add() -> None:
                for message in fresh:
                    session.unsettled.add(message)

            self._loop.run(add)
            known.update({message.sequence_number: message for message in fresh})
        gone = [number for number in wanted if number not in known]
        if gone:
            raise ProviderError(f"the session has no deferred message {gone[0]}", code=MESSAGE_NOT_FOUND, status=404)
        return _received(session, [known[number] for number in wanted], session.lock.left())

    # Taking the lock

    def accept(self, request: AcceptRequest, context: CallContext) -> Delivery | None:
        """Take the lock of a session, or of the next available one. Blocks until there is one, or the timeout.

        Args:
            request: The session, or any; the holder.
            context: The caller, which ends the wait when it goes away, and the deadline for Azure's answers.

        Returns:
            The session without messages; `None` if no session came.

        Raises:
            SessionLockedError: Another holder has the session that the request names.
            SessionNotFoundError: This holder lost or released that session.
            QueueError: Another error of Azure.
        """
        started = time.monotonic()
        if context.caller.is_gone():
            return None
        if request.session_id is not None:
            session = self._take(request.entity, request.session_id, request.lock_id, context)
            return Delivery(request.session_id, [], session.lock.left(), time.monotonic() - started)
        return self._accept_next(request, context, started)

    def _accept_next(self, request: AcceptRequest, context: CallContext, started: float) -> Delivery | None:
        caller, deadline, pause = context.caller, started + request.timeout, FIRST_PAUSE
        while True:
            left = 0.0 if self._registry.is_stopping else max(0.0, deadline - time.monotonic())
            session, is_new = self._loop.run(
                lambda: self._registry.claim_next(request.entity, request.lock_id, request.request_id)
            )
            if is_new:
                self._open(session, context, min(ACCEPT_SECONDS, left))
            try:
                is_granted = self._wait_until_opened(session, left, context)
            except QueueError:
                # An accept whose link was lost goes on by another link.
                can_go_on = session.state in (SessionState.INTERRUPTED, SessionState.SUPERSEDED)
                if not can_go_on or time.monotonic() + pause >= deadline:
                    raise
                is_granted = False
            if is_granted and session.session_id is not None:
                if caller.is_gone():
                    self._loop.run(session.release)
                    return None
                return Delivery(session.session_id, [], session.lock.left(), time.monotonic() - started)
            is_superseded = session.state is SessionState.SUPERSEDED
            if is_superseded or caller.is_gone() or self._registry.is_stopping or time.monotonic() >= deadline:
                return None
            _pause(pause, caller)
            pause = min(MAX_PAUSE, pause * 2)

    def _wait_until_opened(self, session: HeldSession, seconds: float, context: CallContext) -> bool:
        """Return whether Azure granted a session. If the wait ends before, the session is withdrawn."""

        def withdraw() -> None:
            self._loop.call(session.withdraw)

        try:
            with context.caller.watched(withdraw):
                # Azure's own wait ends a little before.
                return self._namespace.wait(session.opened, context, seconds + CONNECT_TIMEOUT)
        except BaseException:
            withdraw()
            raise

    def hold(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> HeldSession:
        """Return the holder's session. Blocks until the lock is taken.

        A caller without a lock id, of the plain dialect, takes the lock if it is free.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session, or never had it.
            QueueError: Another error of Azure.
        """
        return self._take(entity, session_id, lock_id, context, holds_lock=bool(lock_id))

    def _take(
        self, entity: str, session_id: str, lock_id: str, context: CallContext, *, holds_lock: bool = False
    ) -> HeldSession:
        session, is_new = self._loop.run(lambda: self._registry.claim(entity, session_id, lock_id, holds_lock=holds_lock))
        if is_new:
            self._open(session, context)
        self._namespace.wait(session.opened, context)
        return session

    def _open(self, session: HeldSession, context: CallContext, timeout: float | None = None) -> None:
        """Have the lock of a new session taken. A failure ends the session, and is reported to everyone who waits in it."""
        try:
            connection = self._namespace.connect(session.entity, context)
            seconds = self._namespace.timeout if timeout is None else timeout
            self._loop.call(lambda: session.connect(connection, seconds))
        except QueueError as error:
            failure = error
            self._loop.call(lambda: session.fail(failure))
        except BaseException:
            self._loop.call(lambda: session.fail(closed_error()))
            raise

    # Requests about a session

    def request(self, session: HeldSession, operation: str, body: dict[str, Any], context: CallContext) -> Response:
        """Send a request about a session that is held to the management node. Blocks.

        Raises:
            ConnectionFailedError: Azure did not answer in time.
            QueueError: The error that the management node answered.
        """
        done: Future[Response | Condition] = Future()
        self._loop.call(lambda: session.requests.send(operation, body, done.set_result))
        answer = self._namespace.wait(done, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=session.entity, session_id=session.session_id)
        return answer


def _pause(seconds: float, caller: Caller) -> None:
    ended = threading.Event()
    with caller.watched(ended.set):
        ended.wait(seconds)


def _received(session: HeldSession, messages: Sequence[UnsettledMessage], left: float) -> list[ReceivedMessage]:
    now = datetime.now(timezone.utc)
    expires_at = now + timedelta(seconds=left)
    return [
        received(
            message.message,
            message.token,
            queue_name=session.entity,
            session_id=session.session_id or "",
            expires_at=expires_at,
            delivered_at=now,
        )
        for message in messages
    ]
