"""Links and the AMQP sessions that carry them (AMQP 1.0, part 2.5 and 2.6). Everything here belongs to the loop's thread.

An AMQP session is called a channel here: a session, in this package, is one of messages.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from . import codec
from .codec import ABSENT, Absent, Attach, Begin, Condition, Detach, Disposition, Flow, Transfer

if TYPE_CHECKING:
    from .connection import Connection

#: Frames that the peer may send ahead on one channel.
INCOMING_WINDOW = 5000
#: Links of one channel, if the peer does not allow fewer.
MAX_HANDLES = 1024

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
        self.properties = properties or {}
        self.channel: Channel | None = None
        self.handle = -1
        self.attached = False
        self.ended = False
        self.detaching = False

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
        self.credit = 0
        self.draining = False
        self._delivery_count = self._limit = 0
        self._parts: list[bytes] = []
        self._first: Transfer | None = None

    def attach_frame(self, channel: int) -> bytes:
        return codec.attach_receiver(
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
        return codec.attach_sender(
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


class Channel:
    """One AMQP session: its links, its windows, and the deliveries on it that are not settled."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self.number = number
        self.mapped = False
        self.ended = False
        self._handle_max = MAX_HANDLES - 1
        self._next_handle = 0
        self._free: list[int] = []
        self._links: dict[int, Link] = {}
        self._attaching: dict[tuple[str, bool], Link] = {}
        self._by_remote: dict[int, Link] = {}
        self._next_outgoing_id = 0
        self._next_delivery_id = 0
        self._next_incoming_id = 0
        self._unreported = 0
        self._remote_window = 0
        self._outgoing: deque[tuple[Link, bytes]] = deque()
        self._sent: dict[int, tuple[Link, Outcome]] = {}
        self._settling: dict[int, tuple[Link, Outcome]] = {}

    def begin(self) -> None:
        """Ask for it."""
        self._connection.send(
            codec.begin_frame(
                self.number,
                next_outgoing_id=self._next_outgoing_id,
                incoming_window=INCOMING_WINDOW,
                outgoing_window=INCOMING_WINDOW,
                handle_max=MAX_HANDLES - 1,
            )
        )

    def on_begin(self, begin: Begin) -> None:
        """The peer agreed."""
        self.mapped = True
        self._handle_max = min(MAX_HANDLES - 1, begin.handle_max)
        self._next_incoming_id = begin.next_outgoing_id
        self._remote_window = begin.incoming_window

    @property
    def size(self) -> int:
        """How many links it takes in all."""
        return self._handle_max + 1

    @property
    def room(self) -> int:
        """How many more links can be attached."""
        return len(self._free) + self.size - self._next_handle if self.mapped and not self.ended else 0

    def attach(self, link: Link) -> None:
        """Attach a link; there must be room."""
        if self._free:
            link.handle = heapq.heappop(self._free)
        else:
            link.handle = self._next_handle
            self._next_handle += 1
        link.channel = self
        self._links[link.handle] = link
        self._attaching[link.name, link.is_receiver] = link
        self._connection.send(link.attach_frame(self.number))

    def detach(self, link: Link) -> None:
        """Send a link's detach; it ends when the peer has answered."""
        if self._outgoing:
            # A message is sent in part: the rest cannot follow the detach.
            self._outgoing = deque((owner, frame) for owner, frame in self._outgoing if owner is not link)
        self._connection.send(codec.detach_frame(self.number, handle=link.handle))

    # What the peer sends

    def on_attach(self, attach: Attach) -> None:
        # The peer's role is the other one.
        link = self._attaching.pop((attach.name, not attach.is_receiver), None)
        if link is None:
            return
        self._by_remote[attach.handle] = link
        refused = not (attach.has_source if link.is_receiver else attach.has_target)
        if not refused and not link.detaching:
            link.attached = True
            link.on_attached(attach)

    def on_detach(self, detach: Detach) -> None:
        link = self._by_remote.pop(detach.handle, None)
        if link is None:
            return
        if not link.detaching:
            self.detach(link)
        self._forget(link, detach.error)
        link.end(detach.error)

    def _forget(self, link: Link, error: Condition | None) -> None:
        self._links.pop(link.handle, None)
        heapq.heappush(self._free, link.handle)
        link.channel = None
        for unsettled in (self._sent, self._settling):
            for number in [number for number, (owner, _) in unsettled.items() if owner is link]:
                unsettled.pop(number)[1](number, None, error)
        self._connection.on_room()

    def on_flow(self, flow: Flow) -> None:
        following = self._next_outgoing_id if flow.next_incoming_id is None else flow.next_incoming_id
        window = (following + flow.incoming_window - self._next_outgoing_id) & 0xFFFFFFFF
        was_shut, self._remote_window = not self.has_window(), window if window < 0x80000000 else 0
        self._send_waiting()
        if flow.handle is not None:
            link = self._by_remote.get(flow.handle)
            if link is not None:
                link.on_flow(flow)
        for each in list(self._links.values()) if was_shut else ():
            if isinstance(each, Sender):
                each.pump()
        if flow.echo:
            self.flow()

    def on_transfer(self, transfer: Transfer) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & 0xFFFFFFFF
        self._unreported += 1
        link = self._by_remote.get(transfer.handle)
        if link is not None:
            link.on_transfer(transfer)
        if self._unreported >= INCOMING_WINDOW // 2:
            self.flow()

    def on_disposition(self, disposition: Disposition) -> None:
        unsettled = self._sent if disposition.is_receiver else self._settling
        if not disposition.settled:
            return  # Not final: links here have the peer settle what is sent, and confirm what is settled.
        first, last = disposition.first, disposition.last
        if last - first < len(unsettled):
            numbers = [number for number in range(first, last + 1) if number in unsettled]
        else:
            numbers = sorted(number for number in unsettled if first <= number <= last)
        for number in numbers:
            unsettled.pop(number)[1](number, disposition.state, disposition.error)

    def on_end(self, error: Condition | None) -> None:
        """It is over, by either side or with its connection; and so is every link on it."""
        self.ended = True
        why = error or Condition(CONNECTION_LOST, "the AMQP session ended", {})
        for link in list(self._links.values()):
            self._forget(link, why)
            link.end(why)

    # What the links send

    def flow(self, handle: int | None = None, delivery_count: int = 0, credit: int = 0, *, drain: bool = False) -> None:
        """Tell the peer of the channel's window, and of a link's credit."""
        self._unreported = 0
        self._connection.send(
            codec.flow_frame(
                self.number,
                next_incoming_id=self._next_incoming_id,
                incoming_window=INCOMING_WINDOW,
                next_outgoing_id=self._next_outgoing_id,
                outgoing_window=INCOMING_WINDOW,
                handle=handle,
                delivery_count=delivery_count,
                link_credit=credit,
                drain=drain,
            )
        )

    def has_window(self) -> bool:
        """Tell whether the peer takes a frame of another message."""
        return self._remote_window > 0 and not self._outgoing

    def transfer(self, link: Link, tag: bytes, message_format: int, payload: bytes, outcome: Outcome) -> None:
        """Send a message."""
        number = self._next_delivery_id
        self._next_delivery_id = (number + 1) & 0xFFFFFFFF
        frames = codec.transfer_frames(
            self.number,
            handle=link.handle,
            delivery_id=number,
            delivery_tag=tag,
            message_format=message_format,
            payload=payload,
            max_frame_size=self._connection.max_frame_size,
        )
        self._sent[number] = (link, outcome)
        self._outgoing.extend((link, frame) for frame in frames)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send transfers, as many as the peer takes now."""
        while self._outgoing and self._remote_window > 0:
            self._next_outgoing_id = (self._next_outgoing_id + 1) & 0xFFFFFFFF
            self._remote_window -= 1
            self._connection.send(self._outgoing.popleft()[1])

    def settle(self, link: Link, first: int, last: int, outcome: Any, settled: Outcome) -> None:
        for number in range(first, last + 1):
            self._settling[number] = (link, settled)
        frame = codec.disposition_frame(self.number, receiver=True, first=first, last=last, settled=False, outcome=outcome)
        self._connection.send(frame)
