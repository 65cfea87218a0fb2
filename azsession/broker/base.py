"""What a broker does: the one interface between the gateway and the engines that keep messages.

Every method blocks, may be called from any thread, and raises exceptions of `azsession.errors` whose ``code`` is the
protocol's. Names and ids are valid when they arrive here.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import attrs

from ..errors import ProviderError
from ..messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ..protocol.error_codes import SERVER_BUSY
from ..queues import QueueInfo, QueueSettings


class Disposition(Enum):
    """What becomes of a received message. The values are the protocol's."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    DEFER = "defer"
    DEAD_LETTER = "deadletter"


@attrs.frozen
class Settlement:
    """One message to settle: its lock token, how, and why where it is dead-lettered."""

    lock_token: str = attrs.field(repr=False)
    disposition: Disposition
    reason: str | None = None
    description: str | None = None


@attrs.frozen
class Delivery:
    """What a receive or an accept gave.

    Attributes:
        session_id: The session.
        messages: What was received; empty where nothing came in time, and for an accept.
        lock_expires_in: Seconds that the session's lock has left.
        waited: Seconds from the call to the moment that `lock_expires_in` counts from.
    """

    session_id: str
    messages: Sequence[ReceivedMessage]
    lock_expires_in: float
    waited: float


class Caller:
    """Who waits for a broker's answer. This one is always there; the gateway's know when their client went away."""

    def is_gone(self) -> bool:
        """Tell whether nobody waits for the answer any more, so that no message may be handed out for it."""
        return False

    @contextmanager
    def watched(self, on_gone: Callable[[], None]) -> Iterator[None]:
        """Call `on_gone`, from any thread, when the caller goes away inside the ``with`` block."""
        yield


#: A caller that stays.
PRESENT = Caller()


class Asking(threading.local):
    """Who asks in this thread, and until when the answer is of use, also of methods that are not given a `Caller`.

    A broker that waits for somebody else's answer gives up then: its caller does, too.

    Attributes:
        caller: The caller.
        until: On the monotonic clock; `None` is for ever.
    """

    caller: Caller = PRESENT
    until: float | None = None


#: Set by the gateway, for callers in its own process.
asking: Asking = Asking()


def superseded_error() -> ProviderError:
    """Return what a receive is told whose caller tried again: if that was the later try, it must come once more."""
    return ProviderError("another try of this request took its place", code=SERVER_BUSY, is_transient=True)


class Broker(abc.ABC):
    """An engine that keeps queues of messages in sessions.

    `lock_id` names the holder; ``""`` is the one holder that all callers of the plain dialect are together.
    `request_id` is the same in a call's retries, ``""`` where there is none.
    """

    @abc.abstractmethod
    def receive(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        *,
        max_count: int,
        timeout: float,
        request_id: str = "",
        caller: Caller = PRESENT,
        holds: bool = False,
    ) -> Delivery:
        """Take the session's lock if it is free, and up to `max_count` messages, waiting `timeout` seconds for the first.

        Whoever `holds` the lock, to its own knowledge, is told where it is lost, and not given it anew.
        """

    @abc.abstractmethod
    def accept(
        self,
        entity: str,
        session_id: str | None,
        lock_id: str,
        *,
        timeout: float,
        request_id: str = "",
        caller: Caller = PRESENT,
    ) -> Delivery | None:
        """Take the lock of this session, or of the next one that has messages; `None` when none came in time."""

    @abc.abstractmethod
    def settle(self, entity: str, session_id: str, settlements: Sequence[Settlement]) -> list[str | None]:
        """Settle messages by their lock tokens; return for each `None`, or the code of why it could not be."""

    @abc.abstractmethod
    def renew(self, entity: str, session_id: str, lock_id: str) -> float:
        """Renew the session's lock; return the seconds that it has now."""

    @abc.abstractmethod
    def release(self, entity: str, session_id: str, lock_id: str) -> None:
        """Give the session's lock back, if this holder has it."""

    @abc.abstractmethod
    def get_state(self, entity: str, session_id: str, lock_id: str) -> bytes | None:
        """Return what the session's holder last kept with it."""

    @abc.abstractmethod
    def set_state(self, entity: str, session_id: str, lock_id: str, state: bytes | None) -> None:
        """Keep `state` with the session; `None` takes it away."""

    @abc.abstractmethod
    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int]
    ) -> list[ReceivedMessage]:
        """Receive messages that were deferred, all or none."""

    @abc.abstractmethod
    def dead_letter_session(
        self, entity: str, session_id: str, lock_id: str, reason: str, description: str | None, request_id: str = ""
    ) -> int:
        """Dead-letter every message left in the session; return how many."""

    @abc.abstractmethod
    def peek(self, entity: str, session_id: str, from_sequence_number: int, max_count: int) -> list[PeekedMessage]:
        """Return messages of a session without receiving them."""

    @abc.abstractmethod
    def list_sessions(self, entity: str, after: str, max_count: int) -> list[SessionInfo]:
        """Return sessions that have messages or state, by id, those after `after`."""

    @abc.abstractmethod
    def send(self, entity: str, messages: Sequence[Message], request_id: str = "") -> None:
        """Accept messages, all or none: they are kept safely when this returns."""

    @abc.abstractmethod
    def dead_letters(self, entity: str, from_sequence_number: int, max_count: int) -> list[PeekedMessage]:
        """Return dead-lettered messages of all sessions, by sequence number."""

    @abc.abstractmethod
    def resubmit(self, entity: str, sequence_number: int) -> None:
        """Move a dead letter to the end of its session, as a new message."""

    @abc.abstractmethod
    def delete_dead_letter(self, entity: str, sequence_number: int) -> None:
        """Delete a dead letter."""

    @abc.abstractmethod
    def create_queue(self, entity: str, settings: QueueSettings) -> bool:
        """Make a queue; tell whether it is new. One that is there with other settings is a conflict."""

    @abc.abstractmethod
    def get_queue(self, entity: str) -> QueueInfo:
        """Return a queue with its counts."""

    @abc.abstractmethod
    def list_queues(self) -> list[QueueInfo]:
        """Return all queues, by name, without counts."""

    @abc.abstractmethod
    def delete_queue(self, entity: str) -> None:
        """Delete a queue and everything in it."""

    @abc.abstractmethod
    def stop_waiting(self) -> None:
        """Let every waiting receive and accept end now, as if its time were over, and later ones not wait."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop, and let go of everything. Idempotent."""
