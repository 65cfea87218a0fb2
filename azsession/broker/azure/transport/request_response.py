"""Requests and responses over a pair of links, for ``$cbs`` (tokens) and the ``$management`` node of an entity.

`Uplink` makes them; only the loop's thread uses them. `azsession.amqp.management` names the sources.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from .... import amqp
from ....amqp import Condition, MalformedFrameError, Response
from .connection import Connection
from .links import CONNECTION_LOST, Receiver, Sender

#: How many responses the peer may send ahead.
CREDIT = 500

#: The callback for a response. It gets a `Condition` if there is none: the error of a link, or `CONNECTION_LOST`.
OnResponse = Callable[["Response | Condition"], object]


class RequestResponseLinks:
    """The two links to a node that answers requests. The constructor attaches them.

    Attributes:
        ended: Whether one of the links has ended. A new pair must take the place of an ended one.
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
        """Send a request; `on_response` is called once."""
        number = str(uuid.uuid4())
        if self.ended:
            on_response(Condition(CONNECTION_LOST, "the link is closed", {}))
            return
        self._pending[number] = on_response
        payload = amqp.encode_request(number, self._reply_to, properties, body)

        def sent(_: int, state: str | None, error: Condition | None) -> None:
            if state != "accepted":
                self._answer(number, error or Condition(CONNECTION_LOST, "the request was not accepted", {}))

        self._sender.send(payload, sent)

    def _answer(self, number: Any, response: Response | Condition) -> None:
        on_response = self._pending.pop(number, None)
        if on_response is not None:
            on_response(response)

    def on_payload(self, payload: bytes) -> None:
        """Handle a response. A malformed one is ignored: its request is unknown."""
        try:
            response = amqp.decode_response(payload)
        except MalformedFrameError:
            return
        self._answer(response.correlation_id, response)

    def on_link_ended(self, error: Condition | None) -> None:
        """Handle the end of one link: end the other, and answer all requests."""
        if self.ended:
            return
        self.ended = True
        why = error or Condition(CONNECTION_LOST, "the link was closed", {})
        for number in list(self._pending):
            self._answer(number, why)
        self._receiver.detach()
        self._sender.detach()


class _Responses(Receiver):
    def __init__(self, links: RequestResponseLinks, name: str, address: str) -> None:
        super().__init__(name, address)
        self._links = links

    def on_attached(self, attach: amqp.Attach) -> None:
        super().on_attached(attach)
        self.give_credit(CREDIT)

    def on_message(self, delivery_id: int, delivery_tag: bytes, payload: bytes) -> None:
        self.settle(delivery_id, delivery_id, amqp.ACCEPTED, lambda *_: None)
        if self.credit < CREDIT // 2:
            self.give_credit(CREDIT)
        self._links.on_payload(payload)

    def on_ended(self, error: Condition | None) -> None:
        self._links.on_link_ended(error)


class _Requests(Sender):
    def __init__(self, links: RequestResponseLinks, name: str, address: str) -> None:
        super().__init__(name, address)
        self._links = links

    def on_attached(self, attach: amqp.Attach) -> None:
        super().on_attached(attach)
        self.pump()

    def on_ended(self, error: Condition | None) -> None:
        super().on_ended(error)
        self._links.on_link_ended(error)
