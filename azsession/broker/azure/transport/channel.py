"""AMQP sessions, which carry links (AMQP 1.0, part 2.5). Everything here belongs to the loop's thread.

An AMQP session is called a channel here: a session, in this package, is one of messages.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from .... import amqp
from ....amqp import Attach, Begin, Condition, Detach, Disposition, Flow, Transfer
from .links import CONNECTION_LOST, Link, Outcome, Sender

if TYPE_CHECKING:
    from .connection import Connection

#: Frames that the peer may send ahead on one channel.
INCOMING_WINDOW = 5000
#: Links of one channel, if the peer does not allow fewer.
MAX_HANDLES = 1024


class Channel:
    """One AMQP session: its links, its windows, and the deliveries on it that are not settled."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self.number = number
        self.mapped: bool = False
        self.ended: bool = False
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
            amqp.begin_frame(
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
        self._connection.send(amqp.detach_frame(self.number, handle=link.handle))

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
            amqp.flow_frame(
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
        frames = amqp.transfer_frames(
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
        frame = amqp.disposition_frame(self.number, receiver=True, first=first, last=last, settled=False, outcome=outcome)
        self._connection.send(frame)
