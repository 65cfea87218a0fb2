"""`HeldSessionOperations`: settling, renewing, releasing, and the state of sessions. The broker's operations call it."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence

import attrs

from ...amqp import Condition, Response
from ...errors import ProviderError, QueueError, SessionNotFoundError, UnsupportedOperationError
from ...protocol.error_codes import MESSAGE_LOCK_LOST, NOT_SUPPORTED, SESSION_LOCK_LOST
from ..calls import RECEIVE_REFUSED, AcceptRequest, Delivery, Disposition, ReceiveRequest, Settled, Settlement
from .browsing import MessageBrowser
from .delays import DelayedSessions
from .error_mapping import error_of
from .namespace import Namespace
from .operation import Operation
from .receiving import SessionReceiver
from .session.held_session import HeldSession
from .session.registry import SessionRegistry
from .session.settlement import SettlementResults, disposition_body
from .transport.task import LocalFuture

#: Messages of a session that are dead-lettered at once.
DEAD_LETTER_COUNT = 500
#: Requests to dead-letter a session whose results can be repeated.
MAX_DEAD_LETTERED = 1_000


class HeldSessionOperations:
    """The operations of the holder of a session, except receives. For the loop's thread.

    Args:
        namespace: The namespace.
        registry: The sessions that are held here.
        receiver: Takes locks.
        browser: Finds deferred messages.
        delays: Holds sessions back.
    """

    def __init__(
        self,
        namespace: Namespace,
        registry: SessionRegistry,
        receiver: SessionReceiver,
        browser: MessageBrowser,
        delays: DelayedSessions,
    ) -> None:
        self._namespace = namespace
        self._registry = registry
        self._receiver = receiver
        self._browser = browser
        self._delays = delays
        #: Counts of messages that were dead-lettered with their sessions, by request id.
        self._dead_lettered: OrderedDict[str, int] = OrderedDict()

    # Settling

    async def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], operation: Operation
    ) -> list[str | None]:
        """Settle messages of one session; return an error code or `None` for each."""
        operation.commit()
        session = self._registry.held(entity, session_id)
        if session is not None:
            return await self._settle_here(session, settlements, operation)
        if _delay_of(settlements):
            raise UnsupportedOperationError(
                "only the process that holds the session can delay an abandoned message: abandon it there, or omit the delay",
                code=NOT_SUPPORTED,
            )
        history = self._registry.history
        codes = [history.result_of(settlement, SESSION_LOCK_LOST) for settlement in settlements]
        for index, settlement in enumerate(settlements):
            if codes[index] == SESSION_LOCK_LOST:
                codes[index] = await self._settle_elsewhere(entity, session_id, settlement, operation)
        return codes

    async def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, operation: Operation
    ) -> Settled:
        """Settle messages, then receive those that are there.

        Azure has no request for both. Both are sent in one step where this cannot change the order of messages.
        """
        session = self._registry.held(request.entity, request.session_id)
        if session is None or session.lock_id != request.lock_id or any(_returns(one) for one in settlements):
            return await self._settle_then_receive(settlements, request, operation)
        operation.commit()
        session.is_shared = True
        session.client = request.client or session.client
        settling = settle_held(session, settlements)
        receive = self._receiver.begin(session, request)
        codes: list[str | None] | None = None
        try:
            codes = await self._namespace.wait(settling, operation)
            if all(code is None for code in codes):
                found = await self._receiver.finish(session, receive, operation)
                waited = time.monotonic() - operation.started
                return Settled(codes, Delivery(request.session_id, found, session.lock.left(), waited))
        except QueueError as error:
            if codes is None or not isinstance(error, RECEIVE_REFUSED):
                session.receives.take_back(receive)
                raise
        session.receives.take_back(receive)
        return Settled(codes, None)

    async def _settle_then_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, operation: Operation
    ) -> Settled:
        codes = await self.settle(request.entity, request.session_id, settlements, operation)
        if any(code is not None for code in codes):
            return Settled(codes, None)
        try:
            delivery = await self._receiver.receive(attrs.evolve(request, timeout=0.0), operation.part())
        except RECEIVE_REFUSED:
            return Settled(codes, None)
        return Settled(codes, delivery)

    async def _settle_here(
        self, session: HeldSession, settlements: Sequence[Settlement], operation: Operation
    ) -> list[str | None]:
        delay = _delay_of(settlements)
        if not delay:
            return await self._namespace.wait(settle_held(session, settlements), operation)
        session.receives.withdraw_offer()
        messages = session.unsettled.with_tokens([settlement.lock_token for settlement in settlements])
        is_new = any(message.settlement is None for message in messages)
        if is_new:
            self._delays.begin(session, delay)
        codes = await self._namespace.wait(settle_held(session, settlements), operation)
        if is_new and None not in codes:
            self._delays.cancel(session)
        return codes

    async def _settle_elsewhere(
        self, entity: str, session_id: str, settlement: Settlement, operation: Operation
    ) -> str | None:
        """Settle a message of a session that another process holds: Azure's management node takes its lock token."""
        try:
            uuid.UUID(settlement.lock_token)
        except ValueError:
            return SESSION_LOCK_LOST
        body = disposition_body(settlement, session_id, settlement.lock_token)
        try:
            await self._namespace.manage(entity, "update-disposition", body, operation, session_id=session_id)
        except (SessionNotFoundError, ProviderError) as error:
            if error.is_transient:
                raise
            return SESSION_LOCK_LOST
        except QueueError as error:
            if error.code not in (SESSION_LOCK_LOST, MESSAGE_LOCK_LOST):
                raise
            return error.code
        self._registry.history.add([settlement])
        return None

    async def give_back(
        self, entity: str, session_id: str, lock_id: str, lock_tokens: Sequence[str], operation: Operation
    ) -> None:
        """Return received messages to their places, uncounted."""
        operation.commit()
        session = self._registry.held(entity, session_id)
        if session is not None and session.lock_id == lock_id:
            session.receives.give_back(lock_tokens)
            unread = session.unsettled.take_back_by_number(lock_tokens)
            # Deferring them again counts no delivery.
            settle_held(session, [Settlement(message.token, Disposition.RELEASE) for message in unread])

    async def undo_accept(self, request: AcceptRequest, delivery: Delivery, operation: Operation) -> None:
        """Give back what an accept took that was not answered. The lock stays if another call has used the session."""
        operation.commit()
        session = self._registry.held(request.entity, delivery.session_id)
        if session is not None and session.lock_id == request.lock_id:
            session.receives.give_back([message.receipt.handle for message in delivery.messages])
            if not session.is_shared:
                await self._namespace.wait(session.release(may_return=True), operation)

    async def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str,
        operation: Operation,
    ) -> int:
        """Dead-letter all messages of the session; return how many."""
        known = self._dead_lettered.get(request_id)
        if known is not None:
            return known
        session = await self._receiver.hold(entity, session_id, lock_id, operation)
        operation.commit()

        async def dead_letter(tokens: Sequence[str]) -> int:
            settlements = [Settlement(token, Disposition.DEAD_LETTER, reason, description) for token in tokens]
            return (await self._namespace.wait(settle_held(session, settlements), operation)).count(None)

        session.receives.withdraw_offer()
        count = await dead_letter([message.token for message in session.unsettled])
        rest = ReceiveRequest(entity, session_id, lock_id, max_count=DEAD_LETTER_COUNT, timeout=0.0)
        while True:
            delivery = await self._receiver.receive(rest, operation.part())
            if not delivery.messages:
                break
            count += await dead_letter([message.receipt.handle for message in delivery.messages])
        numbers = await self._browser.numbers("Deferred", entity, session_id, operation)
        for start in range(0, len(numbers), DEAD_LETTER_COUNT):
            some = numbers[start : start + DEAD_LETTER_COUNT]
            found = await self._receiver.take_deferred(session, some, operation)
            count += await dead_letter([message.token for message in found])
        if request_id:
            self._dead_lettered[request_id] = count
            while len(self._dead_lettered) > MAX_DEAD_LETTERED:
                self._dead_lettered.popitem(last=False)
        return count

    # The lock

    async def renew(self, entity: str, session_id: str, lock_id: str, operation: Operation) -> float:
        """Renew the lock; return the seconds until it expires."""
        session = self._registry.require(entity, session_id, lock_id)
        await self._namespace.wait(session.opened, operation)
        operation.commit()
        done: LocalFuture[Response | Condition] = LocalFuture()
        session.lock.renew(done.set_result)
        answer = await self._namespace.wait(done, operation)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return session.lock.left()

    async def release(
        self, entity: str, session_id: str, lock_id: str, settlements: Sequence[Settlement], operation: Operation
    ) -> Sequence[str | None]:
        """Settle messages, then release the lock if this holder has it. Return an error code or `None` for each message."""
        operation.commit()
        codes = await self.settle(entity, session_id, settlements, operation) if settlements else []
        session = self._registry.held(entity, session_id)
        if session is not None and session.lock_id == lock_id:
            if not self._delays.keep(session):
                await self._namespace.wait(session.release(), operation)
        else:
            self._registry.note_ended(entity, session_id, lock_id)
        return codes

    # The state

    async def get_state(self, entity: str, session_id: str, lock_id: str, operation: Operation) -> bytes | None:
        """Return the session state."""
        session = await self._receiver.hold(entity, session_id, lock_id, operation)
        answer = await self._receiver.request(session, "get-session-state", {}, operation)
        state = answer.body.get("session-state") if isinstance(answer.body, dict) else None
        return state if isinstance(state, bytes) else None

    async def set_state(self, entity: str, session_id: str, lock_id: str, state: bytes | None, operation: Operation) -> None:
        """Store the session state."""
        session = await self._receiver.hold(entity, session_id, lock_id, operation)
        operation.commit()
        await self._receiver.request(session, "set-session-state", {"session-state": state}, operation)


def _delay_of(settlements: Sequence[Settlement]) -> float:
    """Return the longest delay of messages that are abandoned."""
    return max((one.delay for one in settlements if one.disposition is Disposition.ABANDON), default=0.0)


def _returns(settlement: Settlement) -> bool:
    """Return whether the message comes again in this session."""
    return settlement.disposition in (Disposition.ABANDON, Disposition.RELEASE)


def settle_held(session: HeldSession, settlements: Sequence[Settlement]) -> LocalFuture[list[str | None]]:
    """Settle messages of a session that is held here."""
    results = SettlementResults(len(settlements))
    session.settle(settlements, results)
    return results.future
