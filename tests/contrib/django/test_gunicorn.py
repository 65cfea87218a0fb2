"""The example in three gunicorn workers that are forked from one process, with `azsession serve` as the broker."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import requests

from azsession import Message, ServiceBusProvider

from ...conftest import eventually
from ...support.processes import Served
from ..gunicorn_log import ACCESS, assert_workers_settle_for_each_other, complaints
from .projects import EXAMPLE, gunicorn, manage, start, surroundings

PEOPLE = 16


class People:
    """Clients that get the messages of a session in one request and settle each in another request, on a new connection.

    Attributes:
        done: The settled positions, by session, in the order in which they were settled.
    """

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._lock = threading.Lock()  # Guards _count and done.
        self._count = count
        self.done: dict[str, list[int]] = defaultdict(list)
        self._ended = threading.Event()

    def work(self) -> None:
        """Work until all messages are settled, or one client fails."""
        with ThreadPoolExecutor(PEOPLE) as pool:
            working = [pool.submit(self._work, name) for name in range(PEOPLE)]
            wait(working, timeout=90, return_when=FIRST_EXCEPTION)
            self._ended.set()
        for each in working:
            each.result()

    def _work(self, name: int) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            tag = f"?{name}.{number}"
            taken = requests.post(f"{self._url}/take/webhooks/{tag}", timeout=30)
            if taken.status_code == 204:
                continue
            assert taken.status_code == 200, taken.text
            session = taken.json()
            for message in session["messages"]:
                settled = requests.post(f"{self._url}/settle/{tag}", {"receipt": message["receipt"]}, timeout=30)
                assert settled.status_code == 204, settled.text
                with self._lock:
                    self.done[session["session"]].append(json.loads(message["body"])["position"])
                    self._count -= 1
                    if self._count == 0:
                        self._ended.set()


@pytest.mark.timeout(120)
def test_any_worker_can_settle_a_message_that_another_worker_received(tmp_path: Path, webhooks: list[dict[str, Any]]) -> None:
    expected: dict[str, list[int]] = defaultdict(list)
    for event in webhooks:
        expected[event["session_id"]].append(event["position"])
    with Served("--memory", "--queue", "webhooks") as served:
        with ServiceBusProvider.from_connection_string(served.line) as provider:
            provider.send_messages(
                "webhooks", [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks]
            )
            environ = surroundings(served.line, tmp_path / "shop.sqlite3")
            with gunicorn(environ, tmp_path, *ACCESS) as server:
                url = server.says(r"Listening at: (\S+)")[1]
                server.says(r"(?s)(Booting worker.*){3}")
                people = People(url, len(webhooks))
                people.work()
                assert len(server.see()) == 3
                assert server.end() == 0
                log = server.err
            assert people.done == expected
            assert provider.list_sessions("webhooks") == []
            assert provider.dead_letters("webhooks") == []
            for session_id in expected:
                # Raises SessionLockedError if a worker still holds the session.
                with provider.create_session_client("webhooks", session_id) as session:
                    assert session.receive_message(timeout=0) is None
        assert served.end()[0] == 0
    assert complaints(log) == []
    assert_workers_settle_for_each_other(server.out, "/take")


@pytest.mark.timeout(120)
def test_the_command_handles_the_steps_of_each_order_in_order(tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite3"
    with Served("--memory", "--queue", "orders") as served:
        environ = surroundings(served.line, database)
        manage("migrate", "--verbosity", "0", environ=environ)
        consume = [str(EXAMPLE / "manage.py"), "azsession_consume", "orders", "shop.handlers.handle"]
        with gunicorn(environ, tmp_path) as server, start(consume, environ, tmp_path) as consumer:
            url = server.says(r"Listening at: (\S+)")[1]
            with ThreadPoolExecutor(8) as pool:
                answers = list(
                    pool.map(lambda n: requests.post(f"{url}/place/", {"item": f"tea {n}"}, timeout=60), range(24))
                )
            assert {answer.status_code for answer in answers} == {201}
            read = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
            shipped = "SELECT count(*) FROM shop_order WHERE status = 'shipped'"

            def is_over() -> bool:
                return read.execute(shipped).fetchone() == (24,) or consumer.process.poll() is not None

            eventually(is_over, lambda: f"{read.execute(shipped).fetchone()} {consumer.err} {server.err}", seconds=60)
            assert consumer.process.poll() is None, consumer.err
            steps: dict[int, list[str]] = defaultdict(list)
            for order, what in read.execute("SELECT order_id, what FROM shop_step ORDER BY id"):
                steps[order].append(what)
            read.close()
            assert (consumer.end(), server.end()) == (0, 0)
            assert complaints(server.err) == []
            assert consumer.err.splitlines() == ["consuming orders; Ctrl-C ends it"]
            assert "orders: 72 messages of" in consumer.out
        assert served.end()[0] == 0
    assert sorted(steps) == sorted(answer.json()["order"] for answer in answers)
    assert set(map(tuple, steps.values())) == {("paid", "packed", "shipped")}
