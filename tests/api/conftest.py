"""The arrangements in which azsession is used. Each test of the public API runs in each of them."""

from __future__ import annotations

import abc
import itertools
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from azsession import Message, QueueSettings, ReceivedMessage, ServiceBusConfig, ServiceBusProvider, SessionClient

from ..namespaces import Namespace, OwnNamespace
from ..namespaces.choice import SERVERS, STANDIN
from ..standin.require import require_standin
from ..support.processes import Served

_numbers = itertools.count(1)


class Arrangement(abc.ABC):
    """A broker for one test, and how to reach it. Using a queue does not create it.

    Attributes:
        name: The name in the test's id.
        is_azure: Azure keeps the messages. `test_differences` lists the consequences.
        is_own_endpoint: Azure is azsession's own AMQP endpoint.
        in_process: The Azure engine runs in the process of the provider.
        connection_string: Reaches the broker from any process. Empty if only the arrangement's own provider can reach it.
    """

    name: ClassVar[str]
    is_azure: ClassVar[bool]
    is_own_endpoint: ClassVar[bool] = False
    in_process: ClassVar[bool] = False
    connection_string: str = ""

    def __init__(self, place: Path, request: pytest.FixtureRequest) -> None:
        self._place = place
        self._request = request
        self._stack = ExitStack()

    def __enter__(self) -> Arrangement:
        with self._stack:
            self.start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abc.abstractmethod
    def start(self) -> None:
        """Start the broker. Put its context managers on the stack, which closes them after the test."""

    @abc.abstractmethod
    def create_queue(self, name: str, settings: dict[str, Any]) -> None:
        """Create a queue."""

    def provider(self, **config_fields: Any) -> ServiceBusProvider:
        """Return a new provider. It is closed after the test."""
        provider = ServiceBusProvider.from_connection_string(self.connection_string, **config_fields)
        return self._stack.enter_context(provider)

    def queue(self, name: str | None = None, **settings: Any) -> str:
        """Create a queue, or a subscription for a name like ``topic/subscriptions/name``. Return the name.

        Args:
            name: The name. `None` chooses a new one.
            settings: Fields of `QueueSettings`.
        """
        name = name or f"orders-{next(_numbers)}"
        self.create_queue(name, settings)
        return name

    @property
    def namespace_url(self) -> str:
        """The base URL for a `SessionClient` that is made without a provider."""
        fields = dict(part.split("=", 1) for part in self.connection_string.split(";") if part)
        return fields["Endpoint"]

    @property
    def config(self) -> ServiceBusConfig:
        """The configuration of a client that is made without a provider."""
        return ServiceBusConfig(connection_string=self.connection_string)


class EmbeddedInProcess(Arrangement):
    """`ServiceBusProvider.embedded`. The provider contains the broker, so there is one provider at a time. A later provider
    opens the same data file."""

    name = "embedded-in-process"
    is_azure = False

    def start(self) -> None:
        self._provider: ServiceBusProvider | None = None

    def provider(self, **config_fields: Any) -> ServiceBusProvider:
        """Return the provider, or a new one if it was closed. `config_fields` need a connection string."""
        assert not config_fields
        if self._provider is None or repr(self._provider).endswith("closed>"):
            opened = ServiceBusProvider.embedded(self._place / "messages.db", auto_create=False)
            self._provider = self._stack.enter_context(opened)
        return self._provider

    def create_queue(self, name: str, settings: dict[str, Any]) -> None:
        self.provider().create_queue(name, QueueSettings(**settings))


class EmbeddedOverHTTP(Arrangement):
    """The embedded broker behind a gateway on a real socket."""

    name = "embedded-over-HTTP"
    is_azure = False

    def start(self) -> None:
        from azsession.broker.embedded import EmbeddedBroker
        from azsession.server import AccessKey, GatewayService

        self._service = self._stack.enter_context(GatewayService(EmbeddedBroker(), [AccessKey.generate()], max_waiting=64))
        self.connection_string = self._service.connection_string()

    def create_queue(self, name: str, settings: dict[str, Any]) -> None:
        self._service.broker.create_queue(name, QueueSettings(**settings)).result()


class AzureInProcess(Arrangement):
    """The Azure engine in the provider's own process, with azsession's AMQP endpoint in the place of Azure."""

    name = "Azure-in-process"
    is_azure = True
    is_own_endpoint = True
    in_process = True

    def start(self) -> None:
        self._namespace: Namespace = self._stack.enter_context(OwnNamespace())
        self.connection_string = self._namespace.connection_string

    def create_queue(self, name: str, settings: dict[str, Any]) -> None:
        # The endpoint has no partitions.
        self.create_at(name, **{key: value for key, value in settings.items() if key != "partitioned"})

    def create_at(self, name: str, **settings: Any) -> None:
        """Create a queue or a subscription in the namespace."""
        topic, _, subscription = name.partition("/subscriptions/")
        if subscription:
            self._namespace.create_subscription(topic, subscription, **settings)
        else:
            self._namespace.create_queue(name, **settings)


