"""A link by which a client receives from a message session, whose lock it holds."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ... import amqp
from ...amqp import Attach, Disposition
from ...broker.calls import AcceptRequest, Delivery, ReceiveRequest, Settlement
from ...broker.calls import Disposition as Settles
from ...errors import QueueError
from ...messages import ReceivedMessage
from ...protocol.routes import Operation
from .broker_calls import CONTEXT, WithdrawnError, result_of, when_done, withdraw
from .conditions import TIMEOUT, RefusedError, not_settled, refusal_of
from .link import LinkChannel
from .messages import encode_received, ticks_in
from .outcomes import outcome_of, settlement_of
from .outgoing import OutgoingLink, Signal
from .reporter import Reporter, log_lock
from .states import LinkState

#: Seconds that Azure lets a receiver wait for a session if the attach has no timeout, and seconds at most.
DEFAULT_WAIT, MAX_WAIT = 65.0, 86400.0
#: Messages that one call of the broker fetches at most.
MAX_FETCH = 100
#: Messages that the first fetch has at most, and bytes that a fetch has about if messages are as large as the last ones.
FIRST_FETCH, FETCH_BYTES = 16, 1024 * 1024
#: Seconds after the end of a lock when the receiver looks whether the lock is lost, and seconds between two looks at most.
AFTER_EXPIRY, LONGEST_LOOK_PAUSE = 0.02, 1.0


class SessionReceiver(OutgoingLink):
    """A client's receiver of one session, or one that waits for the next available session.

    While the link has credit, a receive of the broker waits for messages, which keeps the lock; so does Azure
    (Azure/azure-service-bus#694). Without credit, the lock ends unless the client renews it.

    Args:
        channel: The AMQP session.
        attach: The client's attach.
        path: The path of the entity.
        entity: The entity.
        session_id: The message session; `None` for the next available one.
    """

    operations: tuple[Operation, ...] = (Operation.ACCEPT,)
    can_be_stolen = True

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str, session_id: str | None) -> None:
        super().__init__(channel, attach, path, entity)
        self.lock_id: str = uuid.uuid4().hex
        self._session_id = session_id
        self._broker = channel.connection.services.broker
        self._deletes = attach.sender_settle_mode == amqp.SENDER_SETTLED
        self._accepting: Future[Delivery | None] | None = None
        self._has_lock = False
        self._lock_seconds = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._signal = Signal()
        self._receiving: Future[Delivery] | None = None
        self._wanted = 0
        self._average = FETCH_BYTES // FIRST_FETCH

    @property
    def session_id(self) -> str | None:
        return self._session_id

    @property
    def link_name(self) -> str:
        """The client's name of the link."""
        return self.attach.name

    @property
    def _reporter(self) -> Reporter:
        return self.channel.connection.services.reporter

    # The session's lock

    async def prepare(self) -> None:
        given = self.attach.properties.get("com.microsoft:timeout")
        timeout = given / 1000 if isinstance(given, int) else DEFAULT_WAIT
        wait = 0.0 if self._session_id is not None else max(0.0, min(timeout, MAX_WAIT))
        request = AcceptRequest(self.entity, self._session_id, self.lock_id, timeout=wait)
        self._accepting = self._broker.accept(request, context=CONTEXT)
        with self._reporter.waiting(Operation.ACCEPT, self._accepting) as waiting:
            delivery = await result_of(self._accepting)
        self._accepting, self._waited = None, waiting.seconds
        if delivery is None:
            text = "The operation did not complete within the allotted timeout: no session was available."
            raise RefusedError(TIMEOUT, text, 408)
        self._session_id = delivery.session_id
        self._has_lock = True
        self.channel.connection.held[self.entity, delivery.session_id] = self
        self.renewed(delivery.lock_expires_in)
        self.report(Operation.ACCEPT, 201, self._began, waited=self._waited, **self.about)
        log_lock("took", self.entity, delivery.session_id)

    def _undo(self, delivery: Delivery | None) -> None:
        """Give back a session that came after the client had gone."""
        if delivery is not None:
            self._broker.release(self.entity, delivery.session_id, self.lock_id, context=CONTEXT)

    def answer(self) -> Mapping[str, Any]:
        until = {"com.microsoft:locked-until-utc": ticks_in(self._lock_seconds)}
        return {"session_id": self._session_id, "properties": until}

    def on_granted(self) -> None:
        self.run(self._pump())

    def renewed(self, seconds: float) -> None:
        """Note for how many seconds the lock lasts now."""
        self._lock_seconds = seconds
        self._ends_at = asyncio.get_running_loop().time() + seconds
        self._look_pause = AFTER_EXPIRY
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(seconds + AFTER_EXPIRY, self._look_at_lock)

    @property
    def locked_for(self) -> float:
        """For how many seconds the lock lasts, as far as the receiver knows."""
        return max(0.0, self._ends_at - asyncio.get_running_loop().time())

    def _look_at_lock(self) -> None:
        """Ask the broker whether the lock is lost. A waiting receive reports it by itself."""
        if self._receiving is None and self.state is LinkState.ATTACHED:
            self.run(self._ask())

    async def _ask(self) -> None:
        # A receive of no deferred messages has no effect, and fails if the lock is lost.
        await result_of(self._broker.receive_deferred(self.entity, self._session, self.lock_id, [], context=CONTEXT))
        # Somebody else has renewed the lock: a client over HTTP with the same lock handle.
        self._look_pause = min(LONGEST_LOOK_PAUSE, 2 * self._look_pause)
        self._expiry = asyncio.get_running_loop().call_later(self._look_pause, self._look_at_lock)

    def forget(self, tokens: Iterable[str]) -> None:
        """Forget deliveries that were settled with a request to ``$management``."""
        self.channel.forget_deliveries(tokens)

    @property
    def _session(self) -> str:
        assert self._session_id is not None
        return self._session_id

    def release(self) -> None:
        super().release()
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            # Now, and not in the task: the client must not see its detach answered before the session is free again.
            withdraw(accepting, self._undo)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._has_lock:
            self._has_lock = False
            held, key = self.channel.connection.held, (self.entity, self._session)
            # Another link of the connection may have got the session when the lock of this one expired.
            if held.get(key) is self:
                del held[key]
            if self.locked_for > 0:
                log_lock("released", self.entity, self._session)
            # The messages return to their places, and their deliveries do not count.
            self._broker.release(self.entity, self._session, self.lock_id, context=CONTEXT)

    # Messages

    def on_credit(self) -> None:
        receiving = self._receiving
        if receiving is not None and (self.is_draining or self.credit < self._wanted):
            # The receive must not bring more than the client takes. If it cannot be withdrawn, `_pump` gives back the rest.
            receiving.cancel()
        self._signal.set()

    async def _pump(self) -> None:
        """Send messages as long as the client has credit and reads."""
        while True:
            while not self.can_send:
                if self.is_draining and self.credit == 0:
                    self.drained()
                await self._signal.wait()
            await self._fetch()
            # A broker that stops answers at once. Other work must go on then, for example the end of this link.
            await asyncio.sleep(0)

    async def _fetch(self) -> None:
        is_draining = self.is_draining
        # The messages of a fetch are in memory until the client reads them.
        self._wanted = max(1, min(self.credit, MAX_FETCH, FETCH_BYTES // max(1, self._average)))
        # A receive that ends renews the lock: well before its end, so that the lock outlasts the pause before the next one.
        wait = 0.0 if is_draining else max(0.5, self._lock_seconds / 3)
        request = ReceiveRequest(
            self.entity, self._session, self.lock_id, max_count=self._wanted, timeout=wait, holds_lock=True
        )
        self._receiving, began = self._broker.receive(request, context=CONTEXT), time.monotonic()
        try:
            with self._reporter.waiting(Operation.RECEIVE, self._receiving) as waiting:
                delivery = await result_of(self._receiving, self._return_all)
        except WithdrawnError:
            return
        except QueueError as error:
            refused = refusal_of(error, self.entity, self._session_id)
            self.report(Operation.RECEIVE, refused.status, began, waited=waiting.seconds, **self.about)
            raise
        finally:
            self._receiving = None
        self.renewed(delivery.lock_expires_in)
        received, status = delivery.messages, 201 if delivery.messages else 204
        self.report(Operation.RECEIVE, status, began, waited=waiting.seconds, messages=received, **self.about)
        await self._send(list(delivery.messages))
        if is_draining and self.is_draining and len(delivery.messages) < self._wanted:
            self.drained()

    async def _send(self, messages: list[ReceivedMessage]) -> None:
        """Send fetched messages as the client reads them. Those for which it has no credit any more are returned."""
        if messages:
            self._average = sum(len(message.body) for message in messages) // len(messages)
        waiting = deque(messages)
        while waiting and self.credit > 0:
            if not self.can_send:
                await self._signal.wait()
                continue
            message = waiting.popleft()
            if self._deletes and not await self._delete(message):
                continue
            token = message.receipt.handle
            payload = encode_received(message, locked_for=None if self._deletes else self.locked_for)
            self.deliver(uuid.UUID(token).bytes_le, payload, None if self._deletes else token)
        self._return(list(waiting))

    async def _delete(self, message: ReceivedMessage) -> bool:
        """Complete a message before it is sent: the client does not settle it. Return whether it was still there."""
        settlements = [Settlement(message.receipt.handle, Settles.COMPLETE)]
        (code,) = await result_of(self._broker.settle(self.entity, self._session, settlements, context=CONTEXT))
        return code is None

    def _return_all(self, delivery: Delivery) -> None:
        self._return(list(delivery.messages))

    def _return(self, messages: list[ReceivedMessage]) -> None:
        """Return messages to the broker that the client does not take now. They were not delivered."""
        if messages:
            tokens = [message.receipt.handle for message in messages]
            self._broker.give_back(self.entity, self._session, self.lock_id, tokens, context=CONTEXT)

    # Settling

    def on_disposition(self, deliveries: Sequence[tuple[int, str]], disposition: Disposition) -> None:
        began = time.monotonic()
        try:
            settlements = [settlement_of(token, disposition) for _, token in deliveries]
        except RefusedError as refusal:
            self.report(Operation.SETTLE, refusal.status, began, **self.about)
            if not disposition.settled:
                self.channel.settle_outgoing([number for number, _ in deliveries], amqp.rejected(refusal.error))
            return
        future = self._broker.settle(self.entity, self._session, settlements, context=CONTEXT)
        if any(one.disposition is Settles.DEAD_LETTER for one in settlements):
            locks = self.channel.connection.services.dead_letter_locks
            when_done(future, lambda _: locks.announce(self.entity))
        when_done(future, lambda done: self._settled(deliveries, disposition, done, began))

    def _settled(
        self,
        deliveries: Sequence[tuple[int, str]],
        disposition: Disposition,
        future: Future[list[str | None]],
        began: float,
    ) -> None:
        """Report the outcomes to the client: its own, or a rejection with the error."""
        error = future.exception()
        if error is not None:
            refusal = refusal_of(error, self.entity, self._session_id) if isinstance(error, QueueError) else not_settled("")
            codes: list[Any] = [refusal] * len(deliveries)
        else:
            codes = [None if code is None else not_settled(code) for code in future.result()]
        refused = next((each for each in codes if each is not None), None)
        self.report(Operation.SETTLE, 200 if refused is None else refused.status, began, **self.about)
        if disposition.settled or self.state is not LinkState.ATTACHED:
            return
        good = [number for (number, _), refusal in zip(deliveries, codes, strict=True) if refusal is None]
        if good:
            self.channel.settle_outgoing(good, outcome_of(disposition))
        for (number, _), refusal in zip(deliveries, codes, strict=True):
            if refusal is not None:
                self.channel.settle_outgoing([number], amqp.rejected(refusal.error))
