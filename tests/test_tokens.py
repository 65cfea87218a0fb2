"""Tokens: signatures against azure-servicebus's own, and Microsoft Entra's through the real azure-identity code."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential
from azure.servicebus._pyamqp.utils import generate_sas_token as reference_sas_token
from hypothesis import example, given, settings
from hypothesis import strategies as st

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
)
from azsession.tokens import (
    ENTRA_SCOPE,
    SAS_LIFETIME,
    EntraCredential,
    SasKey,
    SasSignature,
    Token,
    TokenCache,
    generate_sas_token,
    source_of,
)

from .conftest import eventually
from .support.plain_server import KEY, PlainServer, answer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def renew(provider: ServiceBusProvider, queue_name: str) -> None:
    """Make one request."""
    with provider.create_session_client(queue_name, "s1", auto_renew=False) as session:
        session.renew_session_lock()


# Shared access signatures


@given(resource=TEXT, name=TEXT, key=TEXT, expires_on=st.integers(1, 2**33))
@example("https://myns.servicebus.windows.net/orders", "RootManageSharedAccessKey", "k+/=", 1_700_000_000)
@example("http://127.0.0.1:5672/events/subscriptions/é", "a b+c/d%", "ключ==", 1)
@settings(max_examples=300, deadline=None)
def test_a_signature_is_byte_for_byte_that_of_azure_servicebus(resource: str, name: str, key: str, expires_on: int) -> None:
    assert generate_sas_token(resource, name, key, expires_on) == reference_sas_token(resource, name, key, expires_on)


def test_a_signature_is_the_hmac_of_the_keys_text() -> None:
    # Made with: printf 'https%%3A%%2F%%2Fns%%2Fq\n1700000000' | openssl dgst -sha256 -hmac 'c2VjcmV0' -binary | base64
    signature = "Y2vu6e2%2BPdT5WAwg3emyL%2F7Fuv1o4%2Fw5I5hlqFC5zsQ%3D"
    made = generate_sas_token("https://ns/q", "reader", "c2VjcmV0", 1_700_000_000)
    assert made == f"SharedAccessSignature sr=https%3A%2F%2Fns%2Fq&sig={signature}&se=1700000000&skn=reader"


def test_a_signature_is_made_once_an_hour_and_ahead_of_its_end() -> None:
    now = [1_000_000.0]
    cache = TokenCache(SasKey("reader", "key", lambda: now[0]), lambda: now[0])
    first = cache.token("https://ns/q").header
    assert f"&se={1_000_000 + SAS_LIFETIME}&" in first
    now[0] += SAS_LIFETIME - 301
    assert cache.token("https://ns/q").header == first
    now[0] += 2
    assert f"&se={1_000_000 + 2 * SAS_LIFETIME - 299}&" in cache.token("https://ns/q").header


@pytest.mark.parametrize("step", [-18000.0, 18000.0])
def test_a_signature_is_made_anew_in_its_time_though_the_wall_clock_was_stepped(step: float) -> None:
    wall, steady = [1_000_000.0], [50.0]
    cache = TokenCache(SasKey("reader", "key", lambda: wall[0]), lambda: wall[0], lambda: steady[0])
    first, refresh_in, ends_in = cache.lookup("https://ns/q")
    assert (refresh_in, ends_in) == (3300, 3600)
    wall[0] += step
    if step < 0:
        # By the wall clock it would be good for six hours yet.
        assert cache.lookup("https://ns/q") == (first, 3300, 3600)
        steady[0] += 3299
        assert cache.token("https://ns/q") is first
        steady[0] += 2
    assert cache.token("https://ns/q").expires_on == wall[0] + 3600


def test_a_failed_refresh_is_tried_again_in_its_time_though_the_wall_clock_was_set_back() -> None:
    credential = _Credential()
    steady = [0.0]
    cache = TokenCache(EntraCredential(credential), credential.clock, lambda: steady[0])  # type: ignore[arg-type]
    cache.token("https://ns/q")
    credential.now -= 18000
    steady[0] += 3301
    credential.fails = True
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    credential.fails = False
    steady[0] += 31
    assert cache.token("https://ns/q").header == "Bearer own-secret-3"


def test_each_queue_has_a_signature_of_its_own() -> None:
    cache = TokenCache(SasKey("reader", "key"))
    assert "sr=https%3A%2F%2Fns%2Fa&" in cache.token("https://ns/a").header
    assert "sr=https%3A%2F%2Fns%2Fb&" in cache.token("https://ns/b").header


def test_a_ready_signature_is_sent_as_it_stands() -> None:
    signature = "SharedAccessSignature sr=x&sig=y&se=1&skn=z"
    with PlainServer() as server:
        text = f"Endpoint={server.url}/;SharedAccessSignature={signature}"
        with ServiceBusProvider.from_connection_string(text) as provider:
            renew(provider, "orders")
            assert server.seen[0].headers["Authorization"] == signature
            server.next(answer(401), answer(401))
            with pytest.raises(AuthenticationFailedError, match="refused") as caught:
                renew(provider, "orders")
        assert len(server.seen) == 2
    assert "sig=" not in str(caught.value)


def test_a_refused_signature_is_made_anew_and_the_request_sent_once_more() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        server.next(answer(401))
        session.renew_session_lock()
        assert len(server.seen) == 2
        server.next(answer(401), answer(401), answer(401))
        with pytest.raises(AuthenticationFailedError):
            session.renew_session_lock()
        assert len(server.seen) == 4


# Which one is used


def test_a_credential_goes_before_a_key() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={KEY}")
    assert isinstance(source_of(config, _Credential()), EntraCredential)
    assert isinstance(source_of(config, None), SasKey)


def test_a_signature_is_used_where_there_is_no_key() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/;SharedAccessSignature=SharedAccessSignature x")
    assert isinstance(source_of(config, None), SasSignature)


def test_a_connection_string_without_a_key_needs_a_credential() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="credential"):
        source_of(config, None)
    assert isinstance(source_of(config, _Credential()), EntraCredential)


def test_what_is_no_credential_is_refused() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="get_token"):
        ServiceBusProvider(config, credential="secret")  # type: ignore[arg-type]


# Entra tokens, fetched by azure-identity


class Asked(NamedTuple):
    """A request for a token."""

    api_version: str
    resource: str
    header: str | None


class IdentityEndpoint:
    """An identity endpoint of Azure App Service, API version 2019-08-01, on loopback.

    Attributes:
        lifetime: Seconds that its tokens are good for.
        asked: The requests so far.
        broken: Answer 400 instead.
        gate: Answers are held back while it is cleared.
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
                """Say nothing."""

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


