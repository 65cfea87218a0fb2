"""The pytest plugin: a gateway with a broker in memory, for tests of code that uses azsession.

pytest finds it when azsession is installed. It needs the extra ``server``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .client.provider import ServiceBusProvider
from .queues import QueueSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .config import ConfigOptions
    from .queues import QueueFields
    from .server import GatewayService

#: The most receives that can wait at once in the server of a test.
MAX_WAITING = 64


class AzsessionServer:
    """A gateway on a free port of the loopback interface, with a broker in memory.

    The first message that is sent to a queue creates it. `create_queue` creates one for a consumer that starts earlier.

    Attributes:
        connection_string: The connection string for `ServiceBusProvider`, with all rights.
        amqp_connection_string: The connection string for the SDKs of Azure Service Bus, with all rights.
        url: The URL of the gateway, for example ``http://127.0.0.1:43210``.
    """

    def __init__(self, service: GatewayService) -> None:
        self._service = service
        self.connection_string: str = service.connection_string()
        self.amqp_connection_string: str = service.amqp_connection_string()
        self.url: str = service.url

    def __repr__(self) -> str:
        return f"<AzsessionServer at {self.url}>"

    def create_queue(self, name: str, **settings: Unpack[QueueFields]) -> str:
        """Create a queue and return its name.

        Args:
            name: The name of the queue.
            settings: The fields of `azsession.QueueSettings`, for example ``lock_duration=1``.

        Raises:
            ValidationError: The name or a setting is wrong.
            ProviderError: The queue exists with other settings (``code`` is ``"Conflict"``).
        """
        self._service.broker.create_queue(name, QueueSettings(**settings)).result()
        return name

    def provider(self, **config_fields: Unpack[ConfigOptions]) -> ServiceBusProvider:
        """Return a new provider for this server. The caller closes it.

        Args:
            config_fields: Fields of `azsession.ServiceBusConfig`, for example ``retry_attempts=0``.

        Raises:
            ConfigurationError: A field is wrong.
        """
        return ServiceBusProvider.from_connection_string(self.connection_string, **config_fields)


@pytest.fixture
def azsession_server() -> Iterator[AzsessionServer]:
    """A new, empty gateway for this test. It listens on a real socket."""
    from .broker.embedded import EmbeddedBroker
    from .server import AccessKey, GatewayService

    broker = EmbeddedBroker(auto_create=True)
    with GatewayService(broker, [AccessKey.generate()], max_waiting=MAX_WAITING, amqp_port=0) as service:
        yield AzsessionServer(service)


@pytest.fixture
def azsession_provider(azsession_server: AzsessionServer) -> Iterator[ServiceBusProvider]:
    """A provider for `azsession_server`. It is closed after the test."""
    with azsession_server.provider() as provider:
        yield provider
