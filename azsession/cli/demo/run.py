"""What `azsession demo` does: the workers that take its messages over HTTP, and the verdict on what they saw.

Used by `demo`, which shows it. The verdict is a function of what was sent and what was seen, and knows nothing of how.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs
import requests
from requests.adapters import HTTPAdapter

from ...broker.base import NO_DEADLINE, CallContext
from ...broker.embedded import EmbeddedBroker
from ...client.provider import ServiceBusProvider
from ...client.session import SessionClient
from ...config import ServiceBusConfig
from ...errors import NoSessionAvailableError, QueueError
from ...messages import Message, PeekedMessage, ReceivedMessage
from ...queues import QueueSettings
from ...server import AccessKey, GatewayService
from ...server.dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE
from ...validation import MAX_BATCH
from .data import Roles, Sent, by_session

QUEUE = "demo"
#: Seconds that a session's lock lasts, and for which one message is handled: that session lives on renewal.
LOCK_DURATION = 2.0
SLOW = 4.5
#: Seconds that any other message is handled at the most, and that all of them shall take about.
PACE = 0.08
DURATION = 3.5
#: The reason with which one message is dead-lettered.
REASON = "Refused"
#: Messages sent in one request.
CHUNK = 50
#: Seconds without any news after which the demo gives up.
PATIENCE = 20.0


# What was seen


@attrs.define
class Delivery:
    """One delivery, as its worker saw it; `outcome` is set once the server has confirmed it."""

    session_id: str
    message_id: str | None
    body: bytes = attrs.field(repr=False)
    delivery_count: int
    outcome: str | None = None


@attrs.frozen
class Left:
    """What the broker says that it has when all is over."""

    active: int
    listed: int
    dead: Sequence[PeekedMessage] = ()


@attrs.frozen
class Seen:
    """All that was seen: deliveries in their order, renewals by session, what is left, what went wrong underway."""

    deliveries: Sequence[Delivery]
    renewals: Mapping[str, int]
    left: Left
    errors: Sequence[str] = ()
    seconds: float = 0.0


@attrs.frozen
class Fault:
    """Something that must not happen; its kind is ``"lost"``, ``"doubled"``, ``"out of order"`` or ``"other"``."""

    kind: str
    text: str
    session_id: str | None = None


def judge(sent: Sequence[Sent], roles: Roles, seen: Seen) -> list[Fault]:
    """Return what is wrong with what was seen; nothing if every session was in order and nothing lost or doubled."""
    faults = [Fault("other", error) for error in seen.errors]
    known = {message.message_id: message for message in sent}
    per_session: dict[str, list[Delivery]] = {session_id: [] for session_id in by_session(sent)}
    for delivery in seen.deliveries:
        message = known.get(delivery.message_id or "")
        if message is None:
            faults.append(Fault("other", "a message came that was never sent", delivery.session_id))
        elif message.session_id != delivery.session_id:
            faults.append(Fault("other", f"a message of {message.session_id} came in it", delivery.session_id))
        else:
            per_session[message.session_id].append(delivery)
            if delivery.body != message.body:
                faults.append(Fault("other", f"#{message.place} came with another body", message.session_id))
    for session_id, messages in by_session(sent).items():
        faults += [Fault(kind, text, session_id) for kind, text in _judge_session(messages, roles, per_session[session_id])]
    slow = known.get(roles.slow or "")
    if slow is not None and not seen.renewals.get(slow.session_id):
        faults.append(Fault("other", "it was held for longer than its lock lasts without a renewal", slow.session_id))
    return [*faults, *_judge_left(sent, roles, seen.left)]


def _judge_session(messages: Sequence[Sent], roles: Roles, deliveries: Sequence[Delivery]) -> Iterable[tuple[str, str]]:
    places = {message.message_id: message.place for message in messages}
    expected: list[tuple[int, int, str]] = []
    for message in messages:
        if message.message_id == roles.failing:
            expected.append((message.place, 1, "abandoned"))
        count = 2 if message.message_id == roles.failing else 1
        expected.append((message.place, count, "dead-lettered" if message.message_id == roles.refused else "completed"))
    came = [places[delivery.message_id or ""] for delivery in deliveries]
    missing = Counter(place for place, _, _ in expected)
    missing.subtract(came)
    lost = [place for place, count in missing.items() if count > 0]
    doubled = [place for place, count in missing.items() if count < 0]
    if lost:
        yield "lost", f"{compact(lost)} did not come as often as it had to"
    if doubled:
        yield "doubled", f"{compact(sorted(doubled))} came too often"
    if came != sorted(came):
        yield "out of order", f"its messages came as {compact(came)}"
    if came == [place for place, _, _ in expected]:
        for delivery, (place, number, outcome) in zip(deliveries, expected, strict=True):
            if delivery.outcome != outcome:
                yield "other", f"#{place} was to be {outcome}, and was {delivery.outcome or 'not settled'}"
            if delivery.delivery_count != number:
                yield "other", f"delivery {number} of #{place} came as number {delivery.delivery_count}"


def _judge_left(sent: Sequence[Sent], roles: Roles, left: Left) -> Iterable[Fault]:
    if left.active or left.listed:
        yield Fault("other", f"the broker still has {left.active} active messages in {left.listed} sessions")
    refused = [message for message in sent if message.message_id == roles.refused]
    expected = [(message.session_id, message.message_id, message.body, REASON) for message in refused]
    dead = [(message.session_id, message.message_id, message.body, message.dead_letter_reason) for message in left.dead]
    if dead != expected:
        yield Fault("other", f"the broker has {len(dead)} dead letters that are not the {len(expected)} expected")


def compact(numbers: Sequence[int], limit: int = 12) -> str:
    """Return numbers as runs, such as ``1-4, 4-9``; beyond `limit` runs, how many more there are."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more runs" if len(texts) > limit else "")


