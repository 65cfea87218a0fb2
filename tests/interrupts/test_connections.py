"""An interrupted request over HTTP leaves the connections and cookies of requests as other threads need them."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from azsession import ServiceBusConfig, ServiceBusProvider
from azsession.client import http_sockets

from ..support.plain_server import PlainServer
from .sweep import BytecodeInterrupter


def in_another_thread(call: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(10)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions")
def test_a_request_can_be_interrupted_anywhere() -> None:
    with PlainServer() as server, requests.Session() as http:
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
                (pool,) = [each for each in http_sockets._pools if each.pool is not None and each.host == "127.0.0.1"]
                found = [each for each in pool.pool.queue if each is not None]
                assert len(found) == len({id(each) for each in found}), interrupter.where
                for lock in (pool.pool.mutex, http.cookies._cookies_lock):
                    assert in_another_thread(lambda lock=lock: lock.acquire(blocking=False) and (lock.release() or True))
                assert session.receive_message(timeout=0) is None, interrupter.where
