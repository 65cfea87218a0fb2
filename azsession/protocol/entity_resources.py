"""The forms in which a token may name an entity. The AMQP endpoint compares tokens with them."""

from __future__ import annotations

from functools import lru_cache

from .routes import Operation, Route


@lru_cache(1024)
def entity_resources(entity: str) -> tuple[tuple[str, ...], ...]:
    """Return the forms in which a token over AMQP may name an entity, as segments; the last one is that of `Route.resource`.

    Azure's SDKs write the name as it is, without the tildes of `Route.resource`. This form is left out if it could name a
    session: a token for a session must not be a token for another queue.
    """
    if not entity:
        return ((),)
    marked, plain = Route(Operation.SEND, entity).resource, tuple(entity.split("/"))
    before = ("subscriptions", *(part.lower() for part in plain))
    is_session = any(part == "sessions" and before[at] != "subscriptions" for at, part in enumerate(plain))
    return (marked,) if plain == marked or is_session else (plain, marked)