# The run


class _CountingBroker(EmbeddedBroker):
    """The embedded broker, and how often it renewed each session's lock: counted where it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._counting = threading.Lock()  # Guards renewals.
        self.renewals: Counter[str] = Counter()

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> float:
        left = super().renew(entity, session_id, lock_id, context=context)
        with self._counting:
            self.renewals[session_id] += 1
        return left


@attrs.frozen
class AtWork:
    """What a worker does now: the session that it holds, and the place of the message in its hands."""

    session_id: str
    place: int
    since: float


class Run:
    """One run of the demo: `run` blocks until all is settled; the rest is for whoever watches meanwhile.

    Args:
        sent: What to send.
        roles: Which of it is special.
        workers: How many threads take sessions.
    """

    def __init__(self, sent: Sequence[Sent], roles: Roles, workers: int) -> None:
        self.sent = sent
        self.roles = roles
        self.at_work: list[AtWork | None] = [None] * workers
        self._places = {message.message_id: message.place for message in sent}
        self._pace = min(PACE, DURATION * workers / len(sent))
        self._broker = _CountingBroker()
        self._over = threading.Event()
        self._news = threading.Event()
        self._lock = threading.Lock()  # Guards the following.
        self._deliveries: list[Delivery] = []
        self._errors: list[str] = []
        self._held: set[str] = set()
        self._settled: set[str] = set()

    @property
    def settled(self) -> int:
        """How many messages are completed or dead-lettered."""
        return len(self._settled)

    def renewals(self, session_id: str) -> int:
        """Return how often the session's lock was renewed."""
        return self._broker.renewals[session_id]

    def run(self) -> Seen:
        """Send everything, take everything, and return what was seen.

        Raises:
            QueueError: The gateway could not be started, or did not accept the messages.
        """
        began = time.monotonic()
        workers = len(self.at_work)
        largest = max(len(message.body) for message in self.sent)
        service = GatewayService(
            self._broker,
            [AccessKey.generate()],
            max_waiting=2 * workers,
            max_message_size=max(MAX_MESSAGE_SIZE, largest),
            # A body is in base64, with properties beside it.
            max_body_size=max(MAX_BODY_SIZE, largest * 2),
        )
        with service, _http(workers) as http:
            config = ServiceBusConfig(connection_string=service.connection_string())
            with ServiceBusProvider(config, http=http) as provider:
                provider.create_queue(QUEUE, QueueSettings(lock_duration=LOCK_DURATION))
                threads = [
                    threading.Thread(target=self._work, args=(provider, number), name=f"demo-worker-{number + 1}")
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
                left = _look(provider)
        return Seen(self._deliveries, dict(self._broker.renewals), left, self._errors, time.monotonic() - began)

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        latest = time.monotonic()
        while not self._over.wait(0.1) and any(thread.is_alive() for thread in threads):
            if self._news.is_set():
                self._news.clear()
                latest = time.monotonic()
            elif time.monotonic() - latest > PATIENCE:
                self._note_error(f"nothing happened for {PATIENCE:g} s, so the demo gave up")
                return

    def _work(self, provider: ServiceBusProvider, number: int) -> None:
        while not self._over.is_set():
            self._take_session(provider, number)
            self.at_work[number] = None

    def _take_session(self, provider: ServiceBusProvider, number: int) -> None:
        try:
            with provider.create_session_client(QUEUE, accept_timeout=0.25) as session:
                self._hold(session, number)
        except NoSessionAvailableError:
            return
        except QueueError as error:
            self._note_error(f"{type(error).__name__}: {error}")
            self._over.wait(0.1)

    def _hold(self, session: SessionClient, number: int) -> None:
        """Handle a session's messages until none is there, or one fails. Its lock is released after this."""
        with self._lock:
            if session.session_id in self._held:
                self._errors.append(f"{session.session_id} was held by two workers at once")
            self._held.add(session.session_id)
        try:
            for message in session.messages(timeout=0):
                place = self._places.get(message.message_id or "", 0)
                self.at_work[number] = AtWork(session.session_id, place, time.monotonic())
                if self._handle(session, message) == "abandoned" or self._over.is_set():
                    return
        finally:
            with self._lock:
                self._held.discard(session.session_id)

    def _handle(self, session: SessionClient, message: ReceivedMessage) -> str:
        delivery = Delivery(session.session_id, message.message_id, message.body, message.delivery_count)
        with self._lock:
            self._deliveries.append(delivery)
        self._news.set()
        slow = message.message_id == self.roles.slow
        self._over.wait(SLOW if slow else self._pace * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        if message.message_id == self.roles.failing and message.delivery_count == 1:
            session.abandon_message(message)
            outcome = "abandoned"
        elif message.message_id == self.roles.refused:
            session.dead_letter_message(message, REASON, "azsession demo refuses one message, to show what becomes of it")
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
    """Return an HTTP session with a connection for each thread; proxies are not for what stays on this machine."""
    http = requests.Session()
    http.trust_env = False
    http.mount("http://", HTTPAdapter(pool_maxsize=2 * workers + 8))
    return http


def _message(sent: Sent) -> Message:
    return Message(sent.body, session_id=sent.session_id, message_id=sent.message_id, content_type="application/json")


def _look(provider: ServiceBusProvider) -> Left:
    info = provider.get_queue(QUEUE)
    with_messages = [session for session in provider.list_sessions(QUEUE) if session.message_count]
    dead = provider.dead_letters(QUEUE, MAX_BATCH)
    return Left(info.active_count or 0, len(with_messages), dead)
