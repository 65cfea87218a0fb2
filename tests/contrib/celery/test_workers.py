"""Workers as real processes: with all webhooks, with workers that are killed or told to end, and with several pools."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from .work import make_app
from .workers import KOMBUS, QUEUE, Place, is_free, left, send

pytestmark = pytest.mark.filterwarnings(f"ignore:{KOMBUS}")


@pytest.fixture
def place(tmp_path: Path, azsession_server: AzsessionServer) -> Place:
    # The lock ends some seconds after a kill. A renewal comes in its middle, also on a slow machine.
    azsession_server.create_queue(QUEUE, lock_duration=8)
    return Place(tmp_path, azsession_server)


def test_four_processes_handle_all_webhooks_once_and_in_order_although_one_is_killed(
    place: Place, azsession_provider: ServiceBusProvider, webhooks: list[dict[str, Any]]
) -> None:
    send(azsession_provider, "killed", ["1", "wait", "2"])
    expected: dict[str, list[str]] = defaultdict(list, killed=["1", "wait", "2"])
    for number, webhook in enumerate(webhooks):
        expected[webhook["session_id"]].append(str(number))
    azsession_provider.send_messages(
        QUEUE, [Message(str(number), session_id=webhook["session_id"]) for number, webhook in enumerate(webhooks)]
    )
    with place.worker("--pool", "prefork", "-c", "4") as worker, place.dispatcher("--remember", "1") as dispatcher:
        killed = place.waiting()
        worker.see()
        os.kill(killed, signal.SIGKILL)
        place.go()
        worker.until(lambda: left(azsession_provider) == 0)
        dispatcher.finish()
        worker.finish(complaint="signal 9")
    assert place.done() == expected
    assert len(place.done_by()) > 1
    assert worker.process.pid not in place.done_by()
    assert is_free(azsession_provider)


def test_the_next_worker_handles_the_session_of_a_killed_worker(place: Place, azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "a", ["1", "wait", "2"])
    with place.dispatcher("--remember", "1") as dispatcher:
        with place.worker("--pool", "prefork", "-c", "2") as worker:
            place.waiting()
            worker.kill()
        place.go()
        with place.worker("--pool", "threads", "-c", "2") as worker:
            worker.until(lambda: left(azsession_provider) == 0)
            dispatcher.finish()
            worker.finish()
    assert place.done() == {"a": ["1", "wait", "2"]}
    assert is_free(azsession_provider)


def test_a_worker_that_gets_sigterm_finishes_its_message_and_the_next_worker_handles_the_rest(
    place: Place, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    app = make_app(place.folder, azsession_server.connection_string)
    send(azsession_provider, "a", ["1", "wait", "2", "3"])
    app.tasks["work.handle"].delay("a")
    with place.worker("--pool", "prefork", "-c", "2") as worker:
        place.waiting()
        worker.send(signal.SIGTERM)
        worker.says("(?i)warm shutdown")
        place.go()
        worker.finish()
    assert place.done() == {"a": ["1", "wait"]}
    assert left(azsession_provider) == 2
    assert all(session.locked_until is None for session in azsession_provider.list_sessions(QUEUE))
    with place.worker("--pool", "solo") as worker:
        worker.until(lambda: left(azsession_provider) == 0)
        worker.finish()
    assert place.done() == {"a": ["1", "wait", "2", "3"]}


def test_a_worker_with_greenlets_handles_all_sessions(
    place: Place, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    app = make_app(place.folder, azsession_server.connection_string)
    texts = [str(number) for number in range(25)]  # More than one task handles.
    for session_id in "abcd":
        send(azsession_provider, session_id, texts)
        app.tasks["work.handle"].delay(session_id)
    with place.worker("--pool", "gevent", "-c", "4") as worker:
        worker.until(lambda: left(azsession_provider) == 0)
        worker.finish()
    assert place.done() == dict.fromkeys("abcd", texts)
    assert is_free(azsession_provider)