class AzureBehindGateway(AzureInProcess):
    """`azsession serve` as a process, in front of the AMQP endpoint. All tests share it; each has its own queues."""

    name = "Azure-behind-a-gateway"
    in_process = False

    def start(self) -> None:
        self._namespace, self.connection_string = self._request.getfixturevalue("azure_gateway")


class AzureOnStandIn(AzureInProcess):
    """The Azure engine in process, with the stand-in in the place of Azure."""

    name = "Azure-on-stand-in"
    is_own_endpoint = False

    def start(self) -> None:
        self._namespace = self._stack.enter_context(require_standin()())
        self.connection_string = self._namespace.connection_string

    def create_queue(self, name: str, settings: dict[str, Any]) -> None:
        self.create_at(name, **settings)


@pytest.fixture(scope="session")
def azure_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, str]]:
    """A namespace, and the connection string of the gateway in front of it."""
    keys = tmp_path_factory.mktemp("gateway") / "keys"
    with OwnNamespace() as namespace, Served("--azure", namespace.connection_string, "--key-file", keys) as served:
        yield namespace, served.line


#: Every test of this folder runs in each of these: on the stand-in, where it can run.
ARRANGEMENTS: tuple[type[Arrangement], ...] = (
    EmbeddedInProcess,
    EmbeddedOverHTTP,
    AzureInProcess,
    AzureBehindGateway,
    *([AzureOnStandIn] if STANDIN in SERVERS else []),
)

#: The arrangements that have a connection string.
REACHABLE = tuple(kind for kind in ARRANGEMENTS if kind is not EmbeddedInProcess)


@pytest.fixture(params=ARRANGEMENTS, ids=lambda kind: kind.name)
def arrangement(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arrangement]:
    """An empty broker for this test."""
    with request.param(tmp_path, request) as arrangement:
        yield arrangement


@pytest.fixture
def provider(arrangement: Arrangement) -> ServiceBusProvider:
    """A provider for `arrangement`."""
    return arrangement.provider()


@pytest.fixture
def queue(arrangement: Arrangement) -> str:
    """A queue with default settings."""
    return arrangement.queue()


@pytest.fixture
def session(provider: ServiceBusProvider, queue: str) -> Iterator[SessionClient]:
    """The session ``s1`` of `queue`."""
    with provider.create_session_client(queue, "s1") as session:
        yield session


@pytest.fixture
def sid() -> str:
    """A new session id."""
    return str(uuid.uuid4())


@pytest.fixture
def opened(provider: ServiceBusProvider, queue: str, sid: str) -> Iterator[SessionClient]:
    """The session `sid` of `queue`, locked."""
    with provider.create_session_client(queue, sid) as session:
        assert session.receive_message(timeout=0) is None
        yield session


def iterate_in_threads(session: SessionClient, threads: int, timeout: float) -> list[list[int]]:
    """Complete the messages of one session in several threads. Return the numbers in the messages that each thread got."""
    seen: list[list[int]] = [[] for _ in range(threads)]

    def work(mine: list[int]) -> None:
        for message in session.messages(timeout=timeout):
            mine.append(int(message.text()))
            session.complete_message(message)

    running = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return seen


def send(provider: ServiceBusProvider, queue: str, *bodies: str, session_id: str = "s1") -> list[str]:
    """Send messages to one session."""
    return provider.send_messages(queue, [Message(body, session_id=session_id) for body in bodies])


def take(session: SessionClient) -> ReceivedMessage:
    """Receive one message. It must be there."""
    message = session.receive_message(timeout=10)
    assert message is not None
    return message


def take_many(session: SessionClient, count: int) -> list[ReceivedMessage]:
    """Receive `count` messages that are there. One receive can return fewer."""
    messages: list[ReceivedMessage] = []
    while len(messages) < count:
        more = session.receive_messages(count - len(messages), timeout=10)
        assert more
        messages += more
    return messages


def number_of(message: ReceivedMessage) -> int:
    """Return the sequence number of a message. These servers always give one."""
    assert message.sequence_number is not None
    return message.sequence_number


def left(provider: ServiceBusProvider, queue: str, session_id: str = "s1") -> list[str]:
    """Return the messages of a session, received or not."""
    return [message.text() for message in provider.peek_messages(queue, session_id, 1000)]
