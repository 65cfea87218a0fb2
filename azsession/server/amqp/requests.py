"""Requests and responses over a pair of links: the nodes ``$cbs`` and ``$management``. `cbs` and `management` answer them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Any

from ... import amqp
from ...amqp import Attach, MalformedFrameError, Request, Transfer
from .conditions import RefusedError
from .incoming import IncomingLink
from .link import LinkChannel
from .outgoing import OutgoingLink

#: Requests of one link that may be under way, including those whose responses wait for the client's credit.
MAX_REQUESTS = 100

Answer = tuple[Mapping[str, Any], Any]
_tags = count(1)


class Responses(OutgoingLink):
    """The link by which a client receives responses."""

    def __init__(self, channel: LinkChannel, attach: Attach, path: str, entity: str) -> None:
        super().__init__(channel, attach, path, entity)
        self._waiting: deque[tuple[bytes, RequestLink]] = deque()

    @property
    def target(self) -> str | None:
        """The address that requests name for their responses."""
        return None if self.attach.target is None else self.attach.target.address

    def respond(self, payload: bytes, asked: RequestLink) -> None:
        """Send a response as soon as the client takes it. The request link counts the request until then."""
        self._waiting.append((payload, asked))
        self.on_credit()

    def on_credit(self) -> None:
        while self._waiting and self.can_send:
            payload, asked = self._waiting.popleft()
            self.deliver(next(_tags).to_bytes(8, "big"), payload, None)
            asked.responded()
        if self.is_draining:
            self.drained()

    def release(self) -> None:
        super().release()
        while self._waiting:
            self._waiting.popleft()[1].responded()


class RequestLink(IncomingLink):
    """The link by which a client sends requests. Subclasses answer them."""

    max_credit = MAX_REQUESTS

    async def perform(self, request: Request) -> Answer:
        """Perform a request; return the application properties and the body of the response."""
        raise NotImplementedError

    def take(self, first: Transfer, payload: bytes, *, is_settled: bool) -> None:
        try:
            request = amqp.decode_request(payload)
        except MalformedFrameError as error:
            refusal = RefusedError("amqp:decode-error", str(error))
            self.answered(first, len(payload), refusal, is_settled=is_settled)
            return
        # The request counts as busy until its response is sent.
        self._busy += 1
        self.answered(first, len(payload), None, is_settled=is_settled)
        self.run(self._respond(request))

    async def _respond(self, request: Request) -> None:
        properties, body = await self.perform(request)
        responses = self._responses(request.reply_to)
        if responses is None:
            self.responded()
        else:
            responses.respond(amqp.encode_response(request.message_id, properties, body), self)

    def responded(self) -> None:
        """Note that the response to a request was sent, or that nobody waits for it."""
        self._done(0)

    def _responses(self, reply_to: str | None) -> Responses | None:
        """Return the link for a response: the one that the request names, or else one of the same node and session."""
        found = [
            link
            for link in self.channel.connection.links
            if isinstance(link, Responses) and link.path == self.path and link.is_attached
        ]
        for link in found:
            if reply_to is not None and link.target == reply_to != self.path:
                return link
        return min(found, key=lambda link: link.channel is not self.channel, default=None)
