"""The internals of a client or provider that tests look at."""

from __future__ import annotations

from typing import Any

from azsession import ServiceBusProvider, SessionClient
from azsession.client.call import Call
from azsession.client.provider import core_of
from azsession.client.session import holder_of


def pending_calls(owner: SessionClient | ServiceBusProvider) -> list[Call[Any]]:
    """Return the calls of a client or provider that wait for the server."""
    internals = holder_of(owner) if isinstance(owner, SessionClient) else core_of(owner)
    calls: list[Any] = list(internals.pending._calls)
    return calls
