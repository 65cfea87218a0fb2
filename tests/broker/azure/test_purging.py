"""Purging a queue on Azure: many sessions, and repeated requests."""

from __future__ import annotations

import time

from azsession import Message
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import ReceiveRequest, wait_for

from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import broker_on

QUEUE = "many"


def send(broker: AzureBroker, *session_ids: str) -> None:
    broker.send(QUEUE, [Message("a", session_id=name) for name in session_ids]).result()


@stand_in_only("attaches that wait for held sessions")
def test_sessions_that_others_hold_do_not_delay_a_purge_one_after_another(namespace: Namespace) -> None:
    namespace.create_queue(QUEUE, waits_for_held_sessions=True)
    names = [f"held-{number}" for number in range(60)]
    with broker_on(namespace) as holder, broker_on(namespace) as broker:
        send(broker, *names, "free")
        for name in names:
            receive = holder.receive(ReceiveRequest(QUEUE, name, "holder", max_count=1, timeout=5.0))
            assert len(wait_for(receive).messages) == 1
        begin = time.monotonic()
        assert broker.purge(QUEUE, None).result() == 1
        # Azure says after half a second that a session is held.
        assert time.monotonic() - begin < 10.0


def test_an_attempt_waits_for_the_one_before(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue(QUEUE)
    send(broker, "a", "a")
    futures = [broker.purge(QUEUE, "a", "request") for _ in range(2)]
    assert [future.result() for future in futures] == [2, 2]


def test_a_request_that_has_finished_is_not_repeated(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue(QUEUE)
    for session_id in (None, "a"):
        send(broker, "a", "a")
        request_id = f"request for {session_id}"
        assert broker.purge(QUEUE, session_id, request_id).result() == 2
        send(broker, "a")
        assert broker.purge(QUEUE, session_id, request_id).result() == 2
        assert len(broker.peek(QUEUE, "a", 0, 10).result()) == 1
        assert broker.purge(QUEUE, session_id).result() == 1
