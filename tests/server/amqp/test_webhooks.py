"""Real webhooks, sent with Azure's SDK and consumed half with it and half over HTTP, while the server is killed.

Every session is in order, nothing is lost, and nothing that was completed comes again.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusError

from azsession import QueueError, ServiceBusProvider

from ...conftest import eventually
from ...support.ports import free_port
from ...support.processes import Served
from ...support.sdk import sockets_closed

CONSUMERS = 4


@attrs.define
class Report:
    """What the consumers saw: `begun` and `done` have pairs of session id and position, in order."""

    begun: list[tuple[str, int]] = attrs.field(factory=list)
    done: list[tuple[str, int]] = attrs.field(factory=list)
    by: Counter[str] = attrs.field(factory=Counter)
    over: threading.Event = attrs.field(factory=threading.Event)


def with_the_sdk(connection_string: str, report: Report) -> None:
    """Complete the messages of one session after the other."""
    client = ServiceBusClient.from_connection_string(connection_string, retry_total=0, keep_alive=None)
    with client, client.get_queue_receiver("hooks", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1) as receiver:
        session_id = receiver.session.session_id
        while not report.over.is_set() and (messages := receiver.receive_messages(3, max_wait_time=0.5)):
            for message in messages:
                key = (session_id, json.loads(str(message))["position"])
                report.begun.append(key)
                receiver.complete_message(message)
                report.done.append(key)
                report.by["sdk"] += 1


def over_http(provider: ServiceBusProvider, report: Report) -> None:
    """Complete the messages of one session after the other."""
    with provider.create_session_client("hooks", accept_timeout=1) as session:
        for message in session.messages(timeout=0.5):
            data: Any = message.json()
            key = (session.session_id, data["position"])
            report.begun.append(key)
            session.complete_message(message)
            report.done.append(key)
            report.by["http"] += 1
            if report.over.is_set():
                return


def repeat(consume: Callable[[], None], report: Report) -> None:
    """Consume until the report is over. Errors are expected: the server is killed."""
    while not report.over.wait(0.02):
        with suppress(ServiceBusError, QueueError, OSError, ValueError):
            consume()


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "killed"])
def test_webhooks_are_consumed_over_both_protocols(tmp_path: Path, webhooks: list[dict[str, Any]], is_killed: bool) -> None:
    http, amqp = free_port(), free_port()
    options = ("--data", tmp_path / "data.db", "--queue", "hooks", "--amqp-port", str(amqp), "--json")
    report = Report()
    with sockets_closed():
        served = Served(*options, "--port", str(http))
        strings = json.loads(served.line)
        client = ServiceBusClient.from_connection_string(strings["amqp_connection_string"], retry_total=0, keep_alive=None)
        with client, client.get_queue_sender("hooks") as sender:
            for position, hook in enumerate(webhooks):
                body = json.dumps({"position": position, "payload": hook["payload"]})
                sender.send_messages(ServiceBusMessage(body, session_id=hook["session_id"]))
        provider = ServiceBusProvider.from_connection_string(strings["connection_string"], retry_attempts=0)
        consumers: list[Callable[[], None]] = [lambda: over_http(provider, report)] * CONSUMERS
        consumers += [lambda: with_the_sdk(strings["amqp_connection_string"], report)] * CONSUMERS
        threads = [threading.Thread(target=repeat, args=(consume, report)) for consume in consumers]
        for thread in threads:
            thread.start()
        try:
            if is_killed:
                eventually(lambda: len(report.done) > len(webhooks) // 3, seconds=60)
                served.process.send_signal(signal.SIGKILL)
                served.wait()
                served = Served(*options, "--port", str(http))
            eventually(lambda: _left(strings["connection_string"]) == 0, seconds=60)
        finally:
            report.over.set()
            for thread in threads:
                thread.join()
            provider.close()
            served.end()
    _check(report, webhooks, is_killed)


def _left(connection_string: str) -> int | None:
    time.sleep(0.2)
    try:
        with ServiceBusProvider.from_connection_string(connection_string, retry_attempts=0) as provider:
            return provider.get_queue("hooks").active_count
    except QueueError:
        return None


def _check(report: Report, webhooks: list[dict[str, Any]], is_killed: bool) -> None:
    sent: dict[str, list[int]] = defaultdict(list)
    for position, hook in enumerate(webhooks):
        sent[hook["session_id"]].append(position)
    begun: dict[str, list[int]] = defaultdict(list)
    for session_id, position in report.begun:
        if position not in begun[session_id]:
            begun[session_id].append(position)
    assert begun == sent
    assert max(Counter(report.done).values()) == 1
    # The answers that were lost with the server: one for each consumer at most.
    assert len(webhooks) - len(report.done) <= (2 * CONSUMERS if is_killed else 0)
    assert report.by["sdk"]
    assert report.by["http"]
