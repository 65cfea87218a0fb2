"""Keys that are replaced while the gateway runs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from azsession.server import AccessKey, Right

from ..server.raw import KEYS, Gateway, acceptors, fresh_id, in_thread, serving, waiters

APP = AccessKey("app", "YXBw", frozenset({Right.LISTEN}))


def wait_until(condition: Any) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_revoked_key_is_refused_on_a_connection_that_it_used_before() -> None:
    with serving() as gateway:
        gateway.service.replace_keys([*KEYS, APP])
        queue, connection, token = gateway.queue(), gateway.connect(), gateway.token(key=APP)
        try:
            statuses = []
            for keys in ([*KEYS, APP], [*KEYS], [*KEYS, APP]):
                gateway.service.replace_keys(keys)
                statuses.append(gateway.ask("GET", f"/{queue}/sessions", token=token, connection=connection).status)
            assert statuses == [200, 401, 200]
        finally:
            connection.close()


@pytest.mark.parametrize("accepts", [False, True])
def test_a_wait_with_a_revoked_key_ends_at_once_and_takes_nothing(accepts: bool) -> None:
    with serving() as gateway:
        gateway.service.replace_keys([*KEYS, APP])
        queue = gateway.queue()
        holder = gateway.holder(queue, "s", fresh_id())
        token = gateway.token(key=APP)
        if accepts:
            path = f"/{queue}/sessions?timeout=60"
            answer = in_thread(lambda: gateway.ask("POST", path, {}, holder.headers, token=token))
            wait_until(lambda: acceptors(gateway, queue))
        else:
            answer = in_thread(lambda: holder.receive("timeout=60", token=token))
            wait_until(lambda: waiters(gateway, queue, "s"))
        gateway.service.replace_keys(KEYS)
        refused = answer()
        assert (refused.status, refused.code) == (401, "Unauthorized")
        # The wait is gone: the next message goes to another holder, undelivered before.
        wait_until(lambda: not (acceptors(gateway, queue) or waiters(gateway, queue, "s")))
        gateway.send(queue, "s", "one")
        received = gateway.holder(queue, "s", fresh_id()).receive()
        assert (received.status, received.properties["DeliveryCount"]) == (201, 1)


def test_a_wait_goes_on_if_another_key_is_revoked(gateway: Gateway) -> None:
    with serving() as gateway:
        gateway.service.replace_keys([*KEYS, APP])
        queue = gateway.queue()
        holder = gateway.holder(queue, "s", fresh_id())
        answer = in_thread(lambda: holder.receive("timeout=60"))
        wait_until(lambda: waiters(gateway, queue, "s"))
        gateway.service.replace_keys([AccessKey(key.name, key.key, key.rights) for key in KEYS])
        gateway.send(queue, "s", "one")
        assert answer().body == b"one"


def test_a_holder_with_a_revoked_key_keeps_the_session_until_its_lock_expires() -> None:
    with serving() as gateway:
        gateway.service.replace_keys([*KEYS, APP])
        queue = gateway.queue(lock_duration=10)
        gateway.send(queue, "s", "one")
        token = gateway.token(key=APP)
        holder, other = (gateway.holder(queue, "s", fresh_id()) for _ in range(2))
        assert holder.receive(token=token).status == 201
        gateway.service.replace_keys(KEYS)
        assert holder.ask("POST", "/renewlock", token=token).status == 401
        assert other.receive().status == 423
        gateway.clock.forward(11)
        assert other.receive().status == 201
