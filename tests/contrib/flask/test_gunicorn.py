"""The example in three gunicorn workers that are forked from one process, with `azsession serve` as the broker."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from azsession import Message, QueueSettings, ServiceBusProvider

from ...support.paths import ROOT
from ...support.processes import FORKS_IGNORED, Served, environment
from ..gunicorn_log import ACCESS, assert_workers_settle_for_each_other, complaints
from ..running import Running

CLIENTS = 12
EXAMPLES = ROOT / "examples"


class Worker:
    """Gets messages in one request and settles each in another request, on a new connection.

    Attributes:
        done: The positions of the settled webhooks, by session, each with the time before it was settled.
        settled: Released for each settled webhook.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.done: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self.settled = threading.Semaphore(0)

    def work(self, name: int, enough: threading.Event) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            tag = f"?{name}.{number}"
            given = requests.post(f"{self._url}/work{tag}", timeout=30)
            if given.status_code == 204:
                continue
            assert given.status_code == 200, given.text
            work = given.json()
            for each in work["messages"]:
                began = time.monotonic()
                answer = requests.post(f"{self._url}/done{tag}", json={"receipt": each["receipt"]}, timeout=30)
                if answer.status_code == 410:
                    # The lock expired because this machine is slow. The rest is redelivered.
                    break
                assert answer.status_code == 204, answer.text
                self.done[work["session"]].append((began, each["payload"]["position"]))
                self.settled.release()


def test_any_worker_can_settle_a_message_that_another_worker_received(tmp_path: Path, webhooks: list[dict[str, Any]]) -> None:
    expected: dict[str, list[int]] = defaultdict(list)
    for event in webhooks:
        expected[event["session_id"]].append(event["position"])
    messages = [Message(json.dumps(event), session_id=event["session_id"], subject=event["event"]) for event in webhooks]
    with Served("--memory", "--auto-create") as broker, ServiceBusProvider.from_connection_string(broker.line) as provider:
        # One request gets ten messages. The rest of a session is handed out after its lock has expired.
        provider.create_queue("webhooks", QueueSettings(lock_duration=2, max_delivery_count=100))
        provider.send_messages("webhooks", messages)
        environ = environment(broker.line, PYTHONPATH=f"{ROOT}:{EXAMPLES}", PYTHONWARNINGS=f"default,{FORKS_IGNORED}")
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--preload",
            "--workers",
            "3",
            "--threads",
            "8",
            "--bind",
            "127.0.0.1:0",
            *ACCESS,
        ]
        with Running([*command, "tests.contrib.flask.served:app"], environ, tmp_path, cwd=ROOT) as server:
            worker, enough = Worker(server.says(r"Listening at: (\S+)")[1]), threading.Event()
            with ThreadPoolExecutor(CLIENTS) as pool:
                working = [pool.submit(worker.work, name, enough) for name in range(CLIENTS)]
                deadline = time.monotonic() + 80
                all_done = all(worker.settled.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in webhooks)
                enough.set()
            for each in working:
                each.result()
            assert all_done
            assert len(server.see()) == 3
            assert server.end() == 0
        assert {name: [place for _, place in sorted(places)] for name, places in worker.done.items()} == expected
        assert provider.list_sessions("webhooks") == []
        assert provider.dead_letters("webhooks") == []
        for queue, session_id in [("kept", "kept"), *(("webhooks", session_id) for session_id in expected)]:
            # Raises SessionLockedError if a worker or the parent still holds the session.
            with provider.create_session_client(queue, session_id) as session:
                assert len(session.receive_messages(10, timeout=0)) == (1 if queue == "kept" else 0)
    assert complaints(server.err) == []
    assert_workers_settle_for_each_other(server.out, "/work")