def test_a_namespace_without_a_credential_uses_the_default_one(identity: IdentityEndpoint) -> None:
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


def test_a_second_401_is_the_answer(identity: IdentityEndpoint, credential: Any) -> None:
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


def test_a_credential_that_ignores_claims_is_got_past_its_cache_too(identity: IdentityEndpoint) -> None:
    with PlainServer() as server, _NoClaims() as credential, entra_provider(server, credential) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        server.next(answer(401))
        session.renew_session_lock()
        server.next(answer(401))
        session.renew_session_lock()
        sent = [seen.headers["Authorization"] for seen in server.seen]
    assert sent == [f"Bearer entra-secret-{number}" for number in (1, 2, 2, 3)]
    assert len(identity.asked) == 3


def test_an_endpoint_that_has_no_token_is_an_authentication_failure(identity: IdentityEndpoint, credential: Any) -> None:
    identity.broken = True
    with PlainServer() as server, entra_provider(server, credential) as provider:
        with pytest.raises(AuthenticationFailedError, match=type(credential).__name__) as caught:
            provider.create_session_client("orders", "s1").receive_message(timeout=0)
        assert server.seen == []
    assert caught.value.__cause__ is not None


# Refreshing


class _Credential:
    """A credential of somebody's own, which knows nothing of claims."""

    def __init__(self, *, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.now = 1_000_000.0
        self.fetched: list[tuple[str, ...]] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def clock(self) -> float:
        return self.now

    def get_token(self, *scopes: str) -> AccessToken:
        self.fetched.append(scopes)
        number = len(self.fetched)
        self.gate.wait(20)
        if self.fails:
            raise ClientAuthenticationError("the password was hunter2")
        return AccessToken(f"own-secret-{number}", int(self.now + self.lifetime))

    def cache(self) -> TokenCache:
        return TokenCache(EntraCredential(self), self.clock)  # type: ignore[arg-type]


def test_any_token_credential_will_do_and_is_asked_again_after_a_refusal() -> None:
    credential = _Credential()
    cache = credential.cache()
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
    assert credential.fetched == [(ENTRA_SCOPE,)] * 2


def test_a_token_is_refreshed_ahead_while_the_others_go_on_with_the_old_one() -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3301
    credential.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        refreshing = pool.submit(cache.token, "https://ns/q")
        eventually(lambda: len(credential.fetched) == 2)
        assert [cache.token("https://ns/q").header for _ in range(3)] == ["Bearer own-secret-1"] * 3
        credential.gate.set()
        assert refreshing.result(20).header == "Bearer own-secret-2"
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
    assert len(credential.fetched) == 2


def test_a_token_is_not_refreshed_before_its_last_minutes() -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3299
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"


def test_a_short_lived_token_is_refreshed_in_its_last_fifth() -> None:
    credential = _Credential(lifetime=100)
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 79
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    credential.now += 2
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"


def test_a_failed_early_refresh_is_logged_and_the_old_token_used(caplog: pytest.LogCaptureFixture) -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3301
    credential.fails = True
    with caplog.at_level(logging.WARNING, "azsession"):
        assert cache.token("https://ns/q").header == "Bearer own-secret-1"
        # Not again at once.
        assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    assert len(credential.fetched) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hunter2" not in caplog.text
    assert "own-secret" not in caplog.text
    credential.now += 31
    credential.fails = False
    assert cache.token("https://ns/q").header == "Bearer own-secret-3"


def test_a_failed_refresh_of_an_expired_token_is_an_error_for_all_who_wait() -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3601
    credential.fails = True
    credential.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.token, "https://ns/q") for _ in range(4)]
        eventually(lambda: len(credential.fetched) == 2)
        credential.gate.set()
        failures = [one.exception(20) for one in waiting]
    assert all(type(failure) is AuthenticationFailedError for failure in failures)
    assert not any("hunter2" in str(failure) for failure in failures)
    credential.fails = False
    assert cache.token("https://ns/q").header.startswith("Bearer own-secret-")


def test_an_interrupted_fetch_does_not_leave_the_others_waiting() -> None:
    class Source:
        calls = 0

        def audience(self, resource: str) -> str:
            return resource

        def fetch(self, audience: str, *, refused: bool) -> Token:
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt
            return Token("Bearer x", 2e9)

    cache = TokenCache(Source(), lambda: 1e9)
    with pytest.raises(KeyboardInterrupt):
        cache.token("https://ns/q")
    assert cache.token("https://ns/q").header == "Bearer x"


def test_dropping_a_token_that_was_replaced_already_keeps_the_new_one() -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"


# What must not be seen


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
