"""`AuthorizedConnection`: a connection to the namespace, and what all sessions share on it.

Shared are the tokens that were put for entities, the links that send, and the links to the management nodes. `Namespace`
makes a new `AuthorizedConnection` when there is none with room. Everything here runs in the loop's thread, except
`is_authorized`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ... import amqp
from ...amqp import Attach, Condition, Response
from ...tokens import Token
from .error_mapping import UNAUTHORIZED_ACCESS, refusal_of
from .transport.connection import Connection
from .transport.links import Link, Sender
from .transport.loop import Timer
from .transport.request_response import OnResponse, RequestResponseLinks
from .transport.task import LocalFuture

#: Seconds that Azure may take for a management request.
SERVER_TIMEOUT = 60
#: The property of a sender's link with the largest batch in bytes.
MAX_BATCH_PROPERTY = "com.microsoft:max-message-batch-size"
#: The token types of Microsoft's "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide", claims-based authorization.
_SAS_TYPE, _JWT_TYPE = "servicebus.windows.net:sastoken", "jwt"
#: Seconds before its end from which a token counts as ended.
_TOKEN_MARGIN = 1.0


@attrs.define(eq=False)
class _Authorization:
    """The token of one entity. Its times are on the monotonic clock."""

    header: str = attrs.field(repr=False)
    refresh_at: float
    ends_at: float
    confirmed: bool = False
    waiting: list[Callable[[Condition | None], object]] = attrs.field(factory=list)


class AuthorizedConnection:
    """An open connection with its tokens and shared links.

    Args:
        transport: The AMQP connection.

    Attributes:
        transport: The AMQP connection.
        refresh_timer: Fires when a token is due for a new one.
    """

    def __init__(self, transport: Connection) -> None:
        self.transport = transport
        self.refresh_timer: Timer | None = None
        self._cbs: RequestResponseLinks | None = None
        self._authorizations: dict[str, _Authorization] = {}
        self._senders: dict[str, EntitySender] = {}
        self._managers: dict[str, RequestResponseLinks] = {}

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self.transport.closed

    # Tokens

    def is_authorized(self, entity: str) -> bool:
        """Return whether there is a valid token for the entity. Any thread may ask."""
        known = self._authorizations.get(entity)
        return known is not None and known.confirmed and time.monotonic() < known.ends_at - _TOKEN_MARGIN

    def authorize(
        self,
        entity: str,
        audience: str,
        token: Token,
        refresh_at: float,
        ends_at: float,
        done: Callable[[Condition | None], object],
    ) -> None:
        """Put a token for an entity, unless it is there already.

        Args:
            entity: The queue, topic or subscription.
            audience: The URI that the token is for.
            token: The token.
            refresh_at: When a new token is due, on the monotonic clock.
            ends_at: When the token ends, on the monotonic clock.
            done: Called with `None`, or with the error.
        """
        known = self._authorizations.get(entity)
        if known is not None and known.header == token.header:
            if known.confirmed:
                done(None)
            else:
                known.waiting.append(done)
            return
        if self._cbs is None or self._cbs.ended:
            self._cbs = RequestResponseLinks(self.transport, "$cbs")
        authorization = _Authorization(token.header, refresh_at, ends_at, waiting=[done])
        if known is None or not known.confirmed:
            self._authorizations[entity] = authorization
        scheme, _, bearer = token.header.partition(" ")
        is_jwt = scheme == "Bearer"
        properties = {
            "operation": "put-token",
            "type": _JWT_TYPE if is_jwt else _SAS_TYPE,
            "name": audience,
        }

        def answered(response: Response | Condition) -> None:
            error = response if isinstance(response, Condition) else refusal_of(response)
            if error is None:
                authorization.confirmed = True
                self._authorizations[entity] = authorization
            elif self._authorizations.get(entity) is authorization:
                del self._authorizations[entity]
            waiting, authorization.waiting = authorization.waiting, []
            for waiter in waiting:
                waiter(error)

        self._cbs.request(properties, bearer if is_jwt else token.header, answered)

    def give_up(self, entity: str, token: Token) -> None:
        """Forget a token that Azure did not confirm in time, so that the next caller puts it again."""
        known = self._authorizations.get(entity)
        if known is not None and known.header == token.header and not known.confirmed:
            del self._authorizations[entity]

    def due_for_refresh(self, now: float) -> list[str]:
        """Return the entities whose tokens are due for new ones."""
        return [entity for entity, known in self._authorizations.items() if known.confirmed and known.refresh_at <= now]

    def next_refresh(self) -> float | None:
        """Return when the next token is due for a new one, on the monotonic clock; `None` for never."""
        return min((known.refresh_at for known in self._authorizations.values() if known.confirmed), default=None)

    def postpone_refresh(self, entity: str, refresh_at: float) -> None:
        """Set when an entity's token is due for a new one."""
        known = self._authorizations.get(entity)
        if known is not None:
            known.refresh_at = refresh_at

    def distrust(self, entity: str, error: Condition | None) -> None:
        """Forget an entity's token if a link or a request was refused for it."""
        if error is not None and error.condition == UNAUTHORIZED_ACCESS:
            self._authorizations.pop(entity, None)

    # Links

    def attach(self, link: Link) -> None:
        """Attach a link."""
        self.transport.attach(link)

    def sender(self, entity: str) -> EntitySender:
        """Return the link that sends to an entity; it may not be attached yet."""
        sender = self._senders.get(entity)
        if sender is None or sender.ended or sender.detaching:
            sender = self._senders[entity] = EntitySender(self, entity)
            self.attach(sender)
        return sender

    def manage(
        self,
        entity: str,
        operation: str,
        body: Mapping[str, Any],
        on_response: OnResponse,
        link_name: str | None = None,
    ) -> None:
        """Send a request to an entity's management node.

        Args:
            entity: The queue or subscription.
            operation: The operation, without its prefix ``com.microsoft:``.
            body: The request.
            on_response: Called with the response, or with the error.
            link_name: The session's link, for a request about a session.
        """
        manager = self._managers.get(entity)
        if manager is None or manager.ended:
            manager = self._managers[entity] = RequestResponseLinks(self.transport, f"{address_of(entity)}/$management")
        properties: dict[str, Any] = {
            "operation": f"com.microsoft:{operation}",
            "com.microsoft:server-timeout": amqp.Uint(SERVER_TIMEOUT * 1000),
        }
        if link_name is not None:
            properties["associated-link-name"] = link_name

        def answered(response: Response | Condition) -> None:
            error = response if isinstance(response, Condition) else refusal_of(response)
            self.distrust(entity, error)
            on_response(response if error is None else error)

        manager.request(properties, body, answered)


class EntitySender(Sender):
    """The link that sends all messages to one entity.

    Attributes:
        ready: Is done when the link is attached or has ended.
        max_batch_size: The largest batch that the peer accepts, in bytes; `None` where it does not say it.
    """

    def __init__(self, connection: AuthorizedConnection, entity: str) -> None:
        super().__init__(f"azsession-send-{uuid.uuid4()}", address_of(entity))
        self.ready: LocalFuture[None] = LocalFuture()
        self.max_batch_size: int | None = None
        self._connection = connection
        self._entity = entity

    def on_attached(self, attach: Attach) -> None:
        super().on_attached(attach)
        announced = attach.properties.get(MAX_BATCH_PROPERTY)
        if isinstance(announced, int) and announced > 0:
            self.max_batch_size = announced
        self.ready.set_result(None)

    def on_ended(self, error: Condition | None) -> None:
        self._connection.distrust(self._entity, error)
        super().on_ended(error)
        if not self.ready.done():
            self.ready.set_result(None)


def address_of(entity: str) -> str:
    """Return an entity's AMQP address. It spells ``Subscriptions`` with a capital letter, as the SDKs do."""
    topic, separator, name = entity.partition("/subscriptions/")
    return f"{topic}/Subscriptions/{name}" if separator else entity
