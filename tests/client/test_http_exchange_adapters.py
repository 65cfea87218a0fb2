"""`HttpExchange`: adapters that are mounted later, mocks and instrumentation keep their effect."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import responses
from requests.adapters import HTTPAdapter

from azsession import ConnectionFailedError
from azsession.client.cancellation import PendingCalls
from azsession.client.http_sockets import PooledAdapter
from azsession.client.transport import Transport

from ..conftest import eventually
from ..support.plain_server import NEVER, PlainServer, answer
from .http_sessions import call, headers_of, http, transport

__all__ = ["http", "transport"]

TOKEN = "SharedAccessSignature sr="


class _Fixed(HTTPAdapter):
    """Answers each request with 200 and a text."""

    text = b"fixed"

    def send(self, request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content = 200, self.text
        response.request, response.url = request, request.url or ""
        return response


class _FixedPooled(PooledAdapter):
    send = _Fixed.send
    text = b"fixed"


@pytest.mark.parametrize("adapter", [_Fixed(), _FixedPooled()])
@pytest.mark.parametrize("place", ["", "/q/", "/q/x"])
def test_an_adapter_that_is_mounted_later_answers(
    server: PlainServer, http: requests.Session, transport: Transport, adapter: Any, place: str
) -> None:
    http.mount(f"{server.url}{place}", adapter)
    assert transport.send(call()).body == b"fixed"
    server.next(answer(200, {}, b"served"))
    assert transport.send(call("/other")).body == (b"served" if place else b"fixed")


def test_a_request_through_an_adapter_that_is_mounted_later_can_be_cancelled(
    server: PlainServer, http: requests.Session, transport: Transport
) -> None:
    http.mount(server.url, HTTPAdapter())
    server.next(NEVER)
    pending = PendingCalls()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.send, call(), pending)
        eventually(lambda: server.seen)
        pending.stop()
        assert isinstance(waiting.exception(10), ConnectionFailedError)


def test_an_adapters_own_method_is_called(server: PlainServer, http: requests.Session, transport: Transport) -> None:
    adapter = http.get_adapter(server.url)
    original, seen = adapter.send, list[str]()

    def send(request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
        seen.append(str(request.url))
        return original(request, *args, **settings)

    adapter.send = send  # type: ignore[method-assign]
    headers_of(server, transport)
    assert seen == [f"{server.url}/q/x"]


@pytest.mark.parametrize("name", ["send", "get_adapter"])
@pytest.mark.parametrize("on_class", [True, False])
def test_a_replaced_method_of_the_session_is_called(
    server: PlainServer,
    http: requests.Session,
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    on_class: bool,
) -> None:
    """Instrumentation replaces it for all sessions, a caller for one."""
    calls: list[str] = []
    original = getattr(requests.Session, name)

    def replaced(self: requests.Session, *args: Any, **settings: Any) -> Any:
        calls.append(name)
        return original(self, *args, **settings)

    with monkeypatch.context() as patch:
        if on_class:
            patch.setattr(requests.Session, name, replaced)
        else:
            patch.setattr(http, name, replaced.__get__(http), raising=False)
        headers_of(server, transport)
        assert calls
    calls.clear()
    headers_of(server, transport)
    assert calls == []


def test_the_package_responses_answers_in_place_of_the_server(server: PlainServer, transport: Transport) -> None:
    with responses.RequestsMock() as mocked:
        mocked.add("GET", f"{server.url}/q/x", body=b"mocked", headers={"Set-Cookie": "a=b"})
        assert transport.send(call()).body == b"mocked"
    assert server.seen == []
    headers_of(server, transport)
    assert len(server.seen) == 1
