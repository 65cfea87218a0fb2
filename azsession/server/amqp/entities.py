"""The entities in the paths of links and tokens, and where the broker keeps them."""

from __future__ import annotations

import re

from ...broker.base import Broker
from ...errors import QueueNotFoundError, UnsupportedOperationError
from .broker_calls import CONTEXT, result_of

MANAGEMENT, DEAD_LETTERS = "/$management", "/$deadletterqueue"


def entity_of(path: str) -> str:
    """Return the entity of a path, without ``$management`` and ``$deadletterqueue``; ``""`` for a path without one."""
    entity = path
    for suffix in (MANAGEMENT, DEAD_LETTERS):
        if entity.lower().endswith(suffix):
            entity = entity[: -len(suffix)]
    # Azure's SDKs write the name of the segment in different ways.
    return "" if entity.startswith("$") else re.sub("/subscriptions/", "/subscriptions/", entity, flags=re.IGNORECASE)


async def stores_of(broker: Broker, entity: str) -> list[str]:
    """Return the queues that store the messages for an entity: itself or, for a topic, its subscriptions.

    Brokers have no topics. An entity that is no queue is a topic if there are queues ``ENTITY/subscriptions/NAME``.

    Raises:
        QueueNotFoundError: There is no such entity.
    """
    try:
        # This also finds a queue that the first message creates.
        await result_of(broker.list_sessions(entity, None, 1, context=CONTEXT))
    except QueueNotFoundError:
        prefix = f"{entity}/subscriptions/"
        try:
            names = [info.name for info in await result_of(broker.list_queues(context=CONTEXT))]
        except UnsupportedOperationError:
            names = []
        found = [name for name in names if name.startswith(prefix)]
        if not found:
            raise
        return found
    return [entity]
