"""The arguments and results of a broker's operations. `base.Broker` uses them, and so do the callers of a broker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import Any, BinaryIO, TypeVar

import attrs

from ..errors import ProviderError, SessionLockedError, SessionNotFoundError, ThrottledError
from ..messages import AttributeValue, Message, PeekedMessage, ReceivedMessage
from ..protocol.error_codes import SERVER_BUSY, THROTTLED

T = TypeVar("T")


class Disposition(Enum):
    """How a received message is settled. The values are the protocol's names.

    Attributes:
        COMPLETE: Delete the message.
        ABANDON: Return the message to its place. This counts as a failed delivery.
        DEFER: Set the message aside. It counts as no delivery.
        DEAD_LETTER: Move the message to the dead letters.
        RELEASE: Return the message to its place, as if it had not been delivered.
        TAKE: The caller uses a message that was fetched ahead. The message stays unsettled; its delivery counts from now on.
    """

    COMPLETE = "complete"
    ABANDON = "abandon"
    DEFER = "defer"
    DEAD_LETTER = "deadletter"
    RELEASE = "release"
    TAKE = "take"


@attrs.frozen
class Settlement:
    """One message to settle.

    Attributes:
        lock_token: The message's lock token.
        disposition: How to settle the message.
        reason: Why the message is dead-lettered; ignored for other dispositions.
        description: More about the reason; ignored for other dispositions.
        delay: Seconds for which nobody gets the session after an abandon, from 0; ignored for other dispositions.
        attributes: Attributes that the message gets besides its own, or instead of those with the same names, if it is
            abandoned, deferred or dead-lettered. Only the embedded broker changes them.
    """

    lock_token: str = attrs.field(repr=False)
    disposition: Disposition
    reason: str | None = None
    description: str | None = None
    delay: float = 0.0
    attributes: Mapping[str, AttributeValue] | None = None


@attrs.frozen
class Delivery:
    """The result of a receive or an accept.

    Attributes:
        session_id: The session.
        messages: The received messages. Empty if none came in time, and for an accept that asks for none.
        lock_expires_in: Seconds until the session lock expires, counted from the end of the call.
        waited: Seconds that the call took.
    """

    session_id: str
    messages: Sequence[ReceivedMessage]
    lock_expires_in: float
    waited: float


@attrs.frozen
class Settled:
    """The result of `Broker.settle_and_receive`.

    Attributes:
        codes: One item for each settlement: `None` if the message is settled, else the error code.
        delivery: The result of the receive; `None` if a settlement failed, or if the receive was refused.
    """

    codes: Sequence[str | None]
    delivery: Delivery | None


#: The errors for which `Broker.settle_and_receive` has a result without a delivery. The next receive reports them.
RECEIVE_REFUSED = (SessionNotFoundError, SessionLockedError, ThrottledError)


@attrs.frozen(kw_only=True)
class EncodedMessage(Message):
    """A message to send that came over AMQP.

    Attributes:
        encoded: The parts of the AMQP message, as `azsession.amqp.stored` returns them. A broker keeps them as they are.
    """

    encoded: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class EncodedPeekedMessage(PeekedMessage):
    """A peeked message for a caller with `CallContext.encoded`.

    Attributes:
        encoded: The parts of the message that came over AMQP; `None` if the message came in another way.
    """

    encoded: bytes | None = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class EncodedReceivedMessage(ReceivedMessage):
    """A received message for a caller with `CallContext.encoded`.

    Attributes:
        encoded: The parts of the message that came over AMQP; `None` if the message came in another way.
    """

    encoded: bytes | None = attrs.field(repr=False)


def encoded_of(message: Message | PeekedMessage) -> bytes | None:
    """Return the parts of a message that came over AMQP, or `None`."""
    # Not `getattr`: a message without the attribute takes long to make its error.
    encoded = (EncodedMessage, EncodedPeekedMessage, EncodedReceivedMessage)
    return message.encoded if isinstance(message, encoded) else None


@attrs.frozen
class Backup:
    """A copy of all that a broker keeps.

    Attributes:
        file: The copy, an SQLite database. It has no name any more: closing it deletes it. The receiver closes it.
        size: Its size in bytes.
    """

    file: BinaryIO
    size: int


class WaitingSlots:
    """Bounds how many receives and accepts wait at once.

    Args:
        limit: The largest number, from 1.
    """

    def __init__(self, limit: int) -> None:
        self._free = threading.BoundedSemaphore(limit)

    def acquire(self, future: Future[Any]) -> None:
        """Take a slot until `future` is done.

        Raises:
            ThrottledError: No slot is free.
        """
        if not self._free.acquire(blocking=False):
            raise ThrottledError("too many receives wait already", code=THROTTLED, retry_after=1.0)
        future.add_done_callback(lambda _: self._free.release())


@attrs.frozen
class CallContext:
    """How an operation is called.

    Attributes:
        blocking: Whether the caller's thread waits for the result right away. If so, the broker may run the operation in this
            thread before it returns the future. Otherwise the broker returns the future without waiting for a disk, a network
            or another thread.
        deadline: The time on the monotonic clock at which the caller gives up; `None` if the caller waits for any result. A
            broker on a remote service stops waiting then.
        slots: Bounds how many receives and accepts wait; `None` for no bound.
        encoded: Whether messages are returned as `EncodedReceivedMessage` and `EncodedPeekedMessage`.
    """

    blocking: bool = True
    deadline: float | None = None
    slots: WaitingSlots | None = None
    encoded: bool = False


#: The context of a caller that waits in its own thread, for any time.
BLOCKING: CallContext = CallContext()


def wait_for(future: Future[T]) -> T:
    """Return the result of an operation. Blocks until it is there.

    If an exception interrupts the wait, for example KeyboardInterrupt, the operation is withdrawn first.

    Raises:
        QueueError: The operation failed.
    """
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@attrs.frozen
class ReceiveRequest:
    """The arguments of `Broker.receive`.

    Attributes:
        entity: The queue or subscription.
        session_id: The session to receive from.
        lock_id: The holder of the session lock; ``""`` for the shared holder of the plain dialect.
        max_count: Messages to receive at most, 1 to 1,000.
        timeout: Seconds to wait for the first message, from 0.
        request_id: The same for all attempts of one request; ``""`` if the caller does not retry.
        holds_lock: Whether the caller believes that it has the lock. If so, the broker reports a lost lock and does not take
            the lock again: another holder may have had the session in between.
        taken: Messages that the caller uses at once, 1 to `max_count`; `None` for all. The messages behind them are fetched
            ahead. A message that was fetched ahead counts as delivered from the moment at which the caller uses it: when it
            is settled in a way that counts, when it is taken (`Disposition.TAKE`), or when it is the first unsettled message
            because those before it were settled.
        client: Who receives, for people; ``""`` if the client did not say.
    """

    entity: str
    session_id: str
    lock_id: str
    max_count: int = attrs.field(kw_only=True)
    timeout: float = attrs.field(kw_only=True)
    request_id: str = attrs.field(default="", kw_only=True)
    holds_lock: bool = attrs.field(default=False, kw_only=True)
    taken: int | None = attrs.field(default=None, kw_only=True)
    client: str = attrs.field(default="", kw_only=True)


@attrs.frozen
class AcceptRequest:
    """The arguments of `Broker.accept`.

    Attributes:
        entity: The queue or subscription.
        session_id: The session to accept; `None` accepts the next free session that has messages.
        lock_id: The holder of the session lock; ``""`` for the shared holder of the plain dialect.
        timeout: Seconds to wait for a session, from 0.
        request_id: The same for all attempts of one request; ``""`` if the caller does not retry.
        max_count: Messages to receive with the session at most, 1 to 1,000; `None` receives none.
        taken: Messages that the caller uses at once; see `ReceiveRequest`.
        client: Who accepts, for people; ``""`` if the client did not say.
    """

    entity: str
    session_id: str | None
    lock_id: str
    timeout: float = attrs.field(kw_only=True)
    request_id: str = attrs.field(default="", kw_only=True)
    max_count: int | None = attrs.field(default=None, kw_only=True)
    taken: int | None = attrs.field(default=None, kw_only=True)
    client: str = attrs.field(default="", kw_only=True)

    def receive_from(self, session_id: str, max_count: int) -> ReceiveRequest:
        """Return the request for the messages that the accept asks for. It does not wait for messages."""
        return ReceiveRequest(
            self.entity,
            session_id,
            self.lock_id,
            max_count=max_count,
            timeout=0.0,
            request_id=self.request_id,
            taken=self.taken,
            client=self.client,
        )


class SupersededError(ProviderError):
    """A later attempt of the same request has replaced this one.

    Attempts can overtake each other. The error is transient, so a client whose latest attempt gets the error tries again.
    """

    def __init__(self) -> None:
        super().__init__("another attempt of this request replaced this one", code=SERVER_BUSY, is_transient=True)
