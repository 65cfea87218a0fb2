"""One connection to the namespace with what it carries for all sessions: tokens, links to send by, links for management.

The loop's thread only. `Namespace` makes a new one when the connection is gone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ... import amqp
from ...amqp import Condition, Response
from ...tokens import Token
from .error_mapping import UNAUTHORIZED_ACCESS, refusal_of
from .transport.connection import Connection
from .transport.links import Sender
from .transport.loop import Timer
from .transport.request_response import Exchange, OnResponse

#: Seconds that the service is asked to answer a management request in.
SERVER_TIMEOUT = 60
#: What the messaging service calls the two kinds of token.
_SAS_TYPE, _JWT_TYPE = "servicebus.windows.net:sastoken", "jwt"


@attrs.define(eq=False)
class _Authorization:
    """The token that was put for an entity. Its times are on the monotonic clock."""

    header: str = attrs.field(repr=False)
    refresh_at: float
    ends_at: float
    confirmed: bool = False
    waiting: list[Callable[[Condition | None], object]] = attrs.field(factory=list)


class Uplink:
    """A connection that was opened, and what hangs on it.

    Attributes:
        connection: The connection.
        refresh: When its tokens are looked at next.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.refresh: Timer | None = None
        self._cbs: Exchange | None = None
        self._authorizations: dict[str, _Authorization] = {}
        self._senders: dict[str, EntitySender] = {}
        self._managers: dict[str, Exchange] = {}

    # Tokens

    def is_authorized(self, entity: str) -> bool:
        """Tell whether a token for the entity is in place, and good for some time. Any thread may ask."""
        known = self._authorizations.get(entity)
        return known is not None and known.confirmed and time.monotonic() < known.ends_at - 1

    def authorize(
        self,
        entity: str,
        audience: str,
        token: Token,
        refresh_at: float,
        ends_at: float,
        done: Callable[[Condition | None], object],
    ) -> None:
        """Put a token for an entity, unless that very one is there; `done` is called with the error, if there is one."""
        known = self._authorizations.get(entity)
        if known is not None and known.header == token.header:
            if known.confirmed:
                done(None)
            else:
                known.waiting.append(done)
            return
        if self._cbs is None or self._cbs.ended:
            self._cbs = Exchange(self.connection, "$cbs")
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
        """Do not wait for the answer to a token any more, so that the next who needs one puts it again."""
        known = self._authorizations.get(entity)
        if known is not None and known.header == token.header and not known.confirmed:
            del self._authorizations[entity]

    def to_refresh(self, now: float) -> list[str]:
        """Return the entities whose tokens are worth a new one."""
        return [entity for entity, known in self._authorizations.items() if known.confirmed and known.refresh_at <= now]

    def next_refresh(self) -> float | None:
        """Return when `to_refresh` is worth a look, on the monotonic clock."""
        return min((known.refresh_at for known in self._authorizations.values() if known.confirmed), default=None)

    def postpone(self, entity: str, refresh_at: float) -> None:
        """Look at an entity's token later: a new one could not be had."""
        known = self._authorizations.get(entity)
        if known is not None:
            known.refresh_at = refresh_at

    def distrust(self, entity: str, error: Condition | None) -> None:
        """Forget an entity's token where a link ended for want of a good one."""
        if error is not None and error.condition == UNAUTHORIZED_ACCESS:
            self._authorizations.pop(entity, None)

    # Links for all

    def sender(self, entity: str) -> EntitySender:
        """Return the link to send by, attached or about to be."""
        sender = self._senders.get(entity)
        if sender is None or sender.ended or sender.detaching:
            sender = self._senders[entity] = EntitySender(self, entity)
            self.connection.attach(sender)
        return sender

    def manage(
        self,
        entity: str,
        operation: str,
        body: Mapping[str, Any],
        on_response: OnResponse,
        link: str | None = None,
    ) -> None:
        """Ask the management node of the entity; `link` names the session's, where the request is about a session."""
        manager = self._managers.get(entity)
        if manager is None or manager.ended:
            manager = self._managers[entity] = Exchange(self.connection, f"{address_of(entity)}/$management")
        properties: dict[str, Any] = {
            "operation": f"com.microsoft:{operation}",
            "com.microsoft:server-timeout": amqp.Uint(SERVER_TIMEOUT * 1000),
        }
        if link is not None:
            properties["associated-link-name"] = link

        def answered(response: Response | Condition) -> None:
            error = response if isinstance(response, Condition) else refusal_of(response)
            self.distrust(entity, error)
            on_response(response if error is None else error)

        manager.request(properties, body, answered)


class EntitySender(Sender):
    """The one link by which everything for an entity is sent."""

    def __init__(self, uplink: Uplink, entity: str) -> None:
        super().__init__(f"azsession-send-{uuid.uuid4()}", address_of(entity))
        self._uplink = uplink
        self._entity = entity

    def on_ended(self, error: Condition | None) -> None:
        self._uplink.distrust(self._entity, error)
        super().on_ended(error)


def address_of(entity: str) -> str:
    """Return an entity's AMQP address, which spells subscriptions with a capital."""
    topic, separator, name = entity.partition("/subscriptions/")
    return f"{topic}/Subscriptions/{name}" if separator else entity
