"""Requests and responses of `$cbs`, which takes tokens, and of the entities' `$management`."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from cproton import ffi, lib
from proton import Message, int32

from tests.standin import management
from tests.standin.links import AnyLink, Inbound
from tests.standin.refusal import Refusal
from tests.standin.state import Queue
from tests.standin.tokens import InvalidTokenError, path_of

if TYPE_CHECKING:
    from tests.standin.connection import Peer

_TAGS = count(1)


class Responses(AnyLink):
    """The link by which a client receives responses."""

    def __init__(self, peer: Peer, impl: Any, link: Any, node: str) -> None:
        super().__init__(peer, impl, link)
        self.node = node
        self.target = link.remote_target.address
        self._waiting: deque[bytes] = deque()

    def flow(self) -> None:
        while self._waiting and lib.pn_link_credit(self.impl) > 0:
            data = self._waiting.popleft()
            delivery = lib.pn_delivery(self.impl, (8, ffi.from_buffer(next(_TAGS).to_bytes(8, "big"))))
            lib.pn_link_send(self.impl, ffi.from_buffer(data), len(data))
            lib.pn_link_advance(self.impl)
            lib.pn_delivery_settle(delivery)
            self.server.dirty(self.peer)
        if lib.pn_link_get_drain(self.impl):
            lib.pn_link_drained(self.impl)

    def respond(self, data: bytes) -> None:
        self._waiting.append(data)
        self.flow()


class Requests(Inbound):
    """The link by which a client sends requests. Subclasses perform them."""

    def __init__(self, peer: Peer, impl: Any, link: Any, node: str) -> None:
        super().__init__(peer, impl, link)
        self.node = node
        self._session = lib.pn_link_session(impl)

    def take(self, data: bytes, batched: bool) -> bool:
        request = Message()
        request.decode(data)
        operation = str((request.properties or {}).get("operation", "")).removeprefix("com.microsoft:")
        self.server.log[operation] += 1
        properties, body = self.act(operation, request)
        responses = self._responses(request.reply_to)
        if responses is not None and not self.server.swallowed(operation):
            response = Message(body=body, properties=properties)
            response.correlation_id = request.correlation_id if request.id is None else request.id
            responses.respond(response.encode())
        return True

    def act(self, operation: str, request: Message) -> tuple[dict[str, Any], Any]:
        """Perform a request; return the application properties and the body of the response."""
        raise NotImplementedError

    def _responses(self, reply_to: str | None) -> Responses | None:
        """Return the link for the response: the one that the request names, or else one of the same node and session."""
        found = None
        for impl, link in self.peer.links.items():
            if isinstance(link, Responses) and link.node == self.node:
                if reply_to is not None and link.target == reply_to and link.target != self.node:
                    return link
                if found is None or lib.pn_link_session(impl) == self._session:
                    found = link
        return found


class TokenRequests(Requests):
    """The node `$cbs`, which takes tokens."""

    def act(self, operation: str, request: Message) -> tuple[dict[str, Any], Any]:
        asked = request.properties or {}
        try:
            self.server.refuse_if_told("put-token")
            if operation != "put-token":
                raise InvalidTokenError(f"The operation {operation} is not supported.")
            self.server.check_exists(path_of(str(asked.get("name"))))
            expires = asked.get("expiration")
            self.peer.put_token(
                str(request.body),
                str(asked.get("type")),
                str(asked.get("name")),
                expires / 1000 if isinstance(expires, int) else None,
            )
        except InvalidTokenError as error:
            return {"status-code": int32(401), "status-description": str(error)}, None
        except Refusal as refusal:
            status = {"status-code": int32(refusal.status), "status-description": refusal.description}
            return {**status, "error-condition": refusal.condition}, None
        return {"status-code": int32(202), "status-description": "Accepted"}, None


class ManagementRequests(Requests):
    """The node `$management` of an entity."""

    rights = ("Listen", "Send")

    def __init__(self, peer: Peer, impl: Any, link: Any, node: str, queue: Queue | str) -> None:
        super().__init__(peer, impl, link, node)
        self.queue = queue
        self.audience = node

    def act(self, operation: str, request: Message) -> tuple[dict[str, Any], Any]:
        try:
            self.server.refuse_if_told(operation, throttled=True)
            status, body = management.perform(self.server, self.queue, self.peer, operation, request.body)
        except Refusal as refusal:
            answer = {"statusCode": int32(refusal.status), "statusDescription": refusal.description}
            return {**answer, "errorCondition": management.symbol(refusal.condition)}, None
        description = {200: "OK", 204: "NoContent"}[status]
        return {"statusCode": int32(status), "statusDescription": description}, body
