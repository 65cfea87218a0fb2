"""The token cache alone, with sources whose tokens, clocks and failures the test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from azsession import AuthenticationFailedError
from azsession.token_cache import TokenCache
from azsession.tokens import Token

from .conftest import eventually


class Source:
    """Gives tokens of 3,600 seconds, numbered. The audience of a URL is its first letter after ``https://``."""

    def __init__(self, *, is_slow: bool = False, renews: bool = True) -> None:
        self.is_slow, self.renews = is_slow, renews
        self.wall, self.steady = 1_000_000.0, 500.0
        self.asked: list[tuple[str, bool]] = []
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return "the source"

    def audience(self, resource: str) -> str:
        return resource.removeprefix("https://")[0]

    def fetch(self, audience: str, *, refused: bool) -> Token:
        self.asked.append((audience, refused))
        number = len(self.asked)
        self.thread = threading.current_thread()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return Token(f"{audience}{number}", self.wall + 3600)

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def cache(self) -> TokenCache:
        return TokenCache(self, lambda: self.wall, lambda: self.steady)


@pytest.fixture(params=[False, True], ids=["fast", "slow"])
def source(request: pytest.FixtureRequest) -> Source:
    return Source(is_slow=request.param)


def token(cache: TokenCache, resource: str) -> str:
    return cache.token(resource, 20).header


def lookup(cache: TokenCache, resource: str) -> str:
    return cache.lookup(resource)[0].header


def test_the_cache_names_its_source_and_shows_no_token(source: Source) -> None:
    cache = source.cache()
    token(cache, "https://a/1")
    token(cache, "https://b/1")
    assert repr(cache) == "<TokenCache of 2 tokens>"
    assert cache.source_name == "the source"


@pytest.mark.parametrize("get", [token, lookup])
def test_resources_of_one_audience_share_a_token(source: Source, get: Callable[[TokenCache, str], str]) -> None:
    cache = source.cache()
    assert [get(cache, f"https://{name}") for name in ("a/1", "a/2", "b/1", "a/3")] == ["a1", "a1", "b2", "a1"]
    assert source.asked == [("a", False), ("b", False)]


@pytest.mark.parametrize("get", [token, lookup])
def test_a_token_is_refreshed_exactly_when_five_minutes_are_left(
    source: Source, get: Callable[[TokenCache, str], str]
) -> None:
    cache = source.cache()
    get(cache, "https://a")
    source.advance(3299.5)
    assert get(cache, "https://a") == "a1"
    assert len(source.asked) == 1
    source.advance(0.5)
    get(cache, "https://a")
    eventually(lambda: len(source.asked) == 2 and lookup(cache, "https://a") == "a2")


def test_lookup_tells_the_seconds_until_the_refresh_and_the_expiry(source: Source) -> None:
    cache = source.cache()
    found, refresh_in, ends_in = cache.lookup("https://a")
    assert (found.header, refresh_in, ends_in) == ("a1", 3300, 3600)
    source.advance(100)
    assert cache.lookup("https://a") == (found, 3200, 3500)


@pytest.mark.parametrize("get", [token, lookup])
def test_the_source_hears_once_that_a_token_was_refused(source: Source, get: Callable[[TokenCache, str], str]) -> None:
    cache = source.cache()
    get(cache, "https://a")
    get(cache, "https://b")
    assert cache.drop("https://a/x", "a1") is True
    assert get(cache, "https://a") == "a3"
    assert get(cache, "https://b") == "b2"
    assert source.asked[2:] == [("a", True)]
    source.advance(3600)
    assert get(cache, "https://a") == "a4"
    assert source.asked[3:] == [("a", False)]


def test_a_refusal_of_an_older_token_leaves_the_current_one(source: Source) -> None:
    cache = source.cache()
    token(cache, "https://a")
    assert cache.drop("https://a", "a0") is True
    assert cache.drop("https://b", "b1") is True
    assert token(cache, "https://a") == "a1"
    assert source.asked == [("a", False)]


def test_a_source_with_one_token_keeps_it_after_a_refusal() -> None:
    source = Source(renews=False)
    cache = source.cache()
    token(cache, "https://a")
    assert cache.drop("https://a", "a1") is False
    assert token(cache, "https://a") == "a1"


@pytest.mark.parametrize("get", [token, lookup])
def test_a_failed_refresh_keeps_the_token_until_its_expiry_and_pauses(
    source: Source, get: Callable[[TokenCache, str], str], caplog: pytest.LogCaptureFixture
) -> None:
    cache = source.cache()
    get(cache, "https://a")
    source.advance(3300)
    source.error = AuthenticationFailedError("the directory is down")
    assert get(cache, "https://a") == "a1"

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "azsession.token_cache"]

    eventually(logged)
    assert logged() == ["the token could not be refreshed, and the old one stays in use: the directory is down"]
    eventually(lambda: cache.lookup("https://a")[1:] == (30, 300))
    source.advance(29)
    assert get(cache, "https://a") == "a1"
    assert len(source.asked) == 2
    source.advance(271)
    with pytest.raises(AuthenticationFailedError, match="the directory is down"):
        get(cache, "https://a")


