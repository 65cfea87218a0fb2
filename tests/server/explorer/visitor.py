"""A visitor of the Explorer without JavaScript, and a gateway with some keys and queues."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
import requests

from azsession import Message
from azsession.broker.base import Broker
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayService, Right

ROOT = AccessKey("root", "bWFuYWdl+/=")
LISTEN = AccessKey("looker", "bGlzdGVu", frozenset({Right.LISTEN}))
SEND = AccessKey("sender", "c2VuZA==", frozenset({Right.SEND}))
ORDERS = AccessKey("orders-only", "b3JkZXJz", frozenset({Right.LISTEN, Right.SEND}), queues=frozenset({"orders"}))
METRICS = AccessKey("metrics", "bWV0cmljcw==", frozenset({Right.METRICS}))
KEYS = (ROOT, LISTEN, SEND, ORDERS, METRICS)
LOCK = "11111111-1111-1111-1111-111111111111"


@attrs.frozen
class Site:
    """A gateway with its broker."""

    service: GatewayService
    broker: Broker

    @property
    def url(self) -> str:
        return f"{self.service.url}/explorer"

    def send(self, queue: str, *bodies: bytes | str, session_id: str = "s", **fields: Any) -> None:
        """Send messages to one session."""
        self.broker.send(queue, [Message(body, session_id=session_id, **fields) for body in bodies]).result()

    def dead_letter(
        self, queue: str, *bodies: bytes | str, session_id: str = "s", reason: str = "broken", **fields: Any
    ) -> list[int]:
        """Send messages, and dead-letter the first messages of their session. Return their sequence numbers."""
        self.send(queue, *bodies, session_id=session_id, **fields)
        return self.reject(queue, len(bodies), session_id=session_id, reason=reason)

    def reject(self, queue: str, count: int, *, session_id: str = "s", reason: str = "broken") -> list[int]:
        """Dead-letter the first messages of a session. Return their sequence numbers."""
        holder = str(uuid.uuid4())
        wanted = ReceiveRequest(queue, session_id, holder, max_count=count, timeout=0)
        messages = self.broker.receive(wanted).result().messages
        settlements = [Settlement(one.receipt.handle, Disposition.DEAD_LETTER, reason, "about " + reason) for one in messages]
        self.broker.settle(queue, session_id, settlements).result()
        self.broker.release(queue, session_id, holder).result()
        return [one.sequence_number for one in messages]

    def bodies(self, queue: str, session_id: str = "s") -> list[bytes]:
        """Return the bodies of the messages in a session."""
        return [message.body for message in self.broker.peek(queue, session_id, 0, 100).result()]

    def dead(self, queue: str) -> list[bytes]:
        """Return the bodies of the dead letters of a queue."""
        return [message.body for message in self.broker.dead_letters(queue, 0, 100).result()]


@contextmanager
def serving(*, keys: Sequence[AccessKey] = KEYS, **options: Any) -> Iterator[Site]:
    """Serve an embedded broker with the queues `orders` and `other`."""
    broker = EmbeddedBroker()
    for name in ("orders", "other"):
        broker.create_queue(name, QueueSettings()).result()
    with GatewayService(broker, keys, **options) as service:
        yield Site(service, broker)


class Visitor:
    """Asks for pages and posts forms. It keeps cookies, and does not follow redirects."""

    def __init__(self, site: Site, key: AccessKey | None = None) -> None:
        self.url = site.url
        self.http = requests.Session()
        self.http.trust_env = False
        if key is not None:
            assert self.sign_in(key.name, key.key).status_code == 303

    def get(self, page: str, query: Mapping[str, Any] | None = None, **more: Any) -> requests.Response:
        return self.http.get(f"{self.url}/{page}", params=query, allow_redirects=False, timeout=20, **more)

    def post(
        self,
        page: str,
        form: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        csrf: str | None = None,
        **more: Any,
    ) -> requests.Response:
        """Post a form. By default with the token of a page of the Explorer, as browsers do."""
        token = self.csrf() if csrf is None else csrf
        data = {"csrf": token, **(form or {})}
        return self.http.post(f"{self.url}/{page}", data, params=query, allow_redirects=False, timeout=20, **more)

    def csrf(self) -> str:
        """Return the token of a page."""
        return csrf_of(self.get("queues"))

    def sign_in(self, name: str, secret: str, to: str | None = None) -> requests.Response:
        """Sign in as a browser does."""
        query = None if to is None else {"to": to}
        token = csrf_of(self.get("sign-in", query))
        return self.post("sign-in", {"name": name, "secret": secret}, query, csrf=token)

    @property
    def cookie(self) -> str:
        """The value of the cookie that signs the visitor in."""
        return {cookie.name: str(cookie.value) for cookie in self.http.cookies}[f"azsession-explorer-{self.port}"]

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


def csrf_of(page: requests.Response) -> str:
    """Return the token of a page's forms."""
    found = re.search(r'name="csrf" value="([\w-]+)"', page.text)
    assert found is not None, page.text[:500]
    return found[1]


def text_of(page: requests.Response | str) -> str:
    """Return the text of a page without its elements, with single spaces."""
    html = page if isinstance(page, str) else page.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))
