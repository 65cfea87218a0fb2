"""Real webhooks: sixteen threads receive them session by session while links are detached and connections are dropped.

No message is lost, each session is in order, and only messages whose lock was lost are redelivered. In process and over HTTP.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import attrs
import pytest

from azsession import Message, ServiceBusConfig, ServiceBusProvider
from azsession.broker.azure import AzureBroker
from azsession.errors import (
    ConnectionFailedError,
    InvalidReceiptError,
    NoSessionAvailableError,
    QueueError,
    SessionLockedError,
    SessionNotFoundError,
)
from azsession.server import AccessKey, GatewayService

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import namespace_on

QUEUE = "webhooks"
CONSUMERS = 16
PREFETCH = 3
#: Seconds for which a consumer works on a message.
WORK = 0.01
#: How often clients retry: faults are more frequent here than anywhere else.
PATIENCE: dict[str, Any] = {"retry_attempts": 100, "retry_deadline": 60.0}

Key = tuple[str, int]


@contextmanager
def in_process(namespace: Namespace) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(namespace.connection_string, **PATIENCE) as provider:
        yield provider


@contextmanager
def over_http(namespace: Namespace) -> Iterator[ServiceBusProvider]:
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), None)
    with (
        GatewayService(broker, [AccessKey.generate()], max_waiting=64) as service,
        ServiceBusProvider.from_connection_string(service.connection_string(), **PATIENCE) as provider,
    ):
        yield provider


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture(params=[in_process, over_http], ids=["in-process", "over-HTTP"])
def provider(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[ServiceBusProvider]:
    with request.param(namespace) as provider:
        yield provider


@attrs.frozen
class Event:
    """An event of a message in a consumer: it was received, completed, or its lock was lost."""

    kind: str
    key: Key
    delivery_count: int
    why: str = ""


class Scene:
    """Consumers, and a thread that causes faults."""

    def __init__(self, namespace: Namespace, provider: ServiceBusProvider, stack: ExitStack) -> None:
        self.namespace = namespace
        self.provider = provider
        self.report: list[Event] = []
        self.errors: list[BaseException] = []
        self.faults = 0
        self.expired: set[str] = set()
        self._ended = threading.Event()
        self._calm = threading.Event()
        self._stack = stack
        seed = int(os.environ.get("AZSESSION_FAULT_SEED") or random.SystemRandom().randrange(2**32))
        print(f"AZSESSION_FAULT_SEED={seed}")
        self._random = random.Random(seed)

    def start(self, run: Callable[[], None]) -> threading.Thread:
        """Run `run` in a thread that is joined at the end."""

        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._stack.callback(thread.join, 20)
        return thread

    def start_consumers(self) -> None:
        self._stack.callback(self._ended.set)
        for _ in range(CONSUMERS):
            self.start(self._consume)

    def _consume(self) -> None:
        while not self._ended.is_set():
            mine: dict[Key, int] = {}
            try:
                with self.provider.create_session_client(QUEUE, accept_timeout=0.5) as session:
                    for message in session.messages(timeout=0, prefetch=PREFETCH):
                        key = key_of(message.message_id)
                        mine[key] = message.delivery_count
                        self.report.append(Event("received", key, message.delivery_count))
                        self._ended.wait(WORK)
                        session.complete_message(message)
                        del mine[key]
                        self.report.append(Event("completed", key, message.delivery_count))
            except NoSessionAvailableError:
                continue
            except (SessionNotFoundError, SessionLockedError, InvalidReceiptError) as error:
                for key, count in mine.items():
                    self.report.append(Event("lost", key, count, f"{error!r} {error.__cause__!r}"))
            except QueueError as error:
                # The receive or the accept ended before there was a connection again.
                if mine or not error.is_transient:
                    raise

    def start_faults(self) -> None:
        self._stack.callback(self._calm.set)
        self.start(self._cause_faults)

    def _cause_faults(self) -> None:
        choose = self._random
        while not self._calm.wait(choose.uniform(0.005, 0.05)):
            before = len(self.namespace.completed(QUEUE))
            fault = choose.choices(["session", "expire", "links", "drop", "close"], [6, 1, 2, 1, 1])[0]
            if fault in ("session", "expire"):
                locked = sorted(self.namespace.locked_sessions(QUEUE))
                if locked:
                    self._cause_fault_in_session(fault, choose.choice(locked))
            elif fault == "links":
                self.faults += self.namespace.detach_links(QUEUE)
            else:
                self.faults += self.namespace.drop_connections(polite=fault == "close")
            # On a busy machine, a connection that lives for a short time only would never be of use.
            while len(self.namespace.completed(QUEUE)) == before and not self._calm.wait(0.005):
                pass

    def _cause_fault_in_session(self, fault: str, session_id: str) -> None:
        if fault == "session":
            self.faults += self.namespace.detach_links(QUEUE, session_id)
            return
        self.expired.add(session_id)
        with suppress(KeyError):  # The session was released a moment ago.
            self.namespace.expire_session_lock(QUEUE, session_id)

    def wait_for(self, count: Callable[[], int]) -> None:
        """Return when `count` messages are completed."""
        eventually(
            lambda: self.errors or len(self.namespace.completed(QUEUE)) >= count(),
            lambda: f"{len(self.namespace.completed(QUEUE))} of {count()}, {self.namespace.counts(QUEUE)}",
            60,
        )
        self._calm.set()
        self._ended.set()
        self._stack.close()
        if self.errors:
            raise self.errors[0]

    def check(self) -> None:
        """Check that no message was lost, that each session was in order, and why messages were redelivered."""
        accepted = [key_of(message_id) for _, _, message_id in self.namespace.accepted(QUEUE)]
        done = [key_of(message_id) for _, _, message_id in self.namespace.completed(QUEUE)]
        assert Counter(done) == Counter(accepted)
        assert by_session(done) == by_session(accepted)
        counts = self.namespace.counts(QUEUE)
        assert (counts.active, counts.dead_letter, counts.locked) == (0, 0, 0)

        received = [event.key for event in self.report if event.kind == "received"]
        lost = {event.key for event in self.report if event.kind == "lost"}
        again = {key for key, times in Counter(received).items() if times > 1}
        assert again <= lost
        # No other client takes sessions here: a lock that did not expire is taken again, unnoticed by its holder.
        assert not [event for event in self.report if event.kind == "lost" and event.key[0] not in self.expired]
        assert by_session(dict.fromkeys(received)) == by_session(accepted)
        assert {event.delivery_count for event in self.report if event.key[0] not in self.expired} == {1}
        confirmed = Counter(event.key for event in self.report if event.kind == "completed")
        assert max(confirmed.values()) == 1
        print(f"{self.faults} faults, {len(lost)} locks lost, {len(again)} messages came again")


def message_of(event: dict[str, Any]) -> Message:
    return Message("{}", session_id=event["session_id"], message_id=f"{event['position']} {event['session_id']}")


def key_of(message_id: str | None) -> Key:
    position, _, session_id = (message_id or "").partition(" ")
    return session_id, int(position)


def by_session(keys: Iterable[Key]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for session_id, position in keys:
        positions[session_id].append(position)
    return positions


@pytest.fixture
def scene(namespace: Namespace, provider: ServiceBusProvider) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(namespace, provider, stack)


def test_webhooks_are_received_once_and_in_order_while_links_are_lost(scene: Scene, webhooks: list[dict[str, Any]]) -> None:
    assert len(webhooks) == 329
    assert len({event["session_id"] for event in webhooks}) == 70
    scene.provider.send_messages(QUEUE, [message_of(event) for event in webhooks])
    scene.start_consumers()
    scene.start_faults()
    scene.wait_for(lambda: len(webhooks))
    scene.check()
    assert len(scene.namespace.completed(QUEUE)) == 329
    assert scene.faults > 10


def test_webhooks_that_are_sent_while_links_are_lost_are_accepted_once_or_uncertain(
    scene: Scene, webhooks: list[dict[str, Any]]
) -> None:
    sure: list[Key] = []
    uncertain: list[Key] = []
    unsent: list[Key] = []
    scene.start_consumers()
    scene.start_faults()
    for event in webhooks:
        key = event["session_id"], event["position"]
        try:
            scene.provider.send_message(QUEUE, message_of(event))
        except ConnectionFailedError as error:
            (uncertain if error.maybe_delivered else unsent).append(key)
        else:
            sure.append(key)
    accepted = [key_of(message_id) for _, _, message_id in scene.namespace.accepted(QUEUE)]
    assert not unsent
    assert set(sure) <= set(accepted) <= {*sure, *uncertain}
    assert max(Counter(accepted).values()) == 1
    for positions in by_session(accepted).values():
        assert positions == sorted(positions)
    scene.wait_for(lambda: len(accepted))
    scene.check()
    print(f"{len(uncertain)} of {len(webhooks)} messages were uncertain")
