"""Receives and accepts: having a session's lock taken, and waiting for it and for its messages, in the caller's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime, timedelta, timezone
from typing import Any

from ... import amqp
from ...amqp import Condition, Response
from ...errors import ProviderError, QueueError
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..base import AcceptRequest, CallContext, Caller, Delivery, ReceiveRequest
from .error_mapping import error_of
from .message_mapping import received
from .namespace import CONNECT_TIMEOUT, Namespace
from .session.held_session import HeldSession
from .session.pending_receives import DRAIN_TIMEOUT, Wait
from .session.registry import Table
from .session.unsettled import InHand, put_aside
from .transport.loop import closed_error

#: Seconds of one wait of Azure's for a next available session; a longer one is made of several.
ACCEPT_SECONDS = 60.0
#: Seconds before one who waits for any session asks again, where the link was lost or Azure's wait over; then twice as long.
FIRST_PAUSE, MAX_PAUSE = 0.02, 1.0
#: Seconds in which a receive is answered that finds messages: until then nobody looks whether its caller is there.
QUICKLY = 0.02


class Receiving:
    """The part of the broker on Azure that takes locks and messages."""

    def __init__(self, namespace: Namespace, table: Table) -> None:
        self._namespace = namespace
        self._loop = namespace.loop
        self._table = table

    def receive(self, request: ReceiveRequest, caller: Caller, context: CallContext) -> Delivery:
        """Take the lock and messages, waiting for the first."""
        session_id, started = request.session_id, time.monotonic()
        if caller.is_gone():
            return Delivery(session_id, [], 0.0, 0.0)
        wait = Wait(request.max_count, request.request_id)
        wait.over = request.timeout <= 0
        held = self._table.held(request.entity, session_id)
        if held is not None and held.lock_id == request.lock_id:
            # By far the most receives: they need not wait for the loop's thread twice.
            session = held
            self._loop.resolve(wait.future, lambda: session.waiting.want(wait))
        else:
            session = self._claim(request, wait, context)
        try:
            messages = self._await(session, wait, started + request.timeout, caller, context)
        except BaseException:
            self._loop.call(lambda: session.waiting.take_back(wait))
            raise
        if messages and caller.is_gone():
            self._loop.run(lambda: session.waiting.take_back(wait))
            messages = []
        left = session.left()
        return Delivery(session_id, self._received(session, messages, left), left, time.monotonic() - started)

    def _claim(self, request: ReceiveRequest, wait: Wait, context: CallContext) -> HeldSession:
        """Return the holder's session, with the receive waiting in it."""
        holds = request.holds_lock and bool(request.lock_id)

        def job() -> tuple[HeldSession, bool]:
            session, is_new = self._table.claim(request.entity, request.session_id, request.lock_id, holds=holds)
            session.waiting.want(wait)
            return session, is_new

        session, is_new = self._loop.run(job)
        if is_new:
            self._open(session, context)
        return session

    def _await(self, session: HeldSession, wait: Wait, deadline: float, caller: Caller, context: CallContext) -> list[InHand]:
        """Return what a receive gets, ending its wait when its time is over or its caller went away."""
        try:
            return wait.future.result(QUICKLY)
        except FutureTimeoutError:
            if wait.future.done():
                raise
        with caller.watched(lambda: self._loop.call(lambda: session.waiting.give_up(wait, unwanted=True))):
            try:
                return wait.future.result(max(0.0, deadline - time.monotonic()))
            except FutureTimeoutError:
                if wait.future.done():
                    raise
            self._loop.call(lambda: session.waiting.give_up(wait))
            # Azure answers what is there; a session that is not open yet, or whose link was lost, has its own time.
            return self._namespace.wait(wait.future, context, self._namespace.timeout + DRAIN_TIMEOUT)

    def _received(self, session: HeldSession, messages: Sequence[InHand], left: float) -> list[ReceivedMessage]:
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

    def _open(self, session: HeldSession, context: CallContext, timeout: float | None = None) -> None:
        """Have the lock of a claimed session taken; a failure ends the session, and with it whoever waits in it."""
        try:
            uplink = self._namespace.reach(session.entity, context)
            seconds = self._namespace.timeout if timeout is None else timeout
            self._loop.call(lambda: session.attach(uplink, seconds))
        except QueueError as error:
            failure = error
            self._loop.call(lambda: session.end(failure))
        except BaseException:
            self._loop.call(lambda: session.end(closed_error()))
            raise

    def accept(self, request: AcceptRequest, context: CallContext) -> Delivery | None:
        """Take the lock of a session, or of the next available one."""
        entity, session_id, lock_id = request.entity, request.session_id, request.lock_id
        caller, timeout, started = context.caller, request.timeout, time.monotonic()
        if caller.is_gone():
            return None
        if session_id is not None:
            session = self._take(entity, session_id, lock_id, context)
            return Delivery(session_id, [], session.left(), time.monotonic() - started)
        pause = FIRST_PAUSE
        while True:
            left = 0.0 if self._table.stopping else started + timeout - time.monotonic()
            session, is_new = self._loop.run(lambda: self._table.pend(entity, lock_id, request.request_id))
            if is_new:
                self._open(session, context, min(ACCEPT_SECONDS, max(0.0, left)))
            try:
                came = self._await_opened(session, max(0.0, left), context)
            except QueueError as error:
                # Where the link was lost while it waited, it waits on by another one.
                if not session.lost_link or not error.is_transient or time.monotonic() + pause >= started + timeout:
                    raise
                came = False
            if came and session.session_id is not None:
                if caller.is_gone():
                    self._loop.run(session.release)
                    return None
                return Delivery(session.session_id, [], session.left(), time.monotonic() - started)
            if session.superseded or caller.is_gone() or self._table.stopping or time.monotonic() >= started + timeout:
                return None
            self._pause(pause, caller)
            pause = min(MAX_PAUSE, pause * 2)

    def _pause(self, seconds: float, caller: Caller) -> None:
        ended = threading.Event()
        with caller.watched(ended.set):
            ended.wait(seconds)

    def _await_opened(self, session: HeldSession, seconds: float, context: CallContext) -> bool:
        """Tell whether a session came; nobody waits for it any more then if not."""

        def withdraw() -> None:
            self._loop.call(lambda: self._table.withdraw(session))

        try:
            with context.caller.watched(withdraw):
                # Azure's own wait ends a little before ours.
                return self._namespace.wait(session.opened, context, seconds + CONNECT_TIMEOUT)
        except BaseException:
            withdraw()
            raise

    def hold(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> HeldSession:
        """Return the holder's session; a caller without a lock id takes its lock if it is free.

        Raises:
            SessionLockedError: Another holder has it.
            SessionNotFoundError: This holder lost or released it, or never had it.
        """
        return self._take(entity, session_id, lock_id, context, holds=bool(lock_id))

    def _take(self, entity: str, session_id: str, lock_id: str, context: CallContext, *, holds: bool = False) -> HeldSession:
        session, is_new = self._loop.run(lambda: self._table.claim(entity, session_id, lock_id, holds=holds))
        if is_new:
            self._open(session, context)
        self._namespace.wait(session.opened, context)
        return session

    def ask(self, session: HeldSession, operation: str, body: dict[str, Any], context: CallContext) -> Response:
        """Ask the management node about a session that is held.

        Raises:
            QueueError: What it answered, or that it did not.
        """
        done: Future[Response | Condition] = Future()
        self._loop.call(lambda: session.ask(operation, body, done.set_result))
        answer = self._namespace.wait(done, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=session.entity, session_id=session.session_id)
        return answer

    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int], context: CallContext
    ) -> list[ReceivedMessage]:
        """Receive deferred messages, all or none; what the holder has in hand already comes again, under the same token."""
        session = self.hold(entity, session_id, lock_id, context)
        wanted = list(dict.fromkeys(sequence_numbers))

        def in_hand() -> dict[int, InHand]:
            return {one.sequence_number: one for one in session.settling.in_hand.values() if one.delivery_id is None}

        known = self._loop.run(in_hand)
        missing = [number for number in wanted if number not in known]
        if missing:
            body = {
                "sequence-numbers": amqp.Array([amqp.Long(number) for number in missing]),
                "receiver-settle-mode": amqp.Uint(1),
            }
            answer = self.ask(session, "receive-by-sequence-number", body, context)
            fresh = put_aside(answer)
            self._loop.run(lambda: session.settling.in_hand.update({one.token: one for one in fresh}))
            known.update({one.sequence_number: one for one in fresh})
        gone = [number for number in wanted if number not in known]
        if gone:
            raise ProviderError(f"the session has no deferred message {gone[0]}", code=MESSAGE_NOT_FOUND, status=404)
        return self._received(session, [known[number] for number in wanted], session.left())
