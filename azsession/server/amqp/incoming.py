"""A link by which a client sends: its credit, and the messages in its transfer frames (AMQP 1.0 §2.6.7, §2.6.14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import amqp
from ...amqp import Attach, Transfer
from .conditions import TOO_LARGE, ConnectionFaultError, LinkFaultError, RefusedError
from .link import Link, LinkChannel
from .states import LinkState

#: How many times the largest message a client may send of one message before its link is detached.
_PATIENCE = 16
_OVER_LIMIT = "amqp:link:transfer-limit-exceeded"


class IncomingLink(Link):
    """A link by which a client sends. Subclasses take the messages.

    Attributes:
        max_credit: How many messages the client may send before the first is answered.
        max_message_size: The largest message, in bytes.
    """

    max_credit: int = 1000
    max_message_size: int = 1024 * 1024

    _delivery_count = 0
    _credit = 0
    #: The messages that were taken and are not answered yet.
    _busy = 0

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str) -> None:
        super().__init__(channel, attach, path, entity)
        # The first frame, the payloads and the size of the message that is coming in.
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def on_granted(self) -> None:
        self._replenish()

    def answer(self) -> Mapping[str, Any]:
        return {"max_message_size": self.max_message_size}

    def _replenish(self) -> None:
        """Give the client credit again when half of it is used. Messages that are not answered count."""
        wanted = self.max_credit - self._busy
        if self.state is LinkState.ATTACHED and self._credit <= wanted // 2:
            self._credit = wanted
            self.channel.send_flow(self.handle, self._delivery_count, self._credit)

    def on_flow(self, flow: amqp.Flow) -> None:
        if flow.echo and self.state is LinkState.ATTACHED:
            self.channel.send_flow(self.handle, self._delivery_count, self._credit)

    def on_transfer(self, transfer: Transfer) -> None:
        if self.state is LinkState.DETACHED:
            return
        if self.state is LinkState.ATTACHING:
            raise LinkFaultError(_OVER_LIMIT, "The client sent a message before the link was attached.")
        first = self._first
        if first is None:
            if self._credit <= 0:
                raise LinkFaultError(_OVER_LIMIT, "The client sent more messages than it has credit for.")
            if transfer.delivery_id is None or transfer.delivery_tag is None:
                raise ConnectionFaultError("amqp:invalid-field", "The first transfer of a delivery needs an id and a tag.")
            first = self._first = transfer
        elif transfer.delivery_id not in (None, first.delivery_id):
            raise ConnectionFaultError("amqp:invalid-field", "A delivery began before the last one on its link ended.")
        self._size += len(transfer.payload)
        if self._size <= self.max_message_size:
            self._parts.append(transfer.payload)
            self.channel.connection.hold(len(transfer.payload))
        elif self._size > _PATIENCE * self.max_message_size:
            raise LinkFaultError(TOO_LARGE, self._too_large_text(self._size))
        else:
            self._drop_parts()
        if transfer.aborted:
            self._drop_parts()
        elif transfer.more:
            return
        self._end_delivery(first, transfer)

    def _end_delivery(self, first: Transfer, last: Transfer) -> None:
        payload, size = b"".join(self._parts), self._size
        self._parts, self._first, self._size = [], None, 0
        self._credit -= 1
        self._delivery_count = (self._delivery_count + 1) & 0xFFFFFFFF
        self._busy += 1
        if last.aborted:
            self._done(0)
            return
        is_settled = first.settled or last.settled
        if size > self.max_message_size:
            refusal = RefusedError(TOO_LARGE, self._too_large_text(size), 413)
            self.answered(first, 0, refusal, is_settled=is_settled)
        else:
            self.take(first, payload, is_settled=is_settled)

    def take(self, first: Transfer, payload: bytes, *, is_settled: bool) -> None:
        """Handle a whole message. Call `answered` once, at once or later, with the message's size."""
        raise NotImplementedError

    def answered(self, first: Transfer, size: int, refusal: RefusedError | None, *, is_settled: bool) -> None:
        """Report the outcome of a message to the client, unless the client has settled it already."""
        if not is_settled and first.delivery_id is not None and self.state is LinkState.ATTACHED:
            self.channel.settle_incoming(first.delivery_id, None if refusal is None else refusal.error)
        self._done(size)

    def _done(self, size: int) -> None:
        self._busy -= 1
        self.channel.connection.let_go(size)
        self._replenish()

    def _too_large_text(self, size: int) -> str:
        limit = self.max_message_size
        return f"The received message (size: {size} bytes) exceeds the limit ({limit} bytes) currently allowed on the link."

    def _drop_parts(self) -> None:
        self.channel.connection.let_go(sum(map(len, self._parts)))
        self._parts = []

    def release(self) -> None:
        self._drop_parts()
        super().release()
