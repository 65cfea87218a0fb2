"""The ends of links, by which messages come and go (AMQP 1.0 §2.6). Only the loop's thread uses them.

The broker subclasses `Receiver` and `Sender`, and hands each new link to `Connection.attach`. A link has these states:

    ATTACHING --(the peer's attach)--> ATTACHED --(the peer's detach, or the connection is lost)--> ENDED
        |                                  |                                                          ^
        +-------------(detach)-------------+----------> DETACHING ------------------------------------+

An ATTACHING link may also go straight to ENDED: when the peer refuses it or the connection is lost. ENDED is final; a new
link takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

import attrs

from .... import amqp
from ....amqp import ABSENT, Absent, Attach, Condition, Flow, Transfer

#: The callback for the result of a delivery. Its arguments are the delivery's number, the name of the final state, and the
#: error if the delivery was refused. A state of `None` means that the link ended before the result was known; the error is
#: then the link's. `UNSENT` means that the delivery was certainly not sent.
Outcome = Callable[[int, "str | None", "Condition | None"], object]
UNSENT = "unsent"
#: The callback for the result of received deliveries that were settled. Its first argument is the numbers of the deliveries
#: that have the result, in their order. The others are those of `Outcome`.
Settled = Callable[["Sequence[int]", "str | None", "Condition | None"], object]

#: The condition of links whose connection was lost.
CONNECTION_LOST = "azsession:connection-lost"
#: The condition of links that do not fit into their connection.
NO_ROOM = "azsession:no-room"
#: The condition of messages that are larger than the link allows (§2.8.18).
TOO_LARGE = "amqp:link:message-size-exceeded"


class LinkState(Enum):
    """How far a link is; the module's docstring has the transitions."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    ENDED = "ended"


# The states that each message is checked for: a global is faster than an attribute of an enum.
_ATTACHED, _DETACHING, _ENDED = LinkState.ATTACHED, LinkState.DETACHING, LinkState.ENDED


class LinkChannel(Protocol):
    """The part of a channel that its links call."""

    def detach(self, link: Link) -> None:
        """Send the link's detach."""

    def flow(self, handle: int, delivery_count: int, credit: int, *, drain: bool = False) -> None:
        """Send the credit of a receiving link."""

    def has_window(self) -> bool:
        """Return whether the peer accepts the first frame of another message."""

    def transfer(self, link: Link, tag: bytes, message_format: int, payload: bytes, outcome: Outcome) -> None:
        """Send a message."""

    def settle(self, link: Link, first: int, last: int, outcome: bytes, settled: Settled) -> None:
        """Send the outcome of received deliveries."""


class Link:
    """One end of a link.

    Attributes:
        name: The name, unique in the connection.
        address: The node at the other end.
        properties: The link properties of the attach.
        channel: The channel that carries the link, `None` before the attach and after the end.
        handle: The number of the link in its channel.
        state: See the module's docstring.
    """

    is_receiver = False

    def __init__(self, name: str, address: str, properties: dict[str, Any] | None = None) -> None:
        self.name = name
        self.address = address
        self.properties: dict[str, Any] = properties or {}
        self.channel: LinkChannel | None = None
        self.handle: int = -1
        self.state: LinkState = LinkState.ATTACHING

    @property
    def attached(self) -> bool:
        """Whether the link can be used."""
        return self.state is LinkState.ATTACHED

    @property
    def detaching(self) -> bool:
        """Whether the link was detached here and the peer has not answered."""
        return self.state is LinkState.DETACHING

    @property
    def ended(self) -> bool:
        """Whether the link is over."""
        return self.state is LinkState.ENDED

    def attach_frame(self, channel: int) -> bytes:
        """Return the attach frame for a channel number."""
        raise NotImplementedError

    def detach(self) -> None:
        """Detach the link; `on_ended` follows. Idempotent."""
        if self.ended or self.detaching:
            return
        self.state = LinkState.DETACHING
        if self.channel is None:
            self.end(None)
        else:
            self.channel.detach(self)

    # Called by the channel and the connection

    def accept(self, attach: Attach) -> None:
        """Note the peer's attach, unless the link was detached meanwhile."""
        if self.state is LinkState.ATTACHING:
            self.state = LinkState.ATTACHED
            self.on_attached(attach)

    def end(self, error: Condition | None) -> None:
        """Note the end of the link. Idempotent."""
        if not self.ended:
            self.state = LinkState.ENDED
            self.on_ended(error)

    # Hooks for subclasses

    def on_attached(self, attach: Attach) -> None:
        """Handle the peer's attach."""

    def on_ended(self, error: Condition | None) -> None:
        """Handle the end: a refusal, a detach by either side, or the loss of the connection. Called once."""

    def on_flow(self, flow: Flow) -> None:
        """Handle the peer's flow frame for this link."""

    def on_window(self) -> None:
        """Handle that the peer's incoming window has opened."""

    def on_transfer(self, transfer: Transfer) -> None:
        """Handle one frame of a delivery."""


