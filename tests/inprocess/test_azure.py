"""Where an Azure host leads to: a gateway in this process, mounted on the `requests.Session`. No namespace answers here."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    Message,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
)
from azsession.client.inprocess import InProcessAdapter
from azsession.client.provider import core_of
from tests.conftest import eventually
from tests.support.internals import pending_calls

URL = "https://myns.servicebus.windows.net/"
KEYED = "SharedAccessKeyName=k;SharedAccessKey=bm90IGEgc2VjcmV0"
CONFIG = ServiceBusConfig(connection_string=f"Endpoint=sb://myns.servicebus.windows.net/;{KEYED}")


class _Credential:
    """A `TokenCredential`, never asked here."""

    asked = 0

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        self.asked += 1
        return AccessToken("token", int(time.time()) + 3600)


def client(
    http: requests.Session, config: ServiceBusConfig = CONFIG, url: str = URL, credential: Any = None
) -> SessionClient:
    return SessionClient("s", "q", 60, http, url, config, credential)


def mounted(http: requests.Session) -> InProcessAdapter:
    found = [adapter for adapter in http.adapters.values() if isinstance(adapter, InProcessAdapter)]
    assert len(found) == 1
    return found[0]


def test_websockets_without_the_extra_name_the_extra() -> None:
    code = f"""
import sys
import threading
sys.modules["websocket"] = None
from azsession import *
try:
    ServiceBusProvider.from_connection_string({CONFIG.connection_string!r}, transport="amqp-websockets")
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    command = 'pip install "azsession[websockets]", or pip install ".[websockets]" in a clone'
    assert (done.stdout, done.stderr) == (f"websocket is not installed. Install it with: {command}\n", "")


def test_cheroot_is_not_needed_for_it() -> None:
    code = "import sys; sys.modules['cheroot'] = None; import azsession.client.inprocess; print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_what_is_wrong_is_said_before_anything_is_mounted() -> None:
    keyless = ServiceBusConfig(connection_string="Endpoint=sb://myns.servicebus.windows.net/")
    with requests.Session() as http:
        before = list(http.adapters)
        with pytest.raises(ConfigurationError, match="no SharedAccessKey"):
            client(http, keyless)
        with pytest.raises(ConfigurationError, match="no get_token"):
            client(http, credential="token")
        with pytest.raises(ConfigurationError, match="no SharedAccessKey"):
            ServiceBusProvider(keyless, http=http)
        assert list(http.adapters) == before


def test_the_clients_of_one_requests_session_share_one_broker() -> None:
    with requests.Session() as http:
        first, second = client(http), client(http, url="https://myns.servicebus.windows.net")
        broker = mounted(http).broker
        with ServiceBusProvider(CONFIG, http=http):
            assert mounted(http).broker is broker
        first.close()
        second.close()
        assert not mounted(http).closed
        # requests takes the first prefix that fits.
        assert http.get_adapter(URL + "q") is mounted(http)
        assert not isinstance(http.get_adapter("https://myns.servicebus.windows.net.example/"), InProcessAdapter)


def test_other_credentials_need_another_requests_session() -> None:
    credential = _Credential()
    with requests.Session() as http:
        client(http)
        with pytest.raises(ConfigurationError, match="other credentials"):
            client(http, credential=credential)
        other = ServiceBusConfig(namespace="other")
        client(http, other, "https://other.servicebus.windows.net/", credential)
    assert credential.asked == 0


def test_closing_the_requests_session_closes_the_broker_and_a_later_client_gets_another() -> None:
    http = requests.Session()
    client(http)
    first = mounted(http)
    http.close()
    assert first.closed
    client(http)
    assert mounted(http) is not first
    http.close()


def test_a_forgotten_requests_session_takes_the_broker_with_it() -> None:
    http = requests.Session()
    client(http).close()
    adapter = weakref.ref(mounted(http))
    del http
    gc.collect()
    assert adapter() is None


def test_a_provider_closes_the_broker_that_it_made() -> None:
    with ServiceBusProvider(CONFIG) as provider:
        adapter = mounted(core_of(provider).connection.http)
        assert repr(provider) == "<ServiceBusProvider at https://myns.servicebus.windows.net>"
    assert adapter.closed


def test_a_gateway_in_front_of_azure_is_reached_over_http() -> None:
    config = ServiceBusConfig(connection_string=CONFIG.connection_string, gateway_url="https://gw.example")
    with ServiceBusProvider(config) as provider, requests.Session() as http:
        assert not any(
            isinstance(adapter, InProcessAdapter) for adapter in core_of(provider).connection.http.adapters.values()
        )
        client(http, config).close()
        assert not any(isinstance(adapter, InProcessAdapter) for adapter in http.adapters.values())


@pytest.fixture
def silent() -> Iterator[str]:
    """The connection string of an emulator that accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"Endpoint=sb://127.0.0.1:{server.getsockname()[1]};{KEYED};UseDevelopmentEmulator=true"


def test_closing_ends_the_waits_for_a_namespace_that_does_not_answer(silent: str) -> None:
    errors: list[Exception] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except QueueError as error:
            errors.append(error)

    provider = ServiceBusProvider.from_connection_string(silent)
    client = provider.create_session_client("q", "s")
    calls: list[Callable[[], object]] = [
        lambda: client.receive_message(timeout=300),
        lambda: provider.create_session_client("q", accept_timeout=300),
    ]
    threads = [threading.Thread(target=attempt, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    eventually(lambda: len(pending_calls(client)) == len(pending_calls(provider)) == 1)
    began = time.monotonic()
    provider.close()
    for thread in threads:
        thread.join(20)
    # Far less than the 30 s that an answer may take.
    assert time.monotonic() - began < 9
    assert {type(error) for error in errors} == {SessionNotFoundError, ConfigurationError}
    assert len(errors) == 2


@pytest.mark.parametrize("operation", ["send", "receive", "state"])
def test_a_namespace_that_does_not_answer_is_waited_for_as_long_as_was_said(silent: str, operation: str) -> None:
    with ServiceBusProvider.from_connection_string(silent, request_timeout=0.2, retry_attempts=0) as provider:
        client = provider.create_session_client("q", "s")
        calls: dict[str, Callable[[], object]] = {
            "send": lambda: provider.send_message("q", Message(b"x", session_id="s")),
            "receive": lambda: client.receive_message(timeout=0.1),
            "state": client.get_session_state,
        }
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            calls[operation]()
        assert time.monotonic() - began < 9
