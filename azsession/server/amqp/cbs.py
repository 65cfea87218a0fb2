"""The node ``$cbs``, which takes tokens. Source: "AMQP Claims-based Security" (OASIS working draft)."""

from __future__ import annotations

import time

from ...amqp import Request
from ...errors import QueueError
from ...protocol.sas import SCHEME
from .claims import path_of
from .conditions import UNAUTHORIZED, RefusedError, refusal_of
from .entities import existing_entity, stores_of
from .requests import Answer, RequestLink

#: The types of tokens. Microsoft's SDK for Python puts shared access signatures also as "jwt".
_TYPES = frozenset({"servicebus.windows.net:sastoken", "jwt"})


class TokenRequests(RequestLink):
    """A client's requests to ``$cbs``."""

    async def perform(self, request: Request) -> Answer:
        began = time.monotonic()
        properties, body = await self._answer(request)
        if properties["status-code"] != 202:
            self.report(None, int(properties["status-code"]), began)
        return properties, body

    async def _answer(self, request: Request) -> Answer:
        try:
            await self._put_token(request)
        except RefusedError as refusal:
            return {**_status(refusal.status, refusal.description), "error-condition": refusal.condition}, None
        except QueueError as error:
            refused = refusal_of(error, str(request.properties.get("name")))
            # Azure's answer to a token that is not valid has no condition.
            condition = {"error-condition": refused.condition} if refused.status != 401 else {}
            return {**_status(refused.status, refused.description), **condition}, None
        return _status(202, "Accepted"), None

    async def _put_token(self, request: Request) -> None:
        asked = request.properties
        audience, operation = asked.get("name"), asked.get("operation")
        if operation != "put-token":
            raise RefusedError("amqp:not-implemented", f"The operation {operation!s:.100} is not supported.", 501)
        if asked.get("type") not in _TYPES or not isinstance(request.body, str) or not isinstance(audience, str):
            raise RefusedError("amqp:invalid-field", "The request needs a name, a type of token, and the token as a string.")
        if asked.get("type") == "jwt" and not request.body.startswith(SCHEME):
            text = "Tokens of Microsoft Entra are not supported. Use a connection string, or a shared access signature."
            raise RefusedError(UNAUTHORIZED, text, 401)
        connection = self.channel.connection
        connection.claims.put(audience, request.body)
        path = path_of(audience)
        entity = await existing_entity(connection.services.broker, path)
        # Only clients that may use an entity learn whether it exists. An attach of others is refused in any case.
        if entity and connection.claims.may_use(path, entity):
            await stores_of(connection.services.broker, entity)
        connection.watch_tokens()


def _status(code: int, description: str) -> dict[str, object]:
    return {"status-code": code, "status-description": description}
