"""Token sources and the token cache."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
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
    source_of,
)

from .conftest import eventually
from .support.plain_server import KEY, PlainServer, answer


def renew(provider: ServiceBusProvider, queue_name: str) -> None:
    """Make one request."""
    with provider.create_session_client(queue_name, "s1", auto_renew=False) as session:
        session.renew_session_lock()


# Shared access signatures


def test_a_signature_is_renewed_once_an_hour_before_it_expires() -> None:
    now = [1_000_000.0]
    cache = TokenCache(SasKey("reader", "key", lambda: now[0]), lambda: now[0])
    first = cache.token("https://ns/q").header
    assert f"&se={1_000_000 + SAS_LIFETIME}&" in first
    now[0] += SAS_LIFETIME - 301
    assert cache.token("https://ns/q").header == first
    now[0] += 2
    assert f"&se={1_000_000 + 2 * SAS_LIFETIME - 299}&" in cache.token("https://ns/q").header


@pytest.mark.parametrize("step", [-18000.0, 18000.0])
def test_a_signature_is_renewed_in_time_although_the_wall_clock_was_set(step: float) -> None:
    wall, steady = [1_000_000.0], [50.0]
    cache = TokenCache(SasKey("reader", "key", lambda: wall[0]), lambda: wall[0], lambda: steady[0])
    first, refresh_in, ends_in = cache.lookup("https://ns/q")
    assert (refresh_in, ends_in) == (3300, 3600)
    wall[0] += step
    if step < 0:
        # By the wall clock alone it would be valid for six more hours.
        assert cache.lookup("https://ns/q") == (first, 3300, 3600)
        steady[0] += 3299
        assert cache.token("https://ns/q") is first
        steady[0] += 2
    assert cache.token("https://ns/q").expires_on == wall[0] + 3600


def test_a_failed_refresh_is_repeated_in_time_although_the_wall_clock_was_set_back() -> None:
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


def test_each_queue_has_its_own_signature() -> None:
    cache = TokenCache(SasKey("reader", "key"))
    assert "sr=https%3A%2F%2Fns%2Fa&" in cache.token("https://ns/a").header
    assert "sr=https%3A%2F%2Fns%2Fb&" in cache.token("https://ns/b").header


def test_the_signature_of_a_connection_string_is_sent_unchanged() -> None:
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


# The choice of a source


def test_a_credential_is_used_instead_of_a_key() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=n;SharedAccessKey={KEY}")
    assert isinstance(source_of(config, _Credential()), EntraCredential)
    assert isinstance(source_of(config, None), SasKey)


def test_a_signature_is_used_if_there_is_no_key() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/;SharedAccessSignature=SharedAccessSignature x")
    assert isinstance(source_of(config, None), SasSignature)


def test_a_connection_string_without_a_key_needs_a_credential() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="credential"):
        source_of(config, None)
    assert isinstance(source_of(config, _Credential()), EntraCredential)


def test_a_credential_without_get_token_is_refused() -> None:
    config = ServiceBusConfig(connection_string="Endpoint=http://127.0.0.1:1/")
    with pytest.raises(ConfigurationError, match="get_token"):
        ServiceBusProvider(config, credential="secret")  # type: ignore[arg-type]


# Refreshing


class _Credential:
    """A credential that does not accept claims."""

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


def test_any_token_credential_is_accepted_and_asked_again_after_a_refusal() -> None:
    credential = _Credential()
    cache = credential.cache()
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
    assert credential.fetched == [(ENTRA_SCOPE,)] * 2


def test_other_threads_use_the_old_token_during_an_early_refresh() -> None:
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


def test_a_failed_early_refresh_is_logged_and_the_old_token_stays_in_use(caplog: pytest.LogCaptureFixture) -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3301
    credential.fails = True
    with caplog.at_level(logging.WARNING, "azsession"):
        assert cache.token("https://ns/q").header == "Bearer own-secret-1"
        # The second call does not repeat the fetch.
        assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    assert len(credential.fetched) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hunter2" not in caplog.text
    assert "own-secret" not in caplog.text
    credential.now += 31
    credential.fails = False
    assert cache.token("https://ns/q").header == "Bearer own-secret-3"


def test_a_failed_refresh_of_an_expired_token_is_an_error_in_all_waiting_threads() -> None:
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


def test_an_interrupted_fetch_can_be_repeated() -> None:
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


def test_dropping_a_token_that_was_already_replaced_keeps_the_new_one() -> None:
    credential = _Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
