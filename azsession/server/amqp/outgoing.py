"""A link by which a client receives: its credit (AMQP 1.0 §2.6.7), and the deliveries that it sends."""

from __future__ import annotations

import asyncio

from ... import amqp
from ...amqp import Flow
from .link import Link
from .states import LinkState

_MASK = 0xFFFFFFFF


class OutgoingLink(Link):
    """A link by which a client receives.

    Attributes:
        credit: How many messages the client takes now.
        is_draining: Whether the client wants its credit used up or given back at once.
    """

    credit: int = 0
    is_draining: bool = False
    _delivery_count: int = 0

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is not None:
            seen = self._delivery_count if flow.delivery_count is None else flow.delivery_count
            self.credit = amqp.remaining(seen + flow.link_credit, self._delivery_count)
        self.is_draining = flow.drain
        if self.state is LinkState.ATTACHED:
            self.on_credit()
            if flow.echo:
                self.send_flow()

    def on_credit(self) -> None:
        """Handle that the credit has changed, or that the client drains."""

    def on_room(self) -> None:
        self.on_credit()

    @property
    def can_send(self) -> bool:
        """Whether the client takes a message, and the connection has room for it."""
        return self.state is LinkState.ATTACHED and self.credit > 0 and self.channel.has_room

    def deliver(self, tag: bytes, payload: bytes, key: str | None) -> int:
        """Send a message; return its delivery id. With a `key`, the client settles it; `None` sends it settled."""
        self.credit -= 1
        self._delivery_count = (self._delivery_count + 1) & _MASK
        return self.channel.transfer(self, tag, payload, key)

    def drained(self) -> None:
        """Give the rest of the credit back to a client that drains."""
        self._delivery_count = (self._delivery_count + self.credit) & _MASK
        self.credit = 0
        self.is_draining = False
        self.send_flow(drain=True)

    def send_flow(self, *, drain: bool = False) -> None:
        """Report the link's state."""
        self.channel.send_flow(self.handle, self._delivery_count, self.credit, drain=drain)


class Signal:
    """Wakes the one task that waits for it. Unlike `asyncio.Event`, a wait ends the signal."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task, now or when it waits next."""
        self._event.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until the signal is set, or the time is over."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._event.clear()
