"""`SessionReceiver`: receives and accepts on Azure. The broker's operations call it in the loop's thread.

The sessions themselves are in `session`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ...amqp import Condition, Response
from ...errors import ProviderError, QueueError, ThrottledError
from ...logs import SessionLogger, get_logger
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND, SESSION_UNUSABLE
from ..calls import AcceptRequest, Delivery, ReceiveRequest, SupersededError
from .answer_size import fitting
from .error_mapping import error_of
from .namespace import CONNECT_TIMEOUT, Namespace
from .operation import Operation
from .received_messages import ReceivedMessages
from .session.drain_watch import LATE_TIMEOUT
from .session.held_session import HeldSession
from .session.pending_receive import PendingReceive
from .session.registry import SessionRegistry
from .session.requests import OnAnswer
from .session.state import SessionState
from .session.unsettled import UnsettledMessage
from .session.verification import receive_by_number_body
from .transport.task import LocalFuture, WithdrawnError, done_within, pause

logger: SessionLogger = get_logger(__name__)

#: The part of a caller's time for which Azure may wait for a session that another client holds, and the least seconds. The
#: rest is for Azure's answer, so that the caller learns in time that the session is held.
ATTACH_PART, MIN_ATTACH_SECONDS = 0.8, 0.5
#: Seconds of one attach for the next available session. A longer wait is made of several.
ACCEPT_SECONDS = 60.0
#: Seconds before an accept attaches again, after its link was lost or Azure's wait was over. Each pause is twice as long.
FIRST_PAUSE, MAX_PAUSE = 0.02, 1.0
#: Seconds after which a receive or an accept counts as waiting. If there are messages, the answer comes earlier.
QUICKLY = 0.02


class SessionReceiver:
    """Takes session locks and receives messages.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here.
    """

    def __init__(self, namespace: Namespace, registry: SessionRegistry) -> None:
        self._namespace = namespace
        self._registry = registry

    # Receiving

    async def receive(self, request: ReceiveRequest, operation: Operation) -> Delivery:
        """Take the lock if it is free, and receive messages. Waits for the first message, or until the timeout.

        Args:
            request: The session, the holder, and how many messages to receive.
            operation: The call.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session.
            ThrottledError: Too many calls wait already.
            ProviderError: A later attempt of the same request replaced this one.
            QueueError: Another error of Azure.
        """
        waits = request.timeout > 0
        receive = PendingReceive(request.max_count, request.request_id, waits=waits, taken=request.taken)
        session, is_new = self._registry.claim(
            request.entity, request.session_id, request.lock_id, holds_lock=request.holds_lock and bool(request.lock_id)
        )
        session.client = request.client or session.client
        session.receive(receive)
        if is_new:
            self._open(session, operation, self._patience(request.timeout))
        try:
            if not receive.future.done():
                await self._wait_for_messages(receive, session, operation.started + request.timeout, operation)
            messages = receive.future.result()
            operation.commit()
        except (Exception, WithdrawnError) as error:
            session.receives.take_back(receive)
            if is_new:
                self._undo(session, error)
            raise
        found = ReceivedMessages(session, messages)
        return Delivery(request.session_id, found, session.lock.left(), time.monotonic() - operation.started)

    def take_offered(self, request: ReceiveRequest) -> Delivery | None:
        """Return the result of a receive that needs no work of the loop's thread, or `None`. Any thread may call this."""
        offer = self._registry.offers.take(request)
        if offer is None:
            return None
        found = ReceivedMessages(offer.session, [offer.message])
        return Delivery(request.session_id, found, offer.session.lock.left(), 0.0)

    async def _wait_for_messages(
        self, receive: PendingReceive, session: HeldSession, deadline: float, operation: Operation
    ) -> None:
        """Wait until a receive has its messages. End its wait at the deadline."""
        if operation.needs_slot and not await done_within(receive.future, QUICKLY):
            operation.take_slot()
        if not await done_within(receive.future, max(0.0, deadline - time.monotonic())):
            session.receives.expire(receive)
            await self._wait_for_answer(receive, operation)

    async def _wait_for_answer(self, receive: PendingReceive, operation: Operation, seconds: float | None = None) -> None:
        """Wait until Azure has said which messages are there, at most `seconds` beyond the time in which it is late."""
        # A session that is being opened or relocked takes its own time.
        limit = self._namespace.timeout if seconds is None else seconds
        await self._namespace.wait(receive.future, operation, limit + LATE_TIMEOUT)

    async def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int], operation: Operation
    ) -> list[ReceivedMessage]:
        """Receive deferred messages: as many as one answer holds, or none and an error.

        A message that the holder received before and has not settled comes again, with the same lock token.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session, or never had it.
            ProviderError: The session has no deferred message with one of the numbers.
            QueueError: Another error of Azure.
        """
        session = await self.hold(entity, session_id, lock_id, operation)
        operation.commit()
        messages = await self.take_deferred(session, sequence_numbers, operation)
        # Those that do not fit stay unsettled: the next request for them gets them.
        returned = messages[: fitting([message.payload for message in messages])]
        for message in returned:
            message.answers += 1
        return list(ReceivedMessages(session, returned))

    async def take_deferred(
        self, session: HeldSession, sequence_numbers: Sequence[int], operation: Operation
    ) -> list[UnsettledMessage]:
        """Return deferred messages of a session that is held, as unsettled ones. Raises what `receive_deferred` does."""
        wanted, unsettled = list(dict.fromkeys(sequence_numbers)), session.unsettled
        # An earlier call can have been interrupted while Azure locked the messages for it.
        while (change := unsettled.change_by_number(wanted)) is not None:
            await self._namespace.wait(change, operation)
        missing = [number for number in wanted if number not in unsettled.by_number()]
        if missing:
            on_answer = unsettled.requested_by_number(missing)
            body = receive_by_number_body(missing)
            await self.request(session, "receive-by-sequence-number", body, operation, on_answer=on_answer)
        known = unsettled.by_number()
        gone = [number for number in wanted if number not in known]
        if gone:
            raise ProviderError(f"the session has no deferred message {gone[0]}", code=MESSAGE_NOT_FOUND, status=404)
        return [known[number] for number in wanted]

    # Taking the lock

    async def accept(self, request: AcceptRequest, operation: Operation) -> Delivery | None:
        """Take the lock of a session, or of the next available one. Waits until there is one, or until the timeout.

        Args:
            request: The session, or any; the holder.
            operation: The call.

        Returns:
            The session, with messages that are there if the request asks for messages; `None` if no session came.

        Raises:
            SessionLockedError: Another holder has the session that the request names.
            SessionNotFoundError: This holder lost or released that session.
            ThrottledError: Too many calls wait already.
            QueueError: Another error of Azure.
        """
        if request.session_id is None:
            try:
                return await self._accept_next(request, operation)
            finally:
                self._registry.end_accept(request.request_id)
        session, is_new = self._registry.claim(request.entity, request.session_id, request.lock_id)
        if is_new:
            self._open(session, operation, self._patience(request.timeout))
        try:
            await self._wait_until_opened(session, self._namespace.timeout, operation)
            return await self._accepted(session, request.session_id, request, operation)
        except (Exception, WithdrawnError) as error:
            if is_new:
                self._undo(session, error)
            raise

    async def _accept_next(self, request: AcceptRequest, operation: Operation) -> Delivery | None:
        deadline, seconds = operation.started + request.timeout, FIRST_PAUSE
        # Azure's wait ends before the caller's.
        margin = min(MIN_ATTACH_SECONDS, (1.0 - ATTACH_PART) * request.timeout)
        unusable = _UnusableSessions(request.entity)
        while True:
            left = 0.0 if self._registry.is_stopping else max(0.0, deadline - time.monotonic())
            session, is_new = self._registry.claim_next(request.entity, request.lock_id, request.request_id)
            if is_new:
                self._open(session, operation, min(ACCEPT_SECONDS, max(0.0, left - margin)))
            try:
                is_granted = await self._wait_until_opened(session, left + CONNECT_TIMEOUT, operation)
                if is_granted and session.session_id is not None:
                    return await self._accepted(session, session.session_id, request, operation)
            except QueueError as error:
                session.withdraw()
                if unusable.is_new(error) and time.monotonic() < deadline:
                    continue
                if not _can_go_on(session, error) or time.monotonic() + seconds >= deadline:
                    raise
            except WithdrawnError as error:
                session.withdraw()
                if is_new:
                    self._undo(session, error)
                raise
            is_superseded = session.state is SessionState.SUPERSEDED
            left = deadline - time.monotonic()
            if is_superseded or self._registry.is_stopping:
                return None
            if left > 0.0:
                await pause(left if left <= margin else seconds)
            if left <= margin:
                unusable.report()
                return None
            seconds = min(MAX_PAUSE, seconds * 2)

    async def _accepted(
        self, session: HeldSession, session_id: str, request: AcceptRequest, operation: Operation
    ) -> Delivery:
        """Return a session that was granted, with its first messages if the request asks for messages."""
        session.client = request.client or session.client
        found: Sequence[ReceivedMessage] = []
        if request.max_count is not None:
            found = await self._first_messages(session, request.receive_from(session_id, request.max_count), operation)
        operation.commit()
        return Delivery(session_id, found, session.lock.left(), time.monotonic() - operation.started)

    async def _first_messages(
        self, session: HeldSession, request: ReceiveRequest, operation: Operation
    ) -> Sequence[ReceivedMessage]:
        """Return messages that are there; none if Azure fails or is late now, because the session is granted already."""
        receive = self.begin(session, request)
        try:
            found = await self.finish(session, receive, operation, LATE_TIMEOUT)
            operation.commit()
        except SupersededError:
            raise
        except (QueueError, WithdrawnError) as error:
            session.receives.take_back(receive)
            if isinstance(error, WithdrawnError):
                raise
            return []
        return found

    def begin(self, session: HeldSession, request: ReceiveRequest) -> PendingReceive:
        """Request the messages that are there, of a session that is held. Give the result to `finish`."""
        receive = PendingReceive(request.max_count, request.request_id, waits=False, taken=request.taken)
        session.receive(receive)
        return receive

    async def finish(
        self, session: HeldSession, receive: PendingReceive, operation: Operation, seconds: float | None = None
    ) -> ReceivedMessages:
        """Return the messages of a receive that `begin` began. Wait for Azure's `timeout`, or for about `seconds`.

        Raises:
            SessionNotFoundError: The lock is lost.
            ProviderError: A later attempt of the same request replaced this one.
            QueueError: Another error of Azure.
        """
        await self._wait_for_answer(receive, operation, seconds)
        return ReceivedMessages(session, receive.future.result())

    async def _wait_until_opened(self, session: HeldSession, seconds: float, operation: Operation) -> bool:
        """Return whether Azure granted a session."""
        if operation.needs_slot and not await done_within(session.opened, QUICKLY):
            operation.take_slot()
        return await self._namespace.wait(session.opened, operation, seconds)

    def _undo(self, session: HeldSession, error: BaseException) -> None:
        """Give back the lock of a session that a call took whose caller does not know that it has the lock."""
        if isinstance(error, (WithdrawnError, ThrottledError)) and not (session.is_shared or len(session.receives)):
            session.release(may_return=True)

    async def hold(self, entity: str, session_id: str, lock_id: str, operation: Operation) -> HeldSession:
        """Return the holder's session. Waits until the lock is taken.

        A caller without a lock id, of the plain dialect, takes the lock if it is free.

        Raises:
            SessionLockedError: Another holder has the session.
            SessionNotFoundError: This holder lost or released the session, or never had it.
            QueueError: Another error of Azure.
        """
        session, is_new = self._registry.claim(entity, session_id, lock_id, holds_lock=bool(lock_id))
        if is_new:
            self._open(session, operation, MIN_ATTACH_SECONDS)
        await self._namespace.wait(session.opened, operation)
        return session

    def _patience(self, timeout: float) -> float:
        """Return how many seconds Azure may wait for a named session, for a caller that waits `timeout` seconds."""
        return max(MIN_ATTACH_SECONDS, min(timeout, self._namespace.timeout) * ATTACH_PART)

    def _open(self, session: HeldSession, operation: Operation, seconds: float) -> None:
        """Have the lock of a new session taken, also if the caller withdraws: others may wait in the session.

        Azure may wait `seconds` until the session is free, or until there is one.
        """
        connection = self._namespace.ready_connection(session.entity)
        if connection is not None:
            session.connect(connection, seconds)
        else:
            self._namespace.loop.spawn(self._connect(session, operation.part(), time.monotonic() + seconds))

    async def _connect(self, session: HeldSession, operation: Operation, until: float) -> None:
        """Connect a session. A failure ends the session, and is reported to everyone who waits in it."""
        try:
            connection = await self._namespace.connect(session.entity, operation)
        except QueueError as error:
            session.fail(error)
        else:
            least = MIN_ATTACH_SECONDS if session.session_id is not None else 0.0
            session.connect(connection, max(least, until - time.monotonic()))

    # Requests about a session

    async def request(
        self,
        session: HeldSession,
        name: str,
        body: dict[str, Any],
        operation: Operation,
        *,
        on_answer: OnAnswer | None = None,
    ) -> Response:
        """Send a request about a session that is held to the management node.

        Args:
            session: The session.
            name: The operation of the management node, without its prefix ``com.microsoft:``.
            body: The request.
            operation: The call.
            on_answer: Is called with the answer, also if it comes too late for this call.

        Raises:
            ConnectionFailedError: Azure did not answer in time.
            QueueError: The error that the management node answered.
        """
        done: LocalFuture[Response | Condition] = LocalFuture()

        def answered(answer: Response | Condition) -> None:
            if on_answer is not None:
                on_answer(answer)
            done.set_result(answer)

        session.requests.send(name, body, answered)
        answer = await self._namespace.wait(done, operation)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=session.entity, session_id=session.session_id)
        return answer


def _can_go_on(session: HeldSession, error: QueueError) -> bool:
    """Return whether an accept asks for another session: its link was lost, or it got a session that cannot be used."""
    if isinstance(error, ThrottledError):
        return False
    return error.code == SESSION_UNUSABLE or session.state in (SessionState.INTERRUPTED, SessionState.SUPERSEDED)


class _UnusableSessions:
    """The sessions that one accept got and cannot use. They are released, and do not delay others."""

    def __init__(self, entity: str) -> None:
        self._entity = entity
        self._errors: dict[str, QueueError] = {}

    def is_new(self, error: QueueError) -> bool:
        """Return whether an error is about such a session, for the first time."""
        if error.code != SESSION_UNUSABLE or str(error) in self._errors:
            return False
        logger.warning("%s", error, queue=self._entity)
        self._errors[str(error)] = error
        return True

    def report(self) -> None:
        """Raise the first error, which names its session, if there was any."""
        if self._errors:
            raise next(iter(self._errors.values()))
