"""Tracked pools by themselves: which connection `ask` uses, and connections that come back to the pool."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import EmptyPoolError, ProtocolError

from azsession.client import cancellation
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_pools import ConnectionQueue, tracked

from ..support.plain_server import NEVER, PlainServer, answer

READING: dict[str, Any] = {"preload_content": True, "decode_content": False}
TIMES = (20.0, 20.0)


def new_pool(server: PlainServer, **options: Any) -> Any:
    return tracked(HTTPConnectionPool)("127.0.0.1", urlsplit(server.url).port, **options)


@pytest.fixture
def pool(server: PlainServer) -> Iterator[Any]:
    """A pool with one idle connection."""
    pool = new_pool(server)
    server.next(answer(200))
    assert pool.urlopen("GET", "/first").status == 200
    server.seen.clear()
    yield pool
    pool.close()


def test_an_idle_connection_carries_the_whole_request(pool: Any, server: PlainServer) -> None:
    server.next(answer(201))
    headers = {"Content-Length": "3", "X-A": "b"}
    assert pool.ask("POST", "/x?y=1", b"abc", headers, TIMES, **READING).status == 201
    (seen,) = server.seen
    assert (seen.method, seen.target, seen.body, seen.headers["X-A"]) == ("POST", "/x?y=1", b"abc", "b")
    assert (pool.num_connections, pool.num_requests) == (1, 2)


def test_a_new_pool_is_not_asked(server: PlainServer) -> None:
    pool = new_pool(server)
    assert pool.ask("GET", "/x", None, {}, TIMES, **READING) is None
    assert (server.seen, pool.num_requests, pool.pool.qsize()) == ([], 0, 1)


def test_a_connection_that_was_closed_is_not_asked(pool: Any, server: PlainServer) -> None:
    connection = pool._get_conn()
    connection.close()
    pool._put_conn(connection)
    assert pool.ask("GET", "/x", None, {}, TIMES, **READING) is None
    assert server.seen == []


def test_a_read_ends_after_its_timeout(pool: Any, server: PlainServer) -> None:
    server.next(NEVER)
    with pytest.raises(ProtocolError) as caught:
        pool.ask("GET", "/x", None, {}, (20.0, 0.2), **READING)
    assert isinstance(caught.value.args[1], TimeoutError)
    assert pool.pool.qsize() == 1, "another connection can take its place"


def test_a_write_ends_after_its_timeout(server: PlainServer) -> None:
    pool = new_pool(server)
    ours, silent = socket.socketpair()
    with ours, silent:
        connection = pool._get_conn()
        connection.sock = ours
        pool._put_conn(connection)
        body = b"x" * 50_000_000
        with pytest.raises(ProtocolError) as caught:
            pool.ask("POST", "/x", body, {"Content-Length": str(len(body))}, (0.2, 20.0), **READING)
    assert isinstance(caught.value.args[1], TimeoutError)


def test_a_connection_comes_back_once(server: PlainServer) -> None:
    """An interrupt can come after a connection was put back, and `urlopen` then puts it back again."""
    pool = new_pool(server, maxsize=2)
    connection, other = pool._get_conn(), pool._get_conn()
    connection.in_flight = object()
    for again in (connection, connection, None):
        pool._put_conn(again)
        assert pool.pool.qsize() == 1
    assert connection.in_flight is None, "a late cancel must not end the next request"
    pool._put_conn(other)
    assert pool.pool.qsize() == 2


def test_connections_and_places_of_lost_ones_come_back(server: PlainServer) -> None:
    pool = new_pool(server, maxsize=2)
    first, second = pool._get_conn(), pool._get_conn()
    assert first is not second
    for each in (first, second):
        pool._put_conn(each)
    assert pool.pool.qsize() == 2
    pool._get_conn()
    pool._put_conn(None)
    assert pool.pool.qsize() == 2


def test_a_pool_that_blocks_waits_as_long_as_it_is_told(server: PlainServer) -> None:
    pool = new_pool(server, maxsize=1, block=True)
    pool._get_conn()
    with pytest.raises(EmptyPoolError):
        pool._get_conn(timeout=0.01)


def test_a_signal_handler_can_use_the_queue_inside_one_of_its_methods() -> None:
    connections = ConnectionQueue(2)
    with connections.not_empty:
        assert connections.mutex.acquire(blocking=False), "the lock is reentrant"
        connections.mutex.release()
        connections.put(1, block=False)
        assert connections.get(block=False) == 1
    with pytest.raises(queue.Empty):
        connections._get()


def test_a_request_that_was_interrupted_does_not_limit_the_next_one_of_the_thread(server: PlainServer) -> None:
    """The signal can come before the sender notes the end. Another user of the connections has no request in flight."""
    cancellation.set_current_request(RequestInFlight(deadline=time.monotonic() - 1.0))
    server.next(answer(200))
    with closing(new_pool(server)) as pool:
        assert pool.urlopen("GET", "/x").status == 200
