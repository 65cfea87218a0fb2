"""A link by which a client receives the dead letters of an entity, without sessions (``ENTITY/$deadletterqueue``)."""

from __future__ import annotations

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

#: Seconds between two looks for dead letters. The pause grows from the first to the second while there are none.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Dead letters that one look reads.
MAX_FETCH = 50


class DeadLetterReceiver(OutgoingLink):
    """A client's receiver of dead letters."""

    operations: tuple[Operation, ...] = (Operation.PEEK_DEAD_LETTERS,)

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str) -> None:
        super().__init__(channel, attach, path, entity)
        services = channel.connection.services
        self._broker = services.broker
        self._locks = services.dead_letter_locks
        self._deletes = attach.sender_settle_mode == amqp.SENDER_SETTLED
        self._lock_duration = 60.0
        self._signal = Signal()
        self._held: set[str] = set()

    async def prepare(self) -> None:
        info = await result_of(self._broker.get_queue(self.entity, context=CONTEXT))
        self._lock_duration = info.settings.lock_duration

    def on_granted(self) -> None:
        self.run(self._pump())

    def release(self) -> None:
        super().release()
        for token in self._held:
            self._locks.unlock(token)
        self._held.clear()

    def on_credit(self) -> None:
        self._signal.set()

    async def _pump(self) -> None:
        pause = FIRST_PAUSE
        while True:
            while not self.can_send:
                await self._signal.wait()
            pause = FIRST_PAUSE if await self._send_some() else min(LONGEST_PAUSE, 2 * pause)
            if self.is_draining:
                self.drained()
            elif self.can_send:
                await self._signal.wait(pause)

    async def _send_some(self) -> bool:
        """Send dead letters that nobody has locked; return whether there was one."""
        start, has_sent = 0, False
        while self.can_send:
            future = self._broker.dead_letters(self.entity, start, MAX_FETCH, context=CONTEXT)
            found = await result_of(future)
            for message in found:
                if self.can_send and not self._locks.is_locked(self.entity, message.sequence_number):
                    has_sent = await self._send(message) or has_sent
            if len(found) == 0:
                break
            start = found[-1].sequence_number + 1
        return has_sent

    async def _send(self, message: PeekedMessage) -> bool:
        lock = self._locks.lock(self.entity, message.sequence_number, self._lock_duration)
        token = str(lock.token)
        if self._deletes:
            try:
                future = self._broker.delete_dead_letter(self.entity, message.sequence_number, context=CONTEXT)
                await result_of(future)
            except QueueError:
                return False
            finally:
                self._locks.unlock(token)
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
    try:
        if disposition in (Settles.COMPLETE, Settles.DEAD_LETTER):
            await result_of(services.broker.delete_dead_letter(entity, lock.sequence_number, context=CONTEXT))
    except QueueError as error:
        refused = refusal_of(error, entity)
        raise message_lost() if refused.status == 404 else refused from error
    finally:
        services.dead_letter_locks.unlock(token)