class Receiver(Link):
    """The receiving end of a link.

    Attributes:
        credit: How many more messages the peer may send.
        draining: Whether the peer was asked to use or give up all credit and has not answered.
    """

    is_receiver = True

    def __init__(
        self,
        name: str,
        address: str,
        *,
        session_id: str | Absent | None = ABSENT,
        properties: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, address, properties)
        self.session_id = session_id
        self.credit: int = 0
        self.draining: bool = False
        self._delivery_count = self._limit = 0
        self._parts: list[bytes] = []
        self._first: Transfer | None = None

    def attach_frame(self, channel: int) -> bytes:
        return amqp.attach_receiver(
            channel,
            name=self.name,
            handle=self.handle,
            address=self.address,
            session_id=self.session_id,
            properties=self.properties,
        )

    def on_attached(self, attach: Attach) -> None:
        self._delivery_count = self._limit = attach.initial_delivery_count

    def give_credit(self, credit: int) -> None:
        """Allow the peer to send this many messages from now on (§2.6.7)."""
        if self.state is _ATTACHED and self.channel is not None and credit != self.credit:
            self.credit = credit
            self._limit = self._delivery_count + credit
            self.channel.flow(self.handle, self._delivery_count, credit)

    def drain(self) -> None:
        """Ask the peer to send the messages it has within the credit and to give up the rest; `on_drained` follows."""
        if self.attached and self.channel is not None and not self.draining:
            self.draining = True
            self.channel.flow(self.handle, self._delivery_count, self.credit, drain=True)

    def on_drained(self) -> None:
        """Handle that no credit is left after `drain`."""

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """Handle a whole message."""

    def on_flow(self, flow: Flow) -> None:
        if flow.delivery_count is not None:
            self._count_to(flow.delivery_count)

    def _count_to(self, delivery_count: int) -> None:
        """Note the peer's delivery count. The credit is the distance from it to the limit, a serial number (§2.8.10)."""
        self._delivery_count = delivery_count
        self.credit = amqp.remaining(self._limit, delivery_count)
        if self.draining and self.credit == 0:
            self.draining = False
            self.on_drained()

    def on_transfer(self, transfer: Transfer) -> None:
        first, payload = self._first or transfer, transfer.payload
        if transfer.more and not transfer.aborted:
            self._first = first
            self._parts.append(payload)
            return
        if self._parts:
            payload = b"".join([*self._parts, payload])
            self._first, self._parts = None, []
        if not transfer.aborted and self.state is not _DETACHING:
            self.on_message(first.delivery_id or 0, first.delivery_tag or b"", payload)
        self._count_to((self._delivery_count + 1) & 0xFFFFFFFF)

    def settle(self, first: int, last: int, outcome: bytes, settled: Settled) -> None:
        """Settle deliveries with an encoded outcome; `settled` is called with each answer of the peer."""
        if self.channel is not None:
            self.channel.settle(self, first, last, outcome, settled)


@attrs.define(eq=False)
class _Unsent:
    """A message that waits for credit."""

    payload: bytes
    message_format: int
    outcome: Outcome


class Sender(Link):
    """The sending end of a link.

    Attributes:
        max_message_size: The largest encoded message that the peer accepts, in bytes; `None` for no limit.
        error: Why the link ended; `None` while it has not, or without a reason.
    """

    def __init__(self, name: str, address: str, properties: dict[str, Any] | None = None) -> None:
        super().__init__(name, address, properties)
        self.max_message_size: int | None = None
        self.error: Condition | None = None
        self._credit = 0
        self._delivery_count = 0
        self._unsent: deque[_Unsent] = deque()
        self._tag = 0

    def attach_frame(self, channel: int) -> bytes:
        return amqp.attach_sender(
            channel, name=self.name, handle=self.handle, address=self.address, properties=self.properties
        )

    def on_attached(self, attach: Attach) -> None:
        # Zero means no limit (§2.7.3).
        self.max_message_size = attach.max_message_size or None

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is not None:
            self._credit = amqp.remaining((flow.delivery_count or 0) + flow.link_credit, self._delivery_count)
        self.pump()

    def on_window(self) -> None:
        self.pump()

    def send(self, payload: bytes, outcome: Outcome, message_format: int = 0) -> None:
        """Send an encoded message as soon as there is credit; `outcome` is called with the result."""
        if self.state is _ENDED or self.state is _DETACHING:
            outcome(-1, UNSENT, self.error)
            return
        self._unsent.append(_Unsent(payload, message_format, outcome))
        self.pump()

    def pump(self) -> None:
        """Send waiting messages as far as the link's credit and the channel's window allow."""
        while self._unsent and self._credit > 0 and self.state is _ATTACHED and self.channel is not None:
            if not self.channel.has_window():
                return
            message = self._unsent.popleft()
            size = len(message.payload)
            if self.max_message_size is not None and size > self.max_message_size:
                text = f"the message has {size} bytes; the limit is {self.max_message_size}"
                message.outcome(-1, "rejected", Condition(TOO_LARGE, text, {}))
                continue
            self._credit -= 1
            self._delivery_count = (self._delivery_count + 1) & 0xFFFFFFFF
            self._tag += 1
            self.channel.transfer(
                self, self._tag.to_bytes(4, "big"), message.message_format, message.payload, message.outcome
            )

    def on_ended(self, error: Condition | None) -> None:
        self.error = error
        unsent, self._unsent = self._unsent, deque()
        for message in unsent:
            message.outcome(-1, UNSENT, error)
