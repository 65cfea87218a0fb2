"""Eight processes with four threads each consume real webhooks from a gateway process with a data file.

Each session is in order, and no message is lost or repeated, also when a consumer or the gateway is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pytest

from azsession import Message, ServiceBusProvider

from ..conftest import eventually, whole_lines
from ..support.paths import ROOT
from ..support.ports import free_port
from .consumer_process import PREFETCH, THREADS
from .gateway_process import QUEUE

KEY = "c2VjcmV0IG9mIGEgdGVzdA=="
PROCESSES = 8


@attrs.frozen
class Line:
    """One line of a consumer's report."""

    what: str
    consumer: int
    session_id: str
    position: int
    delivery_count: int


class Child:
    """A test process that ends when its input ends."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def tell_to_end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def has_ended_well(self) -> None:
        assert self.process.stderr is not None
        # If the gateway was killed, a session that could not be released is only a warning.
        errors = [line for line in self.process.stderr if "could not be released" not in line]
        assert (self.process.wait(60), errors) == (0, [])


class Scene:
    """The gateway process with its data file, and the consumers with their common report."""

    def __init__(self, stack: ExitStack, place: Path, lock_duration: float) -> None:
        self._stack = stack
        self._place = place
        self._lock_duration = lock_duration
        self.consumers: list[Child] = []
        self._port = free_port()
        self.connection_string = ""
        self.gateway = self.start_gateway()
        self.provider = stack.enter_context(ServiceBusProvider.from_connection_string(self.connection_string))

    def start_gateway(self) -> Child:
        data = str(self._place / "data.db")
        gateway = Child("tests.server.gateway_process", data, str(self._port), KEY, str(self._lock_duration))
        self.gateway = self._stack.enter_context(gateway)
        assert gateway.process.stdout is not None
        self.connection_string = gateway.process.stdout.readline().strip()
        assert self.connection_string, gateway.process.communicate()
        return gateway

    def start_consumers(self, delay: float = 0.0) -> None:
        for number in range(PROCESSES):
            consumer = Child("tests.server.consumer_process", str(self._place / "report"), str(number), str(delay))
            self.consumers.append(self._stack.enter_context(consumer))
        for consumer in self.consumers:
            assert consumer.process.stdin is not None
            assert consumer.process.stdout is not None
            assert consumer.process.stdout.readline() == "ready\n"
        for consumer in self.consumers:
            assert consumer.process.stdin is not None
            consumer.process.stdin.write(self.connection_string + "\n")
            consumer.process.stdin.flush()

    def report(self, what: str, consumer: int | None = None) -> list[Line]:
        """Return the messages received or completed, by all consumers or by one, in the order of the report."""
        return [line for line in self.report_all() if line.what == what and consumer in (None, line.consumer)]

    def report_all(self) -> list[Line]:
        lines = []
        for text in whole_lines(self._place / "report"):
            kind, name, session_id, position, count = text.split()
            lines.append(Line(kind, int(name), unquote(session_id), int(position), int(count)))
        return lines

    def left(self) -> int:
        """Return how many messages the queue has, dead letters included."""
        queue = self.provider.get_queue(QUEUE)
        assert queue.active_count is not None
        assert queue.dead_letter_count == 0
        return queue.active_count

    def send(self, webhooks: list[dict[str, Any]]) -> None:
        self.provider.send_messages(QUEUE, [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks])

    def end(self, *, but: Child | None = None) -> None:
        """End all consumers and the gateway, and check their exit statuses."""
        rest = [consumer for consumer in self.consumers if consumer is not but]
        for consumer in rest:
            consumer.tell_to_end()
        for consumer in rest:
            consumer.has_ended_well()
        assert self.left() == 0
        self.gateway.tell_to_end()
        self.gateway.has_ended_well()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def expected(webhooks: list[dict[str, Any]]) -> dict[str, list[int]]:
    return by_session((event["session_id"], event["position"]) for event in webhooks)


def by_session(messages: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for session_id, position in messages:
        positions[session_id].append(position)
    return positions


def key(line: Line) -> tuple[str, int]:
    return line.session_id, line.position


@pytest.mark.timeout(120)
def test_webhooks_are_consumed_in_order_and_once(stack: ExitStack, tmp_path: Path, webhooks: list[dict[str, Any]]) -> None:
    scene = Scene(stack, tmp_path, lock_duration=60)
    scene.send(webhooks[:200])
    scene.start_consumers(delay=0.01)
    scene.send(webhooks[200:])
    eventually(lambda: len(scene.report("completed")) == len(webhooks), seconds=60)
    scene.end()
    completed = scene.report("completed")
    assert len(completed) == len(webhooks) == 329
    assert by_session(map(key, completed)) == expected(webhooks)
    assert by_session(map(key, scene.report("received"))) == expected(webhooks)
    assert {line.delivery_count for line in completed} == {1}
    assert len({line.consumer for line in completed}) > 1


@pytest.mark.timeout(120)
def test_killing_a_consumer_loses_no_message(stack: ExitStack, tmp_path: Path, webhooks: list[dict[str, Any]]) -> None:
    # The locks end some seconds after the kill. A renewal comes in the middle of a lock, also on a slow machine.
    scene = Scene(stack, tmp_path, lock_duration=8)
    scene.send(webhooks)
    scene.start_consumers(delay=0.05)
    victim = scene.consumers[0]
    eventually(lambda: len(scene.report("completed", 0)) >= 4, seconds=60)
    victim.kill()
    unsettled = set(map(key, scene.report("received", 0))) - set(map(key, scene.report("completed", 0)))
    eventually(lambda: scene.left() == 0, seconds=60)
    scene.end(but=victim)

    # Only the messages that the killed consumer had received may be completed without a report, or delivered again.
    completed, received = scene.report("completed"), scene.report("received")
    everything = {(event["session_id"], event["position"]) for event in webhooks}
    assert set(map(key, completed)) | unsettled == everything
    assert len(set(map(key, completed))) == len(completed)
    assert {message for message, times in Counter(map(key, received)).items() if times > 1} <= unsettled
    for positions in by_session(map(key, completed)).values():
        assert positions == sorted(positions)
    assert by_session(dict.fromkeys(map(key, received))) == expected(webhooks)


@pytest.mark.timeout(120)
def test_killing_the_gateway_loses_no_message(stack: ExitStack, tmp_path: Path, webhooks: list[dict[str, Any]]) -> None:
    scene = Scene(stack, tmp_path, lock_duration=60)
    scene.send(webhooks)
    scene.start_consumers(delay=0.05)
    eventually(lambda: len(scene.report("completed")) >= 100, seconds=60)
    scene.gateway.kill()
    scene.start_gateway()
    eventually(lambda: scene.left() == 0, seconds=60)
    scene.end()

    # Only received messages may be completed without a confirmation, or delivered again.
    completed, received = scene.report("completed"), scene.report("received")
    everything = {(event["session_id"], event["position"]) for event in webhooks}
    assert set(map(key, received)) == everything
    assert len(set(map(key, completed))) == len(completed)
    again = {message for message, times in Counter(map(key, received)).items() if times > 1}
    unconfirmed = everything - set(map(key, completed))
    assert len(again) <= PROCESSES * THREADS * PREFETCH
    assert len(unconfirmed) <= PROCESSES * THREADS
    confirmed: set[tuple[str, int]] = set()
    for line in scene.report_all():
        if line.what == "completed":
            confirmed.add(key(line))
        elif key(line) in confirmed:
            # A consumer prefetched the message and does not know yet that its lock is lost, so it cannot complete it.
            assert line.delivery_count == 1, line
    assert by_session(dict.fromkeys(map(key, received))) == expected(webhooks)
