"""`Presence` notices clients that go away, and limits how many wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from azsession.errors import ThrottledError
from azsession.server.http.presence import Presence, is_closed
from tests.conftest import eventually


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    server.settimeout(30)
    with server, client:
        yield server, client


@pytest.fixture
def presence() -> Iterator[Presence]:
    presence = Presence(2)
    yield presence
    presence.stop()


def test_a_connection_is_open_until_its_peer_closes_it(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    assert not is_closed(server)
    client.sendall(b"x")
    assert not is_closed(server)
    assert server.recv(1) == b"x"
    client.close()
    assert is_closed(server)


def test_a_connection_closed_on_this_side_counts_as_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert is_closed(pair[0])


def test_a_client_that_goes_away_is_noticed(presence: Presence, pair: tuple[socket.socket, socket.socket]) -> None:
    gone = threading.Event()
    with presence.caller(pair[0]).watched(gone.set):
        assert not gone.is_set()
        pair[1].close()
        assert gone.wait(10)
    assert presence.caller(pair[0]).is_gone()


def test_a_client_that_pipelines_a_request_is_not_gone(presence: Presence, pair: tuple[socket.socket, socket.socket]) -> None:
    gone, later = threading.Event(), threading.Event()
    server, client = socket.socketpair()
    with server, presence.caller(pair[0]).watched(gone.set):
        pair[1].sendall(b"x")
        with presence.caller(server).watched(later.set):
            client.close()
            assert later.wait(10)
    assert not gone.is_set()
    assert not presence.caller(pair[0]).is_gone()


def test_a_client_is_not_watched_after_its_wait(presence: Presence, pair: tuple[socket.socket, socket.socket]) -> None:
    first, second = threading.Event(), threading.Event()
    with presence.caller(pair[0]).watched(first.set):
        pass
    with presence.caller(pair[0]).watched(second.set):
        pair[1].close()
        assert second.wait(10)
    assert not first.is_set()


def test_a_caller_without_a_socket_never_goes_away(presence: Presence) -> None:
    caller = presence.caller(None)
    with caller.watched(lambda: pytest.fail("a caller without a socket went away")):
        assert not caller.is_gone()


def test_a_wait_over_the_limit_is_throttled(presence: Presence) -> None:
    caller = presence.caller(None)
    with caller.watched(print), caller.watched(print):
        with pytest.raises(ThrottledError) as caught, caller.watched(print):
            pass
        assert caught.value.retry_after
    with caller.watched(print), caller.watched(print):
        pass


def test_a_wait_that_fails_frees_its_place(presence: Presence) -> None:
    caller = presence.caller(None)
    for _ in range(5):
        with pytest.raises(KeyError), caller.watched(print):
            raise KeyError
    with caller.watched(print), caller.watched(print):
        pass


def test_stop_works_before_the_first_wait_and_twice(pair: tuple[socket.socket, socket.socket]) -> None:
    presence = Presence(1)
    presence.stop()
    presence.stop()
    with presence.caller(pair[0]).watched(print):
        pass
    began = Presence(1)
    with began.caller(pair[0]).watched(print):
        began.stop()
        began.stop()


def test_stop_ends_the_thread(pair: tuple[socket.socket, socket.socket]) -> None:
    presence = Presence(1)
    with presence.caller(pair[0]).watched(print):
        assert any(thread.name == "azsession-presence" for thread in threading.enumerate())
        presence.stop()
    eventually(lambda: pair[0].fileno() >= 0)
