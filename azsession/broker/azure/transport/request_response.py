"""Requests and their responses over a pair of links: ``$cbs``, which takes tokens, and ``$management`` of an entity.

The loop's thread only. See "AMQP Claims-based Security" and "AMQP Management" (OASIS working drafts), and Azure's
"AMQP 1.0 in Azure Service Bus: request-response-based operations".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .... import amqp
from ....amqp import Condition, MalformedFrameError, Response
from .links import CONNECTION_LOST, Receiver, Sender

if TYPE_CHECKING:
    from .connection import Connection

#: Responses that the peer may send ahead.
CREDIT = 500

#: What is called with the answer, or with why there is none: `Condition`s of refused links, or `CONNECTION_LOST`.
OnResponse = Callable[["Response | Condition"], object]


class Exchange:
    """The two links to a node that answers requests, attached when it is made.

    Attributes:
        ended: It is over; a new one must be made.
    """

    def __init__(self, connection: Connection, address: str) -> None:
        self.ended: bool = False
        name = f"azsession-{uuid.uuid4()}"
        self._pending: dict[str, OnResponse] = {}
        self._receiver = _Responses(self, f"{name}-in", address)
        self._sender = _Requests(self, f"{name}-out", address)
        self._reply_to = f"receiver-link-{self._receiver.name}"
        connection.attach(self._receiver)
        connection.attach(self._sender)

    def request(self, properties: Mapping[str, Any], body: Any, on_response: OnResponse) -> None:
        """Send a request."""
        number = str(uuid.uuid4())
        if self.ended:
            on_response(Condition(CONNECTION_LOST, "the link is closed", {}))
            return
        self._pending[number] = on_response
        payload = amqp.encode_request(number, self._reply_to, properties, body)

        def sent(_: int, state: str | None, error: Condition | None) -> None:
            if state != "accepted":
                self._answer(number, error or Condition(CONNECTION_LOST, "the request did not get through", {}))

        self._sender.send(payload, sent)

    def _answer(self, number: Any, response: Response | Condition) -> None:
        on_response = self._pending.pop(number, None)
        if on_response is not None:
            on_response(response)

    def on_payload(self, payload: bytes) -> None:
        """A response came."""
        try:
            response = amqp.decode_response(payload)
        except MalformedFrameError:
            return
        self._answer(response.correlation_id, response)

    def on_link_ended(self, error: Condition | None) -> None:
        """One of the links is over: so is the other."""
        if self.ended:
            return
        self.ended = True
        why = error or Condition(CONNECTION_LOST, "the link was closed", {})
        for number in list(self._pending):
            self._answer(number, why)
        self._receiver.detach()
        self._sender.detach()


class _Responses(Receiver):
    def __init__(self, exchange: Exchange, name: str, address: str) -> None:
        super().__init__(name, address)
        self._exchange = exchange

    def on_attached(self, attach: amqp.Attach) -> None:
        super().on_attached(attach)
        self.give_credit(CREDIT)

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        self.settle(delivery_id, delivery_id, amqp.ACCEPTED, lambda *_: None)
        if self.credit < CREDIT // 2:
            self.give_credit(CREDIT)
        self._exchange.on_payload(payload)

    def on_ended(self, error: Condition | None) -> None:
        self._exchange.on_link_ended(error)


class _Requests(Sender):
    def __init__(self, exchange: Exchange, name: str, address: str) -> None:
        super().__init__(name, address)
        self._exchange = exchange

    def on_attached(self, attach: amqp.Attach) -> None:
        super().on_attached(attach)
        self.pump()

    def on_ended(self, error: Condition | None) -> None:
        super().on_ended(error)
        self._exchange.on_link_ended(error)
