"""Links, by which messages come and go (AMQP 1.0, part 2.6). Everything here belongs to the loop's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from .... import amqp
from ....amqp import ABSENT, Absent, Attach, Condition, Flow, Transfer

if TYPE_CHECKING:
    from .channel import Channel

#: What becomes of a delivery: its number, the state's name, and an error where it was refused. A state of `None` says that
#: the link ended before it was known, with the link's error, and `UNSENT` that the delivery surely never left.
Outcome = Callable[[int, "str | None", "Condition | None"], object]
UNSENT = "unsent"

#: The condition that a link ends with when its connection is gone.
CONNECTION_LOST = "azsession:connection-lost"
#: The condition of a link that its connection has no room for.
NO_ROOM = "azsession:no-room"
#: The condition of a message that is larger than the link takes.
TOO_LARGE = "amqp:link:message-size-exceeded"


class Link:
    """One end of a link.

    Attributes:
        name: Its name, unique in its connection.
        address: The node at the other end.
        channel: What carries it, while it is attached.
        attached: It can be used.
        ended: It is over; a new one must be made.
    """

    is_receiver = False

    def __init__(self, name: str, address: str, properties: dict[str, Any] | None = None) -> None:
        self.name = name
        self.address = address
        self.properties: dict[str, Any] = properties or {}
        self.channel: Channel | None = None
        self.handle = -1
        self.attached: bool = False
        self.ended: bool = False
        self.detaching: bool = False

    def attach_frame(self, channel: int) -> bytes:
        """Return the frame that asks for it."""
        raise NotImplementedError

    def on_attached(self, attach: Attach) -> None:
        """The peer agreed."""

    def on_ended(self, error: Condition | None) -> None:
        """It is over: refused, detached by either side, or its connection is gone. Called once."""

    def on_flow(self, flow: Flow) -> None:
        """The peer told of credit."""

    def on_transfer(self, transfer: Transfer) -> None:
        """The peer sent a part of a delivery."""

    def detach(self) -> None:
        """Ask for its end; `on_ended` tells of it. Idempotent."""
        if self.ended or self.detaching:
            return
        self.detaching, self.attached = True, False
        if self.channel is None:
            self.end(None)
        else:
            self.channel.detach(self)

    def end(self, error: Condition | None) -> None:
        """Note that it is over."""
        if not self.ended:
            self.ended = True
            self.attached = False
            self.on_ended(error)


class Receiver(Link):
    """The end of a link that messages come in by.

    Attributes:
        credit: Messages that the peer may still send.
        draining: The peer was asked to use or give up all credit, and has not answered yet.
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
        """Let the peer send this many messages, counted from now."""
        if self.attached and self.channel is not None and credit != self.credit:
            self.credit = credit
            self._limit = self._delivery_count + credit
            self.channel.flow(self.handle, self._delivery_count, credit)

    def drain(self) -> None:
        """Ask the peer to send what there is within the credit, and give up the rest; `on_drained` tells of it."""
        if self.attached and self.channel is not None and not self.draining:
            self.draining = True
            self.channel.flow(self.handle, self._delivery_count, self.credit, drain=True)

    def on_drained(self) -> None:
        """There is no credit left."""

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        """A message came."""

    def on_flow(self, flow: Flow) -> None:
        if flow.delivery_count is not None:
            self._count_to(flow.delivery_count)

    def _count_to(self, delivery_count: int) -> None:
        """Note how far the peer has counted: what it was allowed beyond that is the credit."""
        self._delivery_count = delivery_count
        credit = (self._limit - delivery_count) & 0xFFFFFFFF
        self.credit = credit if credit < 0x80000000 else 0
        if self.draining and self.credit == 0:
            self.draining = False
            self.on_drained()

    def on_transfer(self, transfer: Transfer) -> None:
        if self._first is None:
            self._first = transfer
        first = self._first
        if transfer.more and not transfer.aborted:
            self._parts.append(transfer.payload)
            return
        payload = b"".join([*self._parts, transfer.payload]) if self._parts else transfer.payload
        self._first, self._parts = None, []
        if not transfer.aborted and not self.detaching:
            self.on_message(first.delivery_id or 0, first.delivery_tag or b"", payload)
        self._count_to((self._delivery_count + 1) & 0xFFFFFFFF)

    def settle(self, first: int, last: int, outcome: Any, settled: Outcome) -> None:
        """Settle deliveries; `settled` is called for each when the peer has confirmed or refused it."""
        if self.channel is not None:
            self.channel.settle(self, first, last, outcome, settled)


@attrs.define(eq=False)
class _Sending:
    payload: bytes
    message_format: int
    outcome: Outcome


class Sender(Link):
    """The end of a link that messages go out by.

    Attributes:
        max_message_size: Bytes of a message, encoded, that the peer takes; `None` is no limit.
    """

    def __init__(self, name: str, address: str, properties: dict[str, Any] | None = None) -> None:
        super().__init__(name, address, properties)
        self.max_message_size: int | None = None
        self._credit = 0
        self._delivery_count = 0
        self._waiting: deque[_Sending] = deque()
        self._tag = 0

    def attach_frame(self, channel: int) -> bytes:
        return amqp.attach_sender(
            channel, name=self.name, handle=self.handle, address=self.address, properties=self.properties
        )

    def on_attached(self, attach: Attach) -> None:
        self.max_message_size = attach.max_message_size or None

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is not None:
            credit = ((flow.delivery_count or 0) + flow.link_credit - self._delivery_count) & 0xFFFFFFFF
            self._credit = credit if credit < 0x80000000 else 0
        self.pump()

    def send(self, payload: bytes, outcome: Outcome, message_format: int = 0) -> None:
        """Send a message as soon as there is credit; `outcome` is called with what became of it."""
        if self.ended or self.detaching:
            outcome(-1, UNSENT, None)
            return
        self._waiting.append(_Sending(payload, message_format, outcome))
        self.pump()

    def pump(self) -> None:
        """Send what waits, as far as credit and the channel's window allow."""
        while self._waiting and self._credit > 0 and self.attached and self.channel is not None:
            if not self.channel.has_window():
                return
            sending = self._waiting.popleft()
            if self.max_message_size is not None and len(sending.payload) > self.max_message_size:
                sending.outcome(-1, "rejected", Condition(TOO_LARGE, f"{len(sending.payload)} bytes", {}))
                continue
            self._credit -= 1
            self._delivery_count = (self._delivery_count + 1) & 0xFFFFFFFF
            self._tag += 1
            self.channel.transfer(
                self, self._tag.to_bytes(4, "big"), sending.message_format, sending.payload, sending.outcome
            )

    def on_ended(self, error: Condition | None) -> None:
        waiting, self._waiting = self._waiting, deque()
        for sending in waiting:
            sending.outcome(-1, UNSENT, error)