@pytest.mark.parametrize("get", [token, lookup])
def test_an_unexpected_error_of_a_slow_source_is_an_authentication_error(get: Callable[[TokenCache, str], str]) -> None:
    source = Source(is_slow=True)
    source.error = KeyError("hunter2")
    with pytest.raises(AuthenticationFailedError, match=r"^the fetch of a token failed: KeyError$") as caught:
        get(source.cache(), "https://a")
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is source.error


def test_a_slow_source_is_asked_in_a_thread_that_does_not_keep_the_process_alive() -> None:
    source = Source(is_slow=True)
    token(source.cache(), "https://a")
    assert source.thread is not None
    assert (source.thread.name, source.thread.daemon) == ("azsession-token", True)


def test_a_fast_source_is_asked_in_the_callers_thread() -> None:
    source = Source()
    token(source.cache(), "https://a")
    assert source.thread is threading.current_thread()


# Tokens at hand


def test_a_token_is_at_hand_until_its_refresh(source: Source) -> None:
    cache = source.cache()
    assert cache.at_hand("https://a") is None
    found = cache.lookup("https://a")
    assert cache.at_hand("https://a/2") == found
    assert cache.at_hand("https://b") is None
    source.advance(3299.5)
    assert cache.at_hand("https://a") == (found[0], 0.5, 300.5)
    source.advance(0.5)
    assert cache.at_hand("https://a") is None


def test_during_a_refresh_the_old_token_is_at_hand_until_it_expires() -> None:
    source = Source(is_slow=True)
    cache = source.cache()
    found, *_ = cache.lookup("https://a")
    source.advance(3300)
    source.gate.clear()
    assert token(cache, "https://a") == "a1"
    assert cache.at_hand("https://a") == (found, 0, 300)
    source.advance(299.5)
    assert cache.at_hand("https://a") == (found, -299.5, 0.5)
    source.advance(0.5)
    assert cache.at_hand("https://a") is None
    source.gate.set()
    eventually(lambda: cache.at_hand("https://a") is not None)


# Waits


def test_a_wait_ends_in_time_and_says_how_long_it_was() -> None:
    source = Source(is_slow=True)
    source.gate.clear()
    cache = source.cache()
    for timeout in (0.0, 0.05, 0.25):
        began = time.monotonic()
        with pytest.raises(AuthenticationFailedError, match=rf"^the source gave no token within {timeout:g} s$"):
            cache.token("https://a", timeout)
        assert timeout <= time.monotonic() - began < timeout + 15
    source.gate.set()
    assert token(cache, "https://a") == "a1"
    assert source.asked == [("a", False)]


def test_a_cancelled_wait_says_so_and_the_caller_hears_of_its_end() -> None:
    source = Source(is_slow=True)
    source.gate.clear()
    cache = source.cache()
    told: list[Any] = []

    def on_cancel(end: Callable[[], object] | None) -> None:
        told.append(end)
        if end is not None:
            end()

    for timeout in (None, 20):
        with pytest.raises(AuthenticationFailedError, match=r"^the wait for a token was cancelled$"):
            cache.token("https://a", timeout, on_cancel)
    assert [end is None for end in told] == [False, True] * 2
    source.gate.set()
    eventually(lambda: cache.at_hand("https://a"))


def test_a_token_that_needs_no_wait_registers_no_cancellation() -> None:
    source = Source(is_slow=True)
    cache = source.cache()
    told: list[Any] = []
    token(cache, "https://a")
    cache.token("https://a", 20, told.append)
    assert told == []


def test_a_forked_child_fetches_its_own_token() -> None:
    source = Source(is_slow=True)
    source.gate.clear()
    cache = source.cache()
    with pytest.raises(AuthenticationFailedError):
        cache.token("https://a", 0)
    eventually(lambda: source.asked)
    with cache._lock:  # As a thread that does not exist in the child would hold it.
        cache.after_fork()
        source.gate.set()
        assert token(cache, "https://a") in ("a1", "a2")
    eventually(lambda: len(source.asked) == 2)


def test_an_expired_token_is_not_used_while_its_refresh_hangs() -> None:
    source = Source(is_slow=True)
    cache = source.cache()
    token(cache, "https://a")
    source.advance(3599.5)
    source.gate.clear()
    assert cache.token("https://a", 0.05).header == "a1"
    source.advance(0.5)
    with pytest.raises(AuthenticationFailedError, match="gave no token"):
        cache.token("https://a", 0.05)
    source.gate.set()
    eventually(lambda: len(source.asked) == 2 and cache.at_hand("https://a"))
