"""AMQP sessions, which carry links (AMQP 1.0 §2.5). `Connection` makes them; only the loop's thread uses them.

An AMQP session is called a channel here, because a session in this package is a message session.

    BEGINNING --(the peer's begin)--> MAPPED --(the peer's end, or the connection is lost)--> ENDED

A channel may also go straight from BEGINNING to ENDED.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from .... import amqp
from ....amqp import Attach, Begin, Condition, Detach, Disposition, Flow, Transfer
from .links import CONNECTION_LOST, Link, Outcome, Settled

#: How many links a channel may have, unless the peer allows fewer.
MAX_HANDLES = 1024


class ChannelState(Enum):
    """How far a channel is; the module's docstring has the transitions."""

    BEGINNING = "beginning"
    MAPPED = "mapped"
    ENDED = "ended"


class ChannelConnection(Protocol):
    """The part of a connection that its channels call."""

    @property
    def max_frame_size(self) -> int:
        """The largest frame that the peer accepts, in bytes."""

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def on_room(self) -> None:
        """Handle that a channel has room for a link."""


class Channel:
    """One AMQP session: its links, its windows, and its unsettled deliveries.

    Attributes:
        number: The channel number of the frames that are sent.
        state: See the module's docstring.
    """

    def __init__(self, connection: ChannelConnection, number: int) -> None:
        self._connection = connection
        self.number = number
        self.state: ChannelState = ChannelState.BEGINNING
        # Handles of links: the next new one, and those free again, smallest first.
        self._handle_max = MAX_HANDLES - 1
        self._next_handle = 0
        self._free: list[int] = []
        # Links by our handle, by name and role until the peer's attach, and by the peer's handle.
        self._links: dict[int, Link] = {}
        self._attaching: dict[tuple[str, bool], Link] = {}
        self._by_remote: dict[int, Link] = {}
        self._flow: amqp.SessionFlow[Link] = amqp.SessionFlow(number, connection.send)
        # Unsettled deliveries by number: those sent, and those received whose outcome was sent.
        self._sent: dict[int, tuple[Link, Outcome]] = {}
        self._settling: dict[int, tuple[Link, Settled]] = {}

    @property
    def size(self) -> int:
        """How many links the channel can have in all."""
        return self._handle_max + 1

    @property
    def room(self) -> int:
        """How many more links can be attached now."""
        if self.state is not ChannelState.MAPPED:
            return 0
        return len(self._free) + self.size - self._next_handle

    # Called by the connection

    def begin(self) -> None:
        """Send the begin."""
        self._flow.begin(MAX_HANDLES - 1)

    def attach(self, link: Link) -> None:
        """Attach a link; the channel must have room."""
        if self._free:
            link.handle = heapq.heappop(self._free)
        else:
            link.handle = self._next_handle
            self._next_handle += 1
        link.channel = self
        self._links[link.handle] = link
        self._attaching[link.name, link.is_receiver] = link
        self._connection.send(link.attach_frame(self.number))

    # Frames from the peer

    def on_begin(self, begin: Begin) -> None:
        """Handle the answer to `begin`."""
        self.state = ChannelState.MAPPED
        self._handle_max = min(MAX_HANDLES - 1, begin.handle_max)
        self._flow.on_begin(begin)

    def on_attach(self, attach: Attach) -> None:
        """Handle the answer to a link's attach. Attaches of links that are not ours are ignored."""
        # The peer has the opposite role.
        link = self._attaching.pop((attach.name, not attach.is_receiver), None)
        if link is None:
            return
        self._by_remote[attach.handle] = link
        accepted = attach.has_source if link.is_receiver else attach.has_target
        if accepted:
            link.accept(attach)

    def on_detach(self, detach: Detach) -> None:
        """Handle the end of a link, by the peer or as its answer to our detach."""
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
        self._on_sent([number for number, (owner, _) in self._sent.items() if owner is link], None, error)
        self._on_settled([number for number, (owner, _) in self._settling.items() if owner is link], None, error)
        self._connection.on_room()

    def on_flow(self, flow: Flow) -> None:
        """Handle the peer's window (§2.5.6) and, if the flow names a link, the link's credit."""
        was_shut = not self.has_window()
        self._flow.on_flow(flow)
        if flow.handle is not None:
            link = self._by_remote.get(flow.handle)
            if link is not None:
                link.on_flow(flow)
        if was_shut:
            for each in list(self._links.values()):
                each.on_window()
        if flow.echo:
            self._flow.send_flow()

    def on_transfer(self, transfer: Transfer) -> None:
        """Handle one frame of a delivery."""
        self._flow.on_transfer()
        link = self._by_remote.get(transfer.handle)
        if link is not None:
            link.on_transfer(transfer)
        if self._flow.owes_flow:
            self._flow.send_flow()

    def on_disposition(self, disposition: Disposition) -> None:
        """Handle the result of deliveries. A state that is not settled is not final, and is ignored."""
        if not disposition.settled:
            return
        unsettled = self._sent if disposition.is_receiver else self._settling
        numbers = amqp.numbers_between(unsettled, disposition.first, disposition.last) or []
        report = self._on_sent if disposition.is_receiver else self._on_settled
        report(numbers, disposition.state, disposition.error)

    def _on_sent(self, numbers: Iterable[int], state: str | None, error: Condition | None) -> None:
        """Report the result of deliveries that were sent, one by one."""
        for number in numbers:
            self._sent.pop(number)[1](number, state, error)

    def _on_settled(self, numbers: Iterable[int], state: str | None, error: Condition | None) -> None:
        """Report the result of deliveries that were settled: in one call for those that were settled together."""
        entries = [(number, self._settling.pop(number)) for number in numbers]
        for (_, settled), group in groupby(entries, key=itemgetter(1)):
            settled([number for number, _ in group], state, error)

    def on_end(self, error: Condition | None) -> None:
        """Handle the end of the channel, by the peer or with its connection. All its links end."""
        self.state = ChannelState.ENDED
        why = error or Condition(CONNECTION_LOST, "the AMQP session ended", {})
        for link in list(self._links.values()):
            self._forget(link, why)
            link.end(why)

    # Called by the links: see `LinkChannel`

    def detach(self, link: Link) -> None:
        self._flow.drop(link)
        self._connection.send(amqp.detach_frame(self.number, handle=link.handle))

    def flow(self, handle: int, delivery_count: int, credit: int, *, drain: bool = False) -> None:
        self._flow.send_flow(handle, delivery_count, credit, drain=drain)

    def has_window(self) -> bool:
        return self._flow.has_window

    def transfer(self, link: Link, tag: bytes, message_format: int, payload: bytes, outcome: Outcome) -> None:
        number = self._flow.transfer(
            link,
            handle=link.handle,
            tag=tag,
            message_format=message_format,
            payload=payload,
            max_frame_size=self._connection.max_frame_size,
        )
        self._sent[number] = (link, outcome)

    def settle(self, link: Link, first: int, last: int, outcome: bytes, settled: Settled) -> None:
        self._settling.update(dict.fromkeys(range(first, last + 1), (link, settled)))
        self._connection.send(amqp.disposition_frame(self.number, first=first, last=last, outcome=outcome))
