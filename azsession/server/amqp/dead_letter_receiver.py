"""A link by which a client receives the dead letters of an entity, without sessions (``ENTITY/$deadletterqueue``)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ... import amqp
from ...amqp import Attach, Disposition
from ...broker.calls import Disposition as Settles
from ...errors import QueueError
from ...messages import PeekedMessage
from ...protocol.routes import Operation
from .broker_calls import CONTEXT, result_of
from .conditions import NOT_IMPLEMENTED, RefusedError, message_lost, refusal_of
from .link import LinkChannel
from .messages import encode_dead_letter
from .outcomes import outcome_of, settlement_of
from .outgoing import OutgoingLink, Signal

#: Seconds between two looks for dead letters. The pause grows from the first to the second while there are none. A look also
#: follows when a client of the endpoint dead-letters a message, or when a lock of another receiver ends.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: How many times as long as a look in vain the pause after it lasts: looks past many locked dead letters take long.
PAUSE_PER_LOOK = 20
#: Dead letters that one call of the broker reads at most.
MAX_FETCH = 50


class DeadLetterReceiver(OutgoingLink):
    """A client's receiver of dead letters."""

    operations: tuple[Operation, ...] = (Operation.PEEK_DEAD_LETTERS,)
    can_be_stolen = True

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str) -> None:
        super().__init__(channel, attach, path, entity)
        services = channel.connection.services
        self._broker = services.broker
        self._locks = services.dead_letter_locks
        self._deletes = attach.sender_settle_mode == amqp.SENDER_SETTLED
        self._lock_duration = 60.0
        self._signal = Signal()
        self._held: set[str] = set()
        #: The sequence number at which the next look begins. It goes on from the first one when it comes to the end.
        self._next = 0

    async def prepare(self) -> None:
        info = await result_of(self._broker.get_queue(self.entity, context=CONTEXT))
        self._lock_duration = info.settings.lock_duration

    def on_granted(self) -> None:
        self._locks.add_receiver(self)
        self.run(self._pump())

    def release(self) -> None:
        super().release()
        self._locks.remove_receiver(self)
        held, self._held = self._held, set()
        for token in held:
            self._locks.unlock(token)

    def unlocked(self, token: str) -> None:
        if token in self._held:
            # The client has settled it with a request to `$management`.
            self._held.discard(token)
            self.channel.forget_deliveries([token])

    def look_again(self, sequence_number: int | None) -> None:
        if sequence_number is not None:
            self._next = min(self._next, sequence_number)
        self._signal.set()

    def on_credit(self) -> None:
        self._signal.set()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            while not self.can_send:
                await self._signal.wait()
            began = loop.time()
            has_sent = await self._send_some()
            pause = FIRST_PAUSE if has_sent else min(LONGEST_PAUSE, 2 * pause)
            if self.is_draining:
                self.drained()
            elif self.can_send and not has_sent:
                rest = PAUSE_PER_LOOK * (loop.time() - began)
                await asyncio.sleep(min(LONGEST_PAUSE, rest))
                await self._signal.wait(max(pause, rest))

    async def _send_some(self) -> bool:
        """Send dead letters that nobody has locked; return whether there was one. Each is read once at most."""
        start = self._next
        has_sent = await self._send_between(start, None)
        if start > 0 and self._next == 0:
            has_sent = await self._send_between(0, start) or has_sent
        return has_sent

    async def _send_between(self, start: int, end: int | None) -> bool:
        """Send dead letters with sequence numbers from `start` to before `end`."""
        has_sent, most = False, 1
        while self.can_send:
            # The messages may be large. Among many that are locked, longer parts are read.
            most = min(MAX_FETCH, max(self.credit, most))
            found = await result_of(self._broker.dead_letters(self.entity, start, most, context=CONTEXT))
            if not found:
                self._next = 0
                break
            for message in found:
                if end is not None and message.sequence_number >= end:
                    return has_sent
                if not self.can_send:
                    return has_sent
                start = self._next = message.sequence_number + 1
                if not self._locks.is_locked(self.entity, message.sequence_number):
                    has_sent = await self._send(message) or has_sent
            most *= 2
        return has_sent

    async def _send(self, message: PeekedMessage) -> bool:
        lock = self._locks.lock(self, message.sequence_number, self._lock_duration)
        token = str(lock.token)
        if self._deletes:
            try:
                future = self._broker.delete_dead_letter(self.entity, message.sequence_number, context=CONTEXT)
                await result_of(future)
            except QueueError:
                return False
            finally:
                self._locks.unlock(token, is_gone=True)
        else:
            self._held.add(token)
        locked_for = None if self._deletes else self._lock_duration
        payload = encode_dead_letter(message, self.entity, lock.token, locked_for)
        self.deliver(lock.token.bytes_le, payload, None if self._deletes else token)
        return True

    def on_disposition(self, deliveries: Sequence[tuple[int, str]], disposition: Disposition) -> None:
        self._held.difference_update(token for _, token in deliveries)
        # A client may detach the link at once.
        self.run(self._settle(deliveries, disposition), outlives=True)

    async def _settle(self, deliveries: Sequence[tuple[int, str]], disposition: Disposition) -> None:
        for number, token in deliveries:
            try:
                await settle_dead_letter(self.channel, self.entity, token, settlement_of(token, disposition).disposition)
                outcome = outcome_of(disposition)
            except RefusedError as refusal:
                outcome = amqp.rejected(refusal.error)
            if not disposition.settled and self.is_attached:
                self.channel.settle_outgoing([number], outcome)


async def settle_dead_letter(channel: LinkChannel, entity: str, token: str, disposition: Settles) -> None:
    """Settle a dead letter that a client received: delete it, or unlock it.

    Raises:
        RefusedError: The lock has ended, or the dead letter is gone.
    """
    services = channel.connection.services
    lock = services.dead_letter_locks.find(entity, token)
    if lock is None:
        raise message_lost()
    if disposition is Settles.DEFER:
        raise RefusedError(NOT_IMPLEMENTED, "A dead letter cannot be deferred.", 501)
    is_gone = disposition in (Settles.COMPLETE, Settles.DEAD_LETTER)
    try:
        if is_gone:
            await result_of(services.broker.delete_dead_letter(entity, lock.sequence_number, context=CONTEXT))
    except QueueError as error:
        refused = refusal_of(error, entity)
        raise message_lost() if refused.status == 404 else refused from error
    finally:
        services.dead_letter_locks.unlock(token, is_gone=is_gone)
