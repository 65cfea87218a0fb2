"""The processor in a program patched by gevent, and with Azure as the broker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from azsession import ServiceBusProvider, SessionProcessor
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..namespaces import OwnNamespace
from .helpers import Seen, send

_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()

import sys
import threading
import time

import gevent
from azsession import Message, ServiceBusProvider, SessionProcessor

assert threading.current_thread().__class__.__module__ != "_thread"
seen, renewed, ticks = {}, [], []

def handler(message, session):
    seen.setdefault(session.session_id, []).append(message.text())
    if message.text() == "slow":
        before = session.session_expires_at
        # The lock must be renewed, and other sessions must continue meanwhile.
        while session.session_expires_at == before and not session.is_lock_lost:
            time.sleep(0.05)
        assert not session.is_lock_lost
        renewed.append(session.session_expires_at > before)

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

ticker = gevent.spawn(tick)
with ServiceBusProvider.from_connection_string(sys.argv[1]) as provider:
    provider.send_messages("orders", [Message("slow", session_id="s"), Message("next", session_id="s")])
    for number in range(10):
        provider.send_messages("orders", [Message(str(n), session_id=f"q{number}") for n in range(5)])
    options = {"max_concurrent_sessions": 4, "settle_in_background": int(sys.argv[2])}
    with SessionProcessor(provider, "orders", handler, **options) as processor:
        deadline = time.monotonic() + 60
        while processor.stats.messages_done < 52 and time.monotonic() < deadline:
            time.sleep(0.01)
    provider.send_message("orders", Message("by hand", session_id="c"))
    with provider.create_session_client("orders", accept_timeout=5) as session:
        message = session.receive_message(timeout=5)
        session.complete_message(message)
        seen["c"] = [message.text()]
ticker.kill()
assert seen == {"s": ["slow", "next"], "c": ["by hand"], **{f"q{n}": [str(m) for m in range(5)] for n in range(10)}}, seen
assert renewed == [True]
assert len(ticks) > 50
print("done")
"""


@pytest.mark.parametrize("in_background", [0, 3])
def test_client_renewal_and_processor_work_under_gevent(azsession_server: AzsessionServer, in_background: int) -> None:
    azsession_server.create_queue("orders", lock_duration=6)
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_GEVENT, azsession_server.connection_string, str(in_background)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("in_background", [0, 3])
def test_sessions_on_azure_are_handled_in_order(in_background: int) -> None:
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
            for number in range(6):
                send(provider, f"s{number}", map(str, range(7)))
            seen = Seen()
            options: dict[str, Any] = {"max_concurrent_sessions": 3, "prefetch": 4, "settle_in_background": in_background}
            with SessionProcessor(provider, "orders", seen, **options) as processor:
                eventually(lambda: processor.stats.messages_done == 42, seconds=60)
                eventually(lambda: processor.stats.sessions_open == 0)
            assert all(seen.by_session[f"s{number}"] == [str(n) for n in range(7)] for number in range(6))
            assert seen.most_of_one == 1
        assert len(namespace.completed("orders")) == 42
        assert namespace.locked_sessions("orders") == set()


def test_a_queue_on_azure_is_drained() -> None:
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
            for number in range(6):
                send(provider, f"s{number}", map(str, range(7)))
            processor = SessionProcessor(provider, "orders", Seen(), max_concurrent_sessions=3, until_empty=True)
            processor.run()
            assert (processor.stats.messages_done, processor.stats.sessions_done) == (42, 6)
        assert len(namespace.completed("orders")) == 42
        assert namespace.locked_sessions("orders") == set()
