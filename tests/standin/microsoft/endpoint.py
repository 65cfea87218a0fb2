"""azsession's own AMQP endpoint, with the methods of the stand-in that Microsoft's tests need."""

from __future__ import annotations

import secrets
import time
from types import TracebackType
from typing import Any

from azsession import QueueSettings
from azsession.broker.embedded import EmbeddedBroker
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, GatewayService

KEY = AccessKey("tests", secrets.token_hex(16))


class OwnEndpoint:
    """A gateway with an embedded broker in memory, and its AMQP endpoint.

    All its queues have sessions, and its subscriptions are queues, too: a sender of a topic sends to all of them.
    """

    def __enter__(self) -> OwnEndpoint:
        self._service = GatewayService(EmbeddedBroker(), [KEY], amqp_port=0).start()
        assert self._service.amqp_port is not None
        self.port: int = self._service.amqp_port
        #: The address of the WebSockets.
        self.websocket_address: str = self._service.url.replace("http:", "sb:")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._service.stop()

    @staticmethod
    def token() -> str:
        """Return a token for everything."""
        return generate_sas_token("sb://127.0.0.1/", KEY.name, KEY.key, int(time.time()) + 86400)

    def create_queue(self, name: str, **options: Any) -> None:
        """Create a queue."""
        settings = QueueSettings(
            lock_duration=options["lock_duration"],
            dead_letter_on_expiration=options["dead_letter_on_expiration"],
            requires_duplicate_detection=options["duplicate_detection"] is not None,
        )
        self._service.broker.create_queue(name, settings).result()

    def create_topic(self, name: str) -> None:
        """Do nothing: a topic is there when it has a subscription."""

    def create_subscription(self, topic: str, name: str, **options: Any) -> None:
        """Create a queue for a subscription."""
        self.create_queue(f"{topic}/subscriptions/{name}", **options)
