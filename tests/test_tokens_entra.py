"""Microsoft Entra tokens, fetched by the real azure-identity code from an identity endpoint on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

from azsession import (
    AuthenticationFailedError,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
)
from azsession.token_cache import TokenCache
from azsession.tokens import (
    EntraCredential,
    SasKey,
    SasSignature,
    Token,
)

from .conftest import eventually
from .support.plain_server import KEY, PlainServer, answer


def renew(provider: ServiceBusProvider, queue_name: str) -> None:
    """Make one request."""
    with provider.create_session_client(queue_name, "s1", auto_renew=False) as session:
        session.renew_session_lock()


class Asked(NamedTuple):
    """A request for a token."""

    api_version: str
    resource: str
    header: str | None


class IdentityEndpoint:
    """An identity endpoint of Azure App Service, API version 2019-08-01, on loopback.

    Attributes:
        lifetime: Seconds that its tokens are valid.
        asked: The requests so far.
        broken: Answer 400 instead.
        gate: The endpoint does not answer while this is cleared.
    """

    def __init__(self) -> None:
        self.lifetime = 86400
        self.asked: list[Asked] = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                with lock:
                    asked = Asked(query["api-version"][0], query["resource"][0], self.headers.get("X-IDENTITY-HEADER"))
                    endpoint.asked.append(asked)
                    number = len(endpoint.asked)
                endpoint.gate.wait(20)
                described: dict[str, str] = {"statusCode": "400", "message": "no such identity"}
                if not endpoint.broken:
                    described = {
                        "access_token": f"entra-secret-{number}",
                        "expires_on": str(int(time.time()) + endpoint.lifetime),
                        "resource": query["resource"][0],
                        "token_type": "Bearer",
                    }
                body = json.dumps(described).encode()
                self.send_response(400 if endpoint.broken else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/msi/token"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> IdentityEndpoint:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityEndpoint]:
    with IdentityEndpoint() as endpoint:
        for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_TOKEN_CREDENTIALS", "IMDS_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("IDENTITY_ENDPOINT", endpoint.url)
        monkeypatch.setenv("IDENTITY_HEADER", "identity-header")
        yield endpoint


CREDENTIALS: list[Callable[[], Any]] = [ManagedIdentityCredential, DefaultAzureCredential]


@pytest.fixture(params=CREDENTIALS, ids=lambda kind: kind.__name__)
def credential(request: pytest.FixtureRequest, identity: IdentityEndpoint) -> Iterator[Any]:
    with request.param() as credential:
        yield credential


def entra_provider(server: PlainServer, credential: Any) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(f"Endpoint={server.url}/", credential=credential)


def test_an_entra_token_is_fetched_for_service_bus_and_sent_as_bearer(identity: IdentityEndpoint, credential: Any) -> None:
    with PlainServer() as server, entra_provider(server, credential) as provider:
        renew(provider, "orders")
        renew(provider, "bills")
        assert [seen.headers["Authorization"] for seen in server.seen] == ["Bearer entra-secret-1"] * 2
    assert identity.asked == [Asked("2019-08-01", "https://servicebus.azure.net", "identity-header")]


def test_a_namespace_without_a_credential_uses_the_default_credential(identity: IdentityEndpoint) -> None:
    with PlainServer() as server:
        with ServiceBusProvider.from_namespace("myns", gateway_url=server.url) as provider:
            renew(provider, "orders")
        assert server.seen[0].headers["Authorization"] == "Bearer entra-secret-1"


def test_64_threads_that_start_together_cause_one_fetch(identity: IdentityEndpoint, credential: Any) -> None:
    cache = TokenCache(EntraCredential(credential))
    start = threading.Barrier(64)
    identity.gate.clear()

    def get() -> str:
        start.wait(20)
        return cache.token("https://ns/orders").header

    with ThreadPoolExecutor(64) as pool:
        waiting = [pool.submit(get) for _ in range(64)]
        eventually(lambda: identity.asked)
        identity.gate.set()
        tokens = {one.result(20) for one in waiting}
    assert tokens == {"Bearer entra-secret-1"}
    assert len(identity.asked) == 1


def test_a_401_causes_one_more_fetch_and_the_request_is_sent_once_more(identity: IdentityEndpoint, credential: Any) -> None:
    with PlainServer() as server, entra_provider(server, credential) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        session.renew_session_lock()
        server.next(answer(401))
        session.renew_session_lock()
        session.renew_session_lock()
        sent = [seen.headers["Authorization"] for seen in server.seen]
    assert sent == [f"Bearer entra-secret-{number}" for number in (1, 1, 2, 2)]
    assert len(identity.asked) == 2


def test_a_second_401_is_an_authentication_failure(identity: IdentityEndpoint, credential: Any) -> None:
    with PlainServer() as server, entra_provider(server, credential) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        server.next(answer(401), answer(401))
        with pytest.raises(AuthenticationFailedError) as caught:
            session.renew_session_lock()
        assert len(server.seen) == 2
    assert len(identity.asked) == 2
    assert "entra-secret" not in repr(caught.value)


def test_401s_of_many_threads_cause_one_more_fetch(identity: IdentityEndpoint, credential: Any) -> None:
    cache = TokenCache(EntraCredential(credential))
    refused = cache.token("https://ns/orders").header
    start = threading.Barrier(16)

    def refetch() -> str:
        start.wait(20)
        cache.drop("https://ns/orders", refused)
        return cache.token("https://ns/orders").header

    with ThreadPoolExecutor(16) as pool:
        tokens = {one.result(20) for one in [pool.submit(refetch) for _ in range(16)]}
    assert tokens == {"Bearer entra-secret-2"}
    assert len(identity.asked) == 2


class _NoClaims(ManagedIdentityCredential):
    """Ignores claims, as managed identities did up to azure-identity 1.25."""

    __module__ = ManagedIdentityCredential.__module__

    def get_token(self, *scopes: str, claims: str | None = None, tenant_id: str | None = None, **kwargs: Any) -> AccessToken:
        return super().get_token(*scopes, tenant_id=tenant_id, **kwargs)


def test_a_refused_token_is_replaced_although_the_credential_ignores_claims(identity: IdentityEndpoint) -> None:
    with PlainServer() as server, _NoClaims() as credential, entra_provider(server, credential) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        server.next(answer(401))
        session.renew_session_lock()
        server.next(answer(401))
        session.renew_session_lock()
        sent = [seen.headers["Authorization"] for seen in server.seen]
    assert sent == [f"Bearer entra-secret-{number}" for number in (1, 2, 2, 3)]
    assert len(identity.asked) == 3


def test_a_failure_of_the_identity_endpoint_is_an_authentication_failure(identity: IdentityEndpoint, credential: Any) -> None:
    identity.broken = True
    with PlainServer() as server, entra_provider(server, credential) as provider:
        with pytest.raises(AuthenticationFailedError, match=type(credential).__name__) as caught:
            provider.create_session_client("orders", "s1").receive_message(timeout=0)
        assert server.seen == []
    assert caught.value.__cause__ is not None


def test_nothing_shows_a_token_a_key_or_a_signature(identity: IdentityEndpoint, credential: Any) -> None:
    entra = TokenCache(EntraCredential(credential))
    token = entra.token("https://ns/q").header.removeprefix("Bearer ")
    sas = TokenCache(SasKey("reader", KEY))
    signature = parse_qs(sas.token("https://ns/q").header)["sig"][0]
    shown = [entra, sas, EntraCredential(credential), SasKey("reader", KEY), SasSignature(signature), Token(token, 1.0)]
    with PlainServer() as server:
        config = ServiceBusConfig(connection_string=server.connection_string)
        with ServiceBusProvider(config) as provider, provider.create_session_client("orders", "s1") as session:
            server.next(answer(401), answer(401), answer(403))
            errors = []
            for _ in range(2):
                with pytest.raises(QueueError) as caught:
                    session.receive_message(timeout=0)
                errors += [caught.value, str(caught.value)]
            text = repr([*shown, config, config.credentials, provider, session, *errors])
    for secret in (token, KEY, signature, "sig="):
        assert secret not in text
