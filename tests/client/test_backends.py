"""Backends in this process: which adapter a client mounts, and when clients share one. No namespace answers here."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken

from azsession import (
    ConfigurationError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
)
from azsession.client.inprocess import InProcessAdapter
from azsession.client.provider import core_of

URL = "https://myns.servicebus.windows.net/"
KEYED = "SharedAccessKeyName=k;SharedAccessKey=bm90IGEgc2VjcmV0"
CONFIG = ServiceBusConfig(connection_string=f"Endpoint=sb://myns.servicebus.windows.net/;{KEYED}")


class _Credential:
    """A `TokenCredential` that these tests never call."""

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


def test_websockets_without_the_extra_are_an_error_that_names_the_extra() -> None:
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
    command = 'pip install "websocket-client>=1.6"'
    assert (done.stdout, done.stderr) == (f"websocket is not installed. Install the extra 'websockets' with: {command}\n", "")


def test_an_invalid_argument_is_an_error_before_an_adapter_is_mounted() -> None:
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


def test_clients_with_other_credentials_cannot_share_a_requests_session() -> None:
    credential = _Credential()
    with requests.Session() as http:
        client(http)
        with pytest.raises(ConfigurationError, match="other credentials"):
            client(http, credential=credential)
        other = ServiceBusConfig(namespace="other")
        client(http, other, "https://other.servicebus.windows.net/", credential)
    assert credential.asked == 0


def test_closing_the_requests_session_closes_the_broker_and_a_later_client_gets_a_new_one() -> None:
    http = requests.Session()
    client(http)
    first = mounted(http)
    http.close()
    assert first.closed
    client(http)
    assert mounted(http) is not first
    http.close()


def test_the_broker_is_closed_when_its_requests_session_is_garbage_collected() -> None:
    http = requests.Session()
    client(http).close()
    adapter = weakref.ref(mounted(http))
    del http
    gc.collect()
    assert adapter() is None


def test_closing_a_provider_closes_its_broker() -> None:
    with ServiceBusProvider(CONFIG) as provider:
        adapter = mounted(core_of(provider).connection.http)
        assert repr(provider) == "<ServiceBusProvider at sb://myns.servicebus.windows.net>"
    assert adapter.closed


def test_a_gateway_url_is_used_over_http_although_the_endpoint_is_azure() -> None:
    config = ServiceBusConfig(connection_string=CONFIG.connection_string, gateway_url="https://gw.example")
    with ServiceBusProvider(config) as provider, requests.Session() as http:
        assert not any(
            isinstance(adapter, InProcessAdapter) for adapter in core_of(provider).connection.http.adapters.values()
        )
        client(http, config).close()
        assert not any(isinstance(adapter, InProcessAdapter) for adapter in http.adapters.values())
