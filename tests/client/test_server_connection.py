"""`ServerConnection`: what the clients of one provider share, and what happens to it at the end and at a fork."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import requests

from azsession import ConfigurationError, ServiceBusConfig
from azsession.client.http_sockets import PooledAdapter
from azsession.client.server_connection import ServerConnection

from ..conftest import eventually
from .orders import CONNECTION_STRING, URL

CONFIG = ServiceBusConfig(connection_string=CONNECTION_STRING, pool_connections=7)


class Client:
    """A client that notes what the connection does with it."""

    def __init__(self) -> None:
        self.forked = 0

    def after_fork(self) -> None:
        self.forked += 1

    def shut(self) -> bool:
        return False

    def release(self) -> bool:
        return True


class Holder:
    """A lock that must be renewed in an hour."""

    def renewal_due(self) -> float | None:
        return threading.TIMEOUT_MAX / 2

    def renew_in_background(self) -> float | None:
        return None


def renewer_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("azsession-renewer")]


def closes(http: requests.Session) -> list[str]:
    """Note when the adapters of a session are closed."""
    closed: list[str] = []

    class Adapter(requests.adapters.HTTPAdapter):
        def close(self) -> None:
            closed.append("closed")

    http.mount(URL, Adapter())
    return closed


def test_its_own_http_session_has_a_pool_of_the_configured_size() -> None:
    connection = ServerConnection(CONFIG)
    adapter = connection.http.get_adapter(URL)
    assert isinstance(adapter, PooledAdapter)
    assert adapter._pool_maxsize == 7
    connection.close()


@pytest.mark.parametrize("own", [True, False])
def test_closing_closes_only_its_own_http_session(own: bool) -> None:
    given = None if own else requests.Session()
    connection = ServerConnection(CONFIG, http=given)
    assert (connection.http is given) is not own
    closed = closes(connection.http)
    connection.close()
    assert closed == (["closed"] if own else [])


def test_closing_stops_the_renewer() -> None:
    connection, holder = ServerConnection(CONFIG), Holder()
    connection.renewer.watch(holder)
    assert renewer_threads() == ["azsession-renewer"]
    connection.close()
    assert renewer_threads() == []


def test_a_connection_that_is_garbage_collected_stops_the_renewer() -> None:
    connection, holder = ServerConnection(CONFIG), Holder()
    connection.renewer.watch(holder)
    del connection
    gc.collect()
    eventually(lambda: not renewer_threads())


def test_a_client_is_known_until_it_is_garbage_collected() -> None:
    connection, first, second = ServerConnection(CONFIG), Client(), Client()
    connection.add_client(first)
    connection.add_client(second)
    assert set(connection.clients()) == {first, second}
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    assert connection.clients() == [first]
    connection.close()


def test_a_fork_tells_every_client() -> None:
    connection, client = ServerConnection(CONFIG), Client()
    connection.add_client(client)
    connection.after_fork()
    assert client.forked == 1
    connection.close()


def test_the_url_can_be_another_than_the_configurations() -> None:
    connection = ServerConnection(CONFIG, url="http://127.0.0.1:10/base/")
    assert connection.transport.url == connection.config.namespace_url == "http://127.0.0.1:10/base"
    connection.close()


def test_a_connection_without_credentials_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="credential"):
        ServerConnection(ServiceBusConfig(connection_string=f"Endpoint={URL}/"))
