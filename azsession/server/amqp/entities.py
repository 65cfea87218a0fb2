"""The entities in the paths of links and tokens, and where the broker keeps them."""

from __future__ import annotations

import re
from contextlib import suppress

from ...broker.base import Broker
from ...errors import QueueNotFoundError, UnsupportedOperationError
from .broker_calls import CONTEXT, result_of

MANAGEMENT, DEAD_LETTERS = "/$management", "/$deadletterqueue"
_SUBSCRIPTIONS = re.compile("/subscriptions/", re.IGNORECASE)


def split_path(path: str) -> tuple[str, str]:
    """Return the entity of a path as it is written, and the rest: ``$management`` and ``$deadletterqueue``.

    The entity is ``""`` for a path without one.
    """
    entity = path
    for suffix in (MANAGEMENT, DEAD_LETTERS):
        if entity.lower().endswith(suffix):
            entity = entity[: -len(suffix)]
    return ("", path) if entity.startswith("$") else (entity, path[len(entity) :])


def entity_of(path: str) -> str:
    """Return the entity of a path with ``subscriptions`` in lower case; ``""`` for a path without one.

    Azure's SDKs write this segment in different ways.
    """
    return _usual(split_path(path)[0])


def _usual(name: str) -> str:
    return _SUBSCRIPTIONS.sub("/subscriptions/", name)


async def _queues(broker: Broker) -> list[str]:
    """Return the names of the queues, as far as the broker knows them."""
    try:
        return [info.name for info in await result_of(broker.list_queues(context=CONTEXT))]
    except UnsupportedOperationError:
        return []


async def existing_entity(broker: Broker, path: str) -> str:
    """Return the name of the subscription for a path, however ``subscriptions`` is written in it; other entities as they are.

    Names of queues are case-sensitive, so that there can be a subscription in several spellings. The one of the path comes
    first, then the one of `entity_of`, which also stands for a subscription that does not exist.
    """
    written, usual = split_path(path)[0], entity_of(path)
    if "/subscriptions/" in usual:
        for name in (written, usual):
            with suppress(QueueNotFoundError, UnsupportedOperationError):
                return (await result_of(broker.get_queue(name, context=CONTEXT))).name
        return next((name for name in await _queues(broker) if _usual(name) == usual), usual)
    return usual


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
        found = [name for name in await _queues(broker) if _usual(name).startswith(f"{entity}/subscriptions/")]
        if not found:
            raise
        return found
    return [entity]
