"""Runs the demo: starts a gateway, sends the messages, and receives them over HTTP with worker threads."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future

import attrs
import requests
from requests.adapters import HTTPAdapter

from ...broker.calls import BLOCKING, CallContext
from ...broker.embedded import EmbeddedBroker
from ...client.provider import ServiceBusProvider
from ...client.session import SessionClient
from ...config import ServiceBusConfig
from ...errors import NoSessionAvailableError, QueueError
from ...messages import Message, ReceivedMessage
from ...queues import QueueSettings
from ...server import AccessKey, GatewayService
from ...server.dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE
from ...validation import MAX_BATCH
from .data import Roles, Sent
from .verdict import REASON, Leftover, ObservedDelivery, Record

QUEUE = "demo"
#: Duration of a session's lock in seconds, and the longer time that the slow message takes. Renewals keep its lock.
LOCK_DURATION = 5.0
SLOW = 5.5
#: Seconds that each other message takes at most, and that all of them take together, roughly.
PACE = 0.08
DURATION = 3.5
#: Number of messages sent in one request.
CHUNK = 50
#: Seconds without progress after which the demo gives up.
PATIENCE = 20.0


class _CountingBroker(EmbeddedBroker):
    """An embedded broker that counts the lock renewals of each session."""

    def __init__(self) -> None:
        super().__init__()
        self._counting = threading.Lock()  # Guards renewals.
        self.renewals: Counter[str] = Counter()

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = BLOCKING) -> Future[float]:
        future = super().renew(entity, session_id, lock_id, context=context)
        future.add_done_callback(lambda done: self._count(session_id, done))
        return future

    def _count(self, session_id: str, done: Future[float]) -> None:
        if not done.cancelled() and done.exception() is None:
            with self._counting:
                self.renewals[session_id] += 1


@attrs.frozen
class CurrentWork:
    """The current work of a worker: its session, the place of its message, and since when it handles the message."""

    session_id: str
    place: int
    since: float


class Run:
    """One run of the demo. `run` blocks until all messages are settled. The other members show the progress.

    Args:
        sent: The messages to send.
        roles: The messages that are handled in a special way.
        workers: Number of threads that receive messages.
    """

    def __init__(self, sent: Sequence[Sent], roles: Roles, workers: int) -> None:
        self.sent = sent
        self.roles = roles
        self.current_work: list[CurrentWork | None] = [None] * workers
        self._places = {message.message_id: message.place for message in sent}
        self._pace = min(PACE, DURATION * workers / len(sent))
        self._broker = _CountingBroker()
        self._over = threading.Event()
        self._news = threading.Event()
        self._lock = threading.Lock()  # Guards all fields below.
        self._deliveries: list[ObservedDelivery] = []
        self._errors: list[str] = []
        self._held: set[str] = set()
        self._settled: set[str] = set()

    @property
    def settled(self) -> int:
        """Number of messages that are completed or dead-lettered."""
        return len(self._settled)

    def renewals(self, session_id: str) -> int:
        """Return the number of lock renewals of a session."""
        return self._broker.renewals[session_id]

    def run(self) -> Record:
        """Send all messages, receive them, and return the record.

        Raises:
            QueueError: The gateway cannot be started or does not accept the messages.
        """
        began = time.monotonic()
        workers = len(self.current_work)
        with self._gateway() as service, _http(workers) as http:
            config = ServiceBusConfig(connection_string=service.connection_string())
            with ServiceBusProvider(config, http=http) as provider:
                provider.create_queue(QUEUE, QueueSettings(lock_duration=LOCK_DURATION))
                threads = [
                    threading.Thread(target=self._run_worker, args=(provider, number), name=f"demo-worker-{number + 1}")
                    for number in range(workers)
                ]
                try:
                    for thread in threads:
                        thread.start()
                    for start in range(0, len(self.sent), CHUNK):
                        provider.send_messages(QUEUE, [_message(message) for message in self.sent[start : start + CHUNK]])
                    self._wait(threads)
                finally:
                    self._over.set()
                    for thread in threads:
                        thread.join()
                leftover = _leftover(provider)
        return Record(self._deliveries, dict(self._broker.renewals), leftover, self._errors, time.monotonic() - began)

    def _gateway(self) -> GatewayService:
        largest = max(len(message.body) for message in self.sent)
        return GatewayService(
            self._broker,
            [AccessKey.generate()],
            max_waiting=2 * len(self.current_work),
            max_message_size=max(MAX_MESSAGE_SIZE, largest),
            # In a request, a body is encoded in base64 and has properties beside it.
            max_body_size=max(MAX_BODY_SIZE, largest * 2),
        )

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        latest = time.monotonic()
        while not self._over.wait(0.1) and any(thread.is_alive() for thread in threads):
            if self._news.is_set():
                self._news.clear()
                latest = time.monotonic()
            elif time.monotonic() - latest > PATIENCE:
                self._note_error(f"the demo gave up after {PATIENCE:g} s without progress")
                return

    def _run_worker(self, provider: ServiceBusProvider, number: int) -> None:
        while not self._over.is_set():
            self._take_session(provider, number)
            self.current_work[number] = None

    def _take_session(self, provider: ServiceBusProvider, number: int) -> None:
        try:
            with provider.create_session_client(QUEUE, accept_timeout=0.25) as session:
                self._handle_session(session, number)
        except NoSessionAvailableError:
            return
        except QueueError as error:
            self._note_error(f"{type(error).__name__}: {error}")
            self._over.wait(0.1)

    def _handle_session(self, session: SessionClient, number: int) -> None:
        """Handle the messages of a session until it is empty or a message fails. The caller releases the session."""
        with self._lock:
            if session.session_id in self._held:
                self._errors.append(f"{session.session_id} was held by two workers at once")
            self._held.add(session.session_id)
        try:
            for message in session.messages(timeout=0):
                place = self._places.get(message.message_id or "", 0)
                self.current_work[number] = CurrentWork(session.session_id, place, time.monotonic())
                if self._handle(session, message) == "abandoned" or self._over.is_set():
                    return
        finally:
            with self._lock:
                self._held.discard(session.session_id)

    def _handle(self, session: SessionClient, message: ReceivedMessage) -> str:
        delivery = ObservedDelivery(session.session_id, message.message_id, message.body, message.delivery_count)
        with self._lock:
            self._deliveries.append(delivery)
        self._news.set()
        slow = message.message_id == self.roles.slow
        self._over.wait(SLOW if slow else self._pace * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        if message.message_id == self.roles.failing and message.delivery_count == 1:
            session.abandon_message(message)
            outcome = "abandoned"
        elif message.message_id == self.roles.refused:
            session.dead_letter_message(message, REASON, "azsession demo dead-letters one message as an example")
            outcome = "dead-lettered"
        else:
            session.complete_message(message)
            outcome = "completed"
        delivery.outcome = outcome
        self._news.set()
        if outcome != "abandoned":
            with self._lock:
                self._settled.add(message.message_id or "")
                if len(self._settled) == len(self.sent):
                    self._over.set()
        return outcome

    def _note_error(self, error: str) -> None:
        with self._lock:
            if error not in self._errors:
                self._errors.append(error)


def _http(workers: int) -> requests.Session:
    """Return an HTTP session with a connection for each thread and without proxies, because the gateway is local."""
    http = requests.Session()
    http.trust_env = False
    http.mount("http://", HTTPAdapter(pool_maxsize=2 * workers + 8))
    return http


def _message(sent: Sent) -> Message:
    return Message(sent.body, session_id=sent.session_id, message_id=sent.message_id, content_type="application/json")


def _leftover(provider: ServiceBusProvider) -> Leftover:
    info = provider.get_queue(QUEUE)
    with_messages = [session for session in provider.list_sessions(QUEUE) if session.message_count]
    dead = provider.dead_letters(QUEUE, MAX_BATCH)
    return Leftover(info.active_count or 0, len(with_messages), dead)
