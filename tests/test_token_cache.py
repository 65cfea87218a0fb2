"""The token cache: when tokens are refreshed, and how threads share a fetch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest

from azsession import AuthenticationFailedError, ServiceBusProvider, SessionNotFoundError
from azsession.client.provider import core_of
from azsession.token_cache import TokenCache
from azsession.tokens import ENTRA_SCOPE, SAS_LIFETIME, EntraCredential, SasKey

from .conftest import eventually
from .support.credentials import Credential
from .support.plain_server import PlainServer


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
    credential = Credential()
    steady = [0.0]
    cache = TokenCache(EntraCredential(credential), credential.clock, lambda: steady[0])  # type: ignore[arg-type]
    cache.token("https://ns/q")
    credential.now -= 18000
    steady[0] += 3301
    credential.fails = True
    assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-1"
    credential.fails = False
    steady[0] += 31
    assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-3"


def test_each_queue_has_its_own_signature() -> None:
    cache = TokenCache(SasKey("reader", "key"))
    assert "sr=https%3A%2F%2Fns%2Fa&" in cache.token("https://ns/a").header
    assert "sr=https%3A%2F%2Fns%2Fb&" in cache.token("https://ns/b").header


def test_any_token_credential_is_accepted_and_asked_again_after_a_refusal() -> None:
    credential = Credential()
    cache = credential.cache()
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
    assert credential.fetched == [(ENTRA_SCOPE,)] * 2


def test_an_early_refresh_delays_no_thread_and_the_next_token_is_used_when_it_is_there() -> None:
    credential = Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3301
    credential.gate.clear()
    assert [cache.token("https://ns/q").header for _ in range(4)] == ["Bearer own-secret-1"] * 4
    eventually(lambda: len(credential.fetched) == 2)
    at_hand = cache.at_hand("https://ns/q")
    assert at_hand is not None
    assert at_hand[0].header == "Bearer own-secret-1"
    credential.gate.set()
    eventually(lambda: cache.token("https://ns/q").header == "Bearer own-secret-2")
    assert len(credential.fetched) == 2


def test_a_token_is_not_refreshed_before_its_last_minutes() -> None:
    credential = Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3299
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"


def test_a_short_lived_token_is_refreshed_in_its_last_fifth() -> None:
    credential = Credential(lifetime=100)
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 79
    assert cache.token("https://ns/q").header == "Bearer own-secret-1"
    credential.now += 2
    assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-2"


def test_a_failed_early_refresh_is_logged_and_the_old_token_stays_in_use(caplog: pytest.LogCaptureFixture) -> None:
    credential = Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    credential.now += 3301
    credential.fails = True
    with caplog.at_level(logging.WARNING, "azsession"):
        assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-1"
        # The second call does not repeat the fetch.
        assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-1"
    assert len(credential.fetched) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hunter2" not in caplog.text
    assert "own-secret" not in caplog.text
    credential.now += 31
    credential.fails = False
    assert cache.lookup("https://ns/q")[0].header == "Bearer own-secret-3"


def test_a_failed_refresh_of_an_expired_token_is_an_error_in_all_waiting_threads() -> None:
    credential = Credential()
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


def test_a_fetch_whose_start_was_interrupted_is_started_by_the_next_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    credential = Credential()
    cache = credential.cache()
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.token("https://ns/q")
    assert cache.token("https://ns/q", timeout=20).header == "Bearer own-secret-1"
    assert len(credential.fetched) == 1


def test_without_another_thread_the_token_is_fetched_in_the_callers_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert Credential().cache().token("https://ns/q").header == "Bearer own-secret-1"


# Credentials that hang


def entra_provider(server: PlainServer, credential: Any, **fields: Any) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(f"Endpoint={server.url}/", credential=credential, **fields)


@pytest.fixture
def hanging() -> Iterator[Credential]:
    """A credential that hangs until the end of the test."""
    credential = Credential()
    credential.now = time.time()
    credential.gate.clear()
    yield credential
    credential.gate.set()


def test_a_credential_that_hangs_is_an_authentication_error_in_time(hanging: Credential) -> None:
    with PlainServer() as server, entra_provider(server, hanging, request_timeout=1) as provider:
        began = time.monotonic()
        with pytest.raises(AuthenticationFailedError, match=r"Credential gave no token within 1 s"):
            provider.create_session_client("q", "s").receive_message(timeout=30)
        assert time.monotonic() - began < 10
        # The fetch goes on. Its token is used when it comes.
        hanging.gate.set()
        with provider.create_session_client("q", "s", auto_renew=False) as session:
            session.renew_session_lock()  # Unlike a receive, it is tried again if this machine is slow.
    assert len(hanging.fetched) == 1


def test_a_refresh_that_hangs_blocks_no_request_while_the_old_token_is_valid(hanging: Credential) -> None:
    hanging.gate.set()
    hanging.lifetime = 300
    with PlainServer() as server, entra_provider(server, hanging, request_timeout=20) as provider:
        session = provider.create_session_client("q", "s", auto_renew=False)
        session.receive_message(timeout=0)
        hanging.gate.clear()
        cache: Any = core_of(provider).transport._tokens
        cache._entries[ENTRA_SCOPE] = attrs.evolve(cache._entries[ENTRA_SCOPE], refresh_at=0.0)
        began = time.monotonic()
        session.receive_message(timeout=0)
        session.renew_session_lock()
        session.close()
        assert time.monotonic() - began < 10
    assert len(hanging.fetched) == 2


def test_closing_ends_the_wait_for_a_token(hanging: Credential) -> None:
    with PlainServer() as server, entra_provider(server, hanging, request_timeout=60) as provider:
        session = provider.create_session_client("q", "s")
        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(session.receive_message, 60)
            eventually(lambda: hanging.fetched)
            began = time.monotonic()
            session.close()
            assert type(receiving.exception(20)) is SessionNotFoundError
            assert time.monotonic() - began < 10
        assert server.seen == []


def test_cancelling_one_wait_for_a_token_leaves_the_others() -> None:
    credential = Credential()
    credential.gate.clear()
    cache = credential.cache()
    ends: list[Any] = []
    with ThreadPoolExecutor(2) as pool:
        cancelled = pool.submit(cache.token, "https://ns/q", 60, ends.append)
        other = pool.submit(cache.token, "https://ns/q", 60)
        eventually(lambda: ends and credential.fetched)
        ends[0]()
        with pytest.raises(AuthenticationFailedError, match="cancelled"):
            cancelled.result(20)
        assert not other.done()
        credential.gate.set()
        assert other.result(20).header == "Bearer own-secret-1"
    assert ends[-1] is None


def test_dropping_a_token_that_was_already_replaced_keeps_the_new_one() -> None:
    credential = Credential()
    cache = credential.cache()
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    cache.token("https://ns/q")
    cache.drop("https://ns/q", "Bearer own-secret-1")
    assert cache.token("https://ns/q").header == "Bearer own-secret-2"
