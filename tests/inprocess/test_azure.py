"""Where an Azure host leads to: a gateway in this process, mounted on the `requests.Session`. Nothing here connects."""

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

from azsession import ConfigurationError, ServiceBusConfig, ServiceBusProvider, SessionClient
from azsession.gateway.inprocess import InProcessAdapter

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


@pytest.mark.parametrize(
    ("missing", "fields"), [("azure.servicebus", ""), ("falcon", ""), ("websocket", ", transport='amqp-websockets'")]
)
def test_the_missing_extra_is_named(missing: str, fields: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from azsession import *
try:
    ServiceBusProvider.from_connection_string({CONFIG.connection_string!r}{fields})
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f'{missing} is not installed: pip install "azsession[servicebus]"\n', "")


def test_cheroot_is_not_needed_for_it() -> None:
    code = "import sys; sys.modules['cheroot'] = None; import azsession.gateway.inprocess; print('done')"
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
        adapter = mounted(provider._link.http)
        assert repr(provider) == "<ServiceBusProvider at https://myns.servicebus.windows.net>"
    assert adapter.closed


def test_a_gateway_in_front_of_azure_is_reached_over_http() -> None:
    config = ServiceBusConfig(connection_string=CONFIG.connection_string, gateway_url="https://gw.example")
    with ServiceBusProvider(config) as provider, requests.Session() as http:
        assert not any(isinstance(adapter, InProcessAdapter) for adapter in provider._link.http.adapters.values())
        client(http, config).close()
        assert not any(isinstance(adapter, InProcessAdapter) for adapter in http.adapters.values())
