"""The path of each operation with placeholders, for example ``/{entity}/sessions/{sid}/messages/head``.

The access log and the spans of the gateway name requests so. The OpenAPI description has the paths.
"""

from __future__ import annotations

import json
from functools import cache

from ..protocol.routes import Operation, Route
from .handlers import openapi_document


def template(route: Route) -> str:
    """Return the path of a route with its queue, and with placeholders for the session and the message."""
    return _paths()[route.operation.value].replace("{entity}", route.entity)


def placeholder(operation: Operation) -> str:
    """Return the path of an operation, with placeholders also for the queue."""
    return _paths()[operation.value]


@cache
def _paths() -> dict[str, str]:
    paths = json.loads(openapi_document())["paths"]
    return {item["operationId"]: path for path, items in paths.items() for item in items.values() if "operationId" in item}
