"""The pytest plugin: a real gateway with a broker in memory, for tests of code that uses azsession.

Installed with azsession and found by pytest of itself. Needs the extra ``server``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .client.provider import ServiceBusProvider
from .queues import QueueSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .config import ConfigOptions
    from .server import GatewayService

#: Receives that may wait at once in the server of a test.
MAX_WAITING = 64


class AzsessionServer:
    """A gateway on a free port of loopback, with a broker in memory. Queues are made when they are first used.

    Attributes:
        connection_string: What a `ServiceBusProvider` connects with; it has all rights.
        url: Where it serves, such as ``http://127.0.0.1:43210``.
    """

    def __init__(self, service: GatewayService) -> None:
        self._service = service
        self.connection_string: str = service.connection_string()
        self.url: str = service.url

    def __repr__(self) -> str:
        return f"<AzsessionServer at {self.url}>"

    def create_queue(self, name: str, **settings: Any) -> str:
        """Make a queue with settings, those of `azsession.QueueSettings`, such as ``lock_duration=1``; return its name."""
        self._service.broker.create_queue(name, QueueSettings(**settings))
        return name

    def provider(self, **config_fields: Unpack[ConfigOptions]) -> ServiceBusProvider:
        """Return a new provider for this server; close it. `config_fields` are those of `ServiceBusConfig`."""
        return ServiceBusProvider.from_connection_string(self.connection_string, **config_fields)


@pytest.fixture
def azsession_server() -> Iterator[AzsessionServer]:
    """A gateway of this test's own, over a real socket, empty; gone after the test."""
    from .broker.embedded import EmbeddedBroker
    from .server import AccessKey, GatewayService

    broker = EmbeddedBroker(auto_create=True)
    with GatewayService(broker, [AccessKey.generate()], max_waiting=MAX_WAITING) as service:
        yield AzsessionServer(service)


@pytest.fixture
def azsession_provider(azsession_server: AzsessionServer) -> Iterator[ServiceBusProvider]:
    """A provider for `azsession_server`; closed after the test."""
    with azsession_server.provider() as provider:
        yield provider
