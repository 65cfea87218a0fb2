"""The reasons for which a broker itself dead-letters a message, and how dead letters are counted by their reasons."""

from __future__ import annotations

#: The reasons of Azure Service Bus, see "Overview of Service Bus dead-letter queues".
MAX_DELIVERY_EXCEEDED = "MaxDeliveryCountExceeded"
TTL_EXPIRED = "TTLExpiredException"

#: Counts the dead letters with any other reason, which is text of an application.
OTHER = "other"
#: Every reason that dead letters are counted by.
COUNTED = (MAX_DELIVERY_EXCEEDED, TTL_EXPIRED, OTHER)


def counted_as(reason: str | None) -> str:
    """Return the name under which a dead letter is counted."""
    return reason if reason in (MAX_DELIVERY_EXCEEDED, TTL_EXPIRED) else OTHER
