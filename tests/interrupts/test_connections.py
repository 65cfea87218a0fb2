"""An interrupted request over HTTP leaves the connections and cookies of requests as other threads need them."""

from __future__ import annotations

import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from azsession import ServiceBusConfig, ServiceBusProvider
from azsession.client import http_pools

from ..client.http_sessions import WAYS, new_session
from ..support.plain_server import PlainServer
from .sweep import BytecodeInterrupter, Handler


def in_another_thread(call: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(10)


def pools_to(server: PlainServer) -> list[Any]:
    """Return the open pools for a server. Pools of earlier tests can still be in memory."""
    return [each for each in list(http_pools.pools) if each.pool is not None and server.url.endswith(f":{each.port}")]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions")
@pytest.mark.parametrize("way", WAYS)
def test_a_request_can_be_interrupted_anywhere(way: str) -> None:
    with PlainServer() as server, new_session(way) as http:
        if way != "pool":
            http.cookies.set("kind", "plain", domain="127.0.0.1")
        provider = ServiceBusProvider(ServiceBusConfig(connection_string=server.connection_string), http=http)
        with provider, provider.create_session_client("q", "s") as session:
            session.receive_message(timeout=0)
            whole = BytecodeInterrupter(0)
            whole.run(lambda: session.receive_message(timeout=0))
            assert whole.lines > 100
            for at in range(1, whole.lines + 1):
                interrupter = BytecodeInterrupter(at)
                interrupter.run(lambda: session.receive_message(timeout=0))
                (pool,) = pools_to(server)
                found = [each for each in pool.pool.queue if each is not None]
                assert len(found) == len({id(each) for each in found}), interrupter.where
                for lock in (pool.pool.mutex, http.cookies._cookies_lock):
                    assert in_another_thread(lambda lock=lock: lock.acquire(blocking=False) and (lock.release() or True))
                assert session.receive_message(timeout=0) is None, interrupter.where


def _use(pool: queue.LifoQueue[Any], taken: list[Any]) -> None:
    """Take a connection from a pool and put it back, as urllib3 does."""
    try:
        taken.append(pool.get(block=False))
    except queue.Empty:
        return
    pool.put(taken[-1], block=False)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions")
def test_a_signal_handler_can_use_the_pool_that_its_thread_is_using() -> None:
    whole = Handler(0, lambda: None)
    pool = http_pools.ConnectionQueue(2)
    pool.put("a")
    whole.run(lambda: _use(pool, []))
    assert whole.lines > 10
    for at in range(1, whole.lines + 1):
        pool = http_pools.ConnectionQueue(2)
        pool.put("a")
        handler = Handler(at, lambda pool=pool: _use(pool, []))
        # In another thread, because a deadlock is no exception.
        in_another_thread(lambda handler=handler, pool=pool: handler.run(lambda: _use(pool, [])))
        assert pool.queue == ["a"], handler.where


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions")
def test_a_handler_can_take_the_last_connection_before_its_thread_does() -> None:
    for at in range(1, 60):
        pool, taken = http_pools.ConnectionQueue(2), list[Any]()
        pool.put("a")
        handler = Handler(at, lambda pool=pool, taken=taken: taken.append(pool.get(block=False)) if pool.queue else None)
        with suppress(queue.Empty):
            taken.append(handler.run(lambda pool=pool: pool.get(block=False)))
        assert taken == ["a"], handler.where
