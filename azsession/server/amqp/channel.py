"""An AMQP session in the server role: its links, its windows (AMQP 1.0 §2.5.6), and the deliveries that are not settled.

The session and its links have the client's channel number and handles in both directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ... import amqp
from ...amqp import Attach, Begin, Condition, Detach, Disposition, Flow, Transfer
from .attaching import link_for
from .conditions import TOO_MANY, ConnectionFaultError, LinkFaultError, RefusedError, SessionFaultError
from .link import Link, LinkConnection

#: The highest handle of a link, as on Azure.
MAX_HANDLE = 255
#: Deliveries of one session that may be unsettled. Beyond it, no message is sent.
MAX_UNSETTLED = 5000


class ChannelConnection(LinkConnection, Protocol):
    """The connection, as its sessions use it; see `connection.Connection`."""

    @property
    def is_writable(self) -> bool: ...
    @property
    def max_frame_size(self) -> int: ...
    def send(self, data: bytes) -> None: ...
    def has_room_for_link(self) -> bool: ...


class Channel:
    """An AMQP session.

    Args:
        connection: The connection.
        number: The client's channel number.
        begin: The client's begin frame.
    """

    def __init__(self, connection: ChannelConnection, number: int, begin: Begin) -> None:
        self.connection: ChannelConnection = connection
        self.number = number
        self._links: dict[int, Link] = {}
        self._flow: amqp.SessionFlow[Link] = amqp.SessionFlow(number, connection.send)
        #: The unsettled deliveries to the client: their link and its key, and their ids by key.
        self._unsettled: dict[int, tuple[Link, str]] = {}
        self._numbers: dict[str, int] = {}
        self._handle_max = min(MAX_HANDLE, begin.handle_max)
        self._flow.on_begin(begin)
        self._flow.begin(MAX_HANDLE, remote_channel=number)

    @property
    def links(self) -> list[Link]:
        """The links of the session."""
        return list(self._links.values())

    @property
    def link_count(self) -> int:
        """How many links the session has."""
        return len(self._links)

    @property
    def has_room(self) -> bool:
        """Whether a message can be sent now."""
        return self._flow.has_window and len(self._unsettled) < MAX_UNSETTLED and self.connection.is_writable

    def new_link(self, attach: Attach) -> Link:
        """Return the link for an attach."""
        return link_for(self, attach)

    # Frames from the client

    def on_attach(self, attach: Attach) -> None:
        """Make a link."""
        if attach.handle > self._handle_max:
            raise ConnectionFaultError("amqp:connection:framing-error", f"The handle {attach.handle} is above handle-max.")
        if attach.handle in self._links:
            raise SessionFaultError("amqp:session:handle-in-use", f"The handle {attach.handle} is in use.")
        link = self._links[attach.handle] = self.new_link(attach)
        if self.connection.has_room_for_link():
            link.open()
        else:
            link.fail(RefusedError(TOO_MANY, "The connection or the server has too many links."))

    def on_detach(self, detach: Detach) -> None:
        """End a link."""
        link = self._links.pop(detach.handle, None)
        if link is None:
            raise SessionFaultError("amqp:session:unattached-handle", f"No link has the handle {detach.handle}.")
        link.on_detach(detach.closed)

    def on_flow(self, flow: Flow) -> None:
        """Handle the client's window and, if the flow names a link, the link's credit."""
        self._flow.on_flow(flow)
        if flow.handle is not None:
            self._link(flow.handle).on_flow(flow)
        else:
            self.on_room()
            if flow.echo:
                self.send_flow()

    def on_transfer(self, transfer: Transfer) -> None:
        """Handle one frame of a delivery."""
        if not self._flow.on_transfer():
            raise SessionFaultError("amqp:session:window-violation", "The client sent more transfers than the window allows.")
        link = self._link(transfer.handle)
        try:
            link.on_transfer(transfer)
        except LinkFaultError as fault:
            link.fail(fault)
        if self._flow.owes_flow:
            self._flow.send_flow()

    def on_disposition(self, disposition: Disposition) -> None:
        """Handle the client's settlement of deliveries that were sent to it, in the order of their ids."""
        if not disposition.is_receiver or disposition.state == "received":
            return
        if disposition.state is None and not disposition.settled:
            return
        numbers = amqp.numbers_between(self._unsettled, disposition.first, disposition.last)
        if numbers is None:
            raise SessionFaultError("amqp:invalid-field", "The last delivery of a disposition comes before its first.")
        found: dict[Link, list[tuple[int, str]]] = {}
        for number in numbers:
            link, key = self._pop(number)
            found.setdefault(link, []).append((number, key))
        for link, deliveries in found.items():
            link.on_disposition(deliveries, disposition)
        if found:
            self.on_room()

    def _link(self, handle: int) -> Link:
        link = self._links.get(handle)
        if link is None:
            raise SessionFaultError("amqp:session:unattached-handle", f"No link has the handle {handle}.")
        return link

    # The end

    def end(self, error: Condition | None) -> None:
        """End the session for the server, with an end frame."""
        self.connection.send(amqp.end_frame(self.number, error))
        self.release()

    def release(self) -> None:
        """Give back what the links have."""
        for link in self.links:
            link.release()
        self._links.clear()
        self._flow.clear()
        self._unsettled.clear()
        self._numbers.clear()

    # Called by the links

    def send(self, frame: bytes) -> None:
        """Send a frame of a link."""
        self.connection.send(frame)

    def transfer(self, link: Link, tag: bytes, payload: bytes, key: str | None) -> int:
        """Send a message, now or when the client's window allows; return its delivery id.

        Args:
            link: The link.
            tag: The delivery tag.
            payload: The encoded message.
            key: The name that `Link.on_disposition` gets for the delivery; `None` for a settled delivery.
        """
        number = self._flow.transfer(
            link,
            handle=link.handle,
            tag=tag,
            payload=payload,
            max_frame_size=self.connection.max_frame_size,
            settled=key is None,
        )
        if key is not None:
            self._unsettled[number] = (link, key)
            self._numbers[key] = number
        return number

    def settle_outgoing(self, numbers: list[int], outcome: bytes) -> None:
        """Report that deliveries to the client are settled with an outcome. Neighbours share a frame."""
        self._settle(numbers, outcome, receiver=False)

    def settle_incoming(self, number: int, error: Condition | None) -> None:
        """Report that a delivery from the client is accepted, or rejected with an error."""
        self._settle([number], amqp.ACCEPTED if error is None else amqp.rejected(error), receiver=True)

    def _settle(self, numbers: list[int], outcome: bytes, *, receiver: bool) -> None:
        at = 0
        while at < len(numbers):
            end = at + 1
            while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
                end += 1
            self.send(
                amqp.disposition_frame(
                    self.number, first=numbers[at], last=numbers[end - 1], outcome=outcome, settled=True, receiver=receiver
                )
            )
            at = end

    def send_flow(self, handle: int | None = None, delivery_count: int = 0, credit: int = 0, *, drain: bool = False) -> None:
        """Report the session's windows and, with a handle, the state of a link."""
        self._flow.send_flow(handle, delivery_count, credit, drain=drain)

    def forget(self, link: Link) -> None:
        """Forget the deliveries of a link that has ended."""
        self._flow.drop(link)
        for number in [number for number, (owner, _) in self._unsettled.items() if owner is link]:
            self._pop(number)

    def forget_deliveries(self, keys: Iterable[str]) -> None:
        """Forget deliveries that the client has settled in another way: with a request to ``$management``."""
        for number in [self._numbers[key] for key in keys if key in self._numbers]:
            self._pop(number)
        self.on_room()

    def _pop(self, number: int) -> tuple[Link, str]:
        link, key = self._unsettled.pop(number)
        self._numbers.pop(key, None)
        return link, key

    def on_room(self) -> None:
        """Let the links send again, if there is room."""
        for link in self.links if self.has_room else ():
            link.on_room()
