"""Names the requests of a client, and takes sessions with their first messages: for tests of combined requests."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from azsession import Message, ServiceBusProvider, SessionClient
from azsession.client.cancellation import PendingCalls
from azsession.client.holder import LockOptions
from azsession.client.provider import core_of


class Traffic:
    """Names the requests about sessions of a `requests.Session`, for example ``"accept 10"`` or ``"complete"``.

    Attributes:
        hidden: A header that is removed from the responses.
        names: The names so far. A number is the one in ``max``.
    """

    def __init__(self, http: requests.Session) -> None:
        self.hidden = ""
        self.names: list[str] = []
        http.hooks["response"].append(self._record)

    def _record(self, response: requests.Response, **_: object) -> None:
        response.headers.pop(self.hidden, None)
        url = urlsplit(response.request.url or "")
        if "/sessions" not in str(url.path) or response.request.method == "GET":
            return
        path, query = str(url.path), parse_qs(str(url.query))
        method, body = response.request.method, response.request.body
        settled = "+".join(json.loads(body)) if body and path.endswith(("$settle", "/release")) else ""
        kind = {"DELETE": "complete", "PUT": "abandon", "POST": "settle"}.get(method or "", "")
        for ending, name in {"/sessions": "accept", "/head": "receive", "$settle": "", "/release": "release"}.items():
            kind = name if path.endswith(ending) else kind
        self.names.append(" ".join(filter(None, [settled, kind, *query.get("max", ())])))


def send(provider: ServiceBusProvider, count: int, **fields: Any) -> None:
    provider.send_messages("orders", [Message(str(number), session_id="s1", **fields) for number in range(count)])


def rest(session: SessionClient) -> list[tuple[str, int]]:
    """Receive and complete all messages. Return their texts and delivery counts."""
    found = []
    while (message := session.receive_message(timeout=0)) is not None:
        found.append((message.text(), message.delivery_count))
        session.complete_message(message)
    return found


def accept(provider: ServiceBusProvider, prefetch: int | None) -> SessionClient:
    session = core_of(provider).accept_next("orders", LockOptions(30), 5.0, PendingCalls(), prefetch=prefetch)
    assert session is not None
    return session
