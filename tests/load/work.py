"""The mixed work of the soak: senders, waiting receivers, sessions that are accepted and closed, dead letters, aborted polls.

Each message says how its receiver handles it, and is counted in a `Ledger`.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

from azsession import Message, QueueSettings, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.errors import NoSessionAvailableError, QueueError, SessionNotFoundError
from azsession.protocol.sas import generate_sas_token

from .ledger import Ledger

HELD, OPEN, LAPSING = "held", "open", "lapsing"

#: How messages are handled, and how often.
KINDS = {
    "complete": 40,
    "abandon": 10,
    "defer": 8,
    "dead-letter": 6,
    "resubmit": 4,
    "state": 6,
    "renew": 6,
    "close": 4,
    "scheduled": 8,
    "lapsing": 8,
}


class Work:
    """The work, until `stop`.

    Args:
        connection_string: The gateway to work against.
        ledger: Counts the messages.
        sessions: The number of sessions. Half of them always have a waiting receive.
        rate: Messages to send per second.
    """

    def __init__(self, connection_string: str, ledger: Ledger, *, sessions: int, rate: float, waits: int) -> None:
        self._string = connection_string
        self._ledger = ledger
        self._waits = waits
        self._sessions = sessions - waits
        self._rate = rate
        self._provider = ServiceBusProvider.from_connection_string(connection_string, pool_connections=waits + 50)
        self._no_more = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._waited_in: dict[str, SessionClient] = {}
        #: The numbers of the messages whose session was closed once. Closing does not count as a delivery.
        self._closed_once: set[int] = set()

    def start(self) -> None:
        """Create the queues, and start."""
        self._provider.create_queue(HELD, QueueSettings(lock_duration=30, max_delivery_count=50))
        window = {"requires_duplicate_detection": True, "duplicate_detection_window": 20.0}
        self._provider.create_queue(OPEN, QueueSettings(lock_duration=30, max_delivery_count=50, **window))
        self._provider.create_queue(LAPSING, QueueSettings(dead_letter_on_expiration=True))
        for number in range(self._waits):
            self._begin(lambda number=number: self._wait_in(f"held-{number}"))  # type: ignore[misc]
        for _ in range(6):
            self._begin(self._take_next)
        for _ in range(2):
            self._begin(self._send)
        for job in (self._bury, self._visit, self._abort, self._look):
            self._begin(job)

    def _begin(self, job: Callable[[], None]) -> None:
        def run() -> None:
            try:
                job()
            except BaseException as error:
                if not (self._ended.is_set() and isinstance(error, SessionNotFoundError)):
                    self._ledger.complain(f"a thread failed: {error!r}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop_sending(self) -> None:
        """Stop sending. Messages in flight still arrive."""
        self._no_more.set()

    def stop(self) -> None:
        """Stop all threads."""
        self._no_more.set()
        self._ended.set()
        for session in list(self._waited_in.values()):
            # Closing the session ends its waiting receive at once.
            session.close_session()
        for thread in self._threads:
            thread.join(40)
        self._provider.close()

    # Sending

    def _send(self) -> None:
        choice = random.Random(threading.get_ident())
        kinds, weights = list(KINDS), list(KINDS.values())
        # A short run on a busy machine has each kind, too.
        for kind in kinds:
            self._send_some(self._provider, choice, [kind])
        while not self._no_more.wait(choice.uniform(0.5, 1.5) * 2 * 3 / self._rate):
            # Three messages in each round: one alone, two in a batch.
            self._send_some(self._provider, choice, choice.choices(kinds, weights, k=1))
            self._send_some(self._provider, choice, choice.choices(kinds, weights, k=2))

    def _send_some(self, provider: ServiceBusProvider, choice: random.Random, kinds: list[str]) -> None:
        numbers = [self._ledger.new(kind) for kind in kinds]
        lapsing = kinds[0] == "lapsing"
        queue = LAPSING if lapsing else choice.choice((HELD, OPEN))
        name = choice.randrange({HELD: self._waits, OPEN: self._sessions, LAPSING: 20}[queue])
        messages = []
        for number, kind in zip(numbers, kinds, strict=True):
            due = datetime.now(timezone.utc) + timedelta(seconds=choice.uniform(1, 5)) if kind == "scheduled" else None
            told = {"number": number, "kind": kind, "padding": "x" * choice.randrange(2000)}
            messages.append(
                Message(
                    json.dumps(told),
                    session_id=f"{queue}-{name}",
                    message_id=f"m-{number}",
                    scheduled_enqueue_time=None if lapsing else due,
                    time_to_live=timedelta(seconds=2) if lapsing else None,
                )
            )
        try:
            provider.send_messages(queue, messages)
            if queue == OPEN and number % 5 == 0:
                # A duplicate, which the queue drops.
                provider.send_messages(queue, messages)
                self._ledger.count("duplicates sent", len(messages))
        except QueueError as error:
            for number in numbers:
                self._ledger.not_sent(number)
            self._ledger.complain(f"a send failed: {error!r}")

    # Receiving

    def _wait_in(self, session_id: str) -> None:
        while not self._ended.is_set():
            with self._provider.create_session_client(HELD, session_id) as session:
                self._waited_in[session_id] = session
                goes_on = True
                while goes_on and not self._ended.is_set():
                    message = session.receive_message(timeout=20)
                    if message is not None:
                        goes_on = self._handle(session, message)
            self._ledger.count("sessions closed")

    def _take_next(self) -> None:
        while not self._ended.is_set():
            try:
                session = self._provider.create_session_client(OPEN, accept_timeout=5)
            except NoSessionAvailableError:
                continue
            with session:
                while received := session.receive_messages(10, timeout=0.2):
                    plain = [one for one in received if json.loads(one.body)["kind"] in ("complete", "scheduled")]
                    session.complete_messages(plain)
                    for message in plain:
                        self._arrived(message)
                    others = [one for one in received if one not in plain]
                    kept = [self._handle(session, message) for message in others]
                    if not all(kept):
                        break
            self._ledger.count("sessions closed")

    def _arrived(self, message: ReceivedMessage) -> None:
        told = json.loads(message.body)
        if told["kind"] == "complete" and message.delivery_count == 1:
            self._ledger.in_order(f"{message.session_id}", message.sequence_number, told["number"])
        self._ledger.done(told["number"])

    def _handle(self, session: SessionClient, message: ReceivedMessage) -> bool:
        """Handle the message as it says, and return whether to keep its session."""
        told = json.loads(message.body)
        kind = told["kind"]
        self._ledger.count(f"handled: {kind}")
        first = message.delivery_count == 1
        if kind == "abandon" and first:
            session.abandon_message(message)
            return True
        if kind == "close" and told["number"] not in self._closed_once:
            self._closed_once.add(told["number"])
            return False
        if kind in ("dead-letter", "resubmit") and first and not _resubmitted(message):
            session.dead_letter_message(message, kind)
            return True
        if kind == "defer":
            session.defer_message(message)
            (message,) = session.receive_deferred_messages([message.sequence_number])
        elif kind == "state":
            state = str(message.sequence_number).encode()
            session.set_session_state(state)
            if session.get_session_state() != state:
                self._ledger.complain("a session's state is not what was set")
            if message.sequence_number % 4:
                session.set_session_state(None)
        elif kind == "renew":
            session.renew_session_lock()
        session.complete_message(message)
        self._arrived(message)
        return True

    # Dead letters

    def _bury(self) -> None:
        while not self._ended.wait(0.5):
            for queue in (HELD, OPEN, LAPSING):
                for letter in self._provider.dead_letters(queue, 200):
                    told = json.loads(letter.body)
                    if letter.dead_letter_reason == "resubmit":
                        _note_resubmitted(told["number"])
                        self._provider.resubmit(queue, letter.sequence_number)
                        self._ledger.count("dead letters resubmitted")
                        continue
                    self._provider.delete_dead_letter(queue, letter.sequence_number)
                    self._ledger.done(told["number"])
                    self._ledger.count(f"dead letters deleted: {letter.dead_letter_reason}")

    # Others

    def _visit(self) -> None:
        """Open a provider, send one message, and close the provider, as a short process would."""
        choice = random.Random(1)
        while not self._no_more.wait(1.0):
            with ServiceBusProvider.from_connection_string(self._string) as provider:
                self._send_some(provider, choice, ["complete"])
            self._ledger.count("providers closed")

    def _abort(self) -> None:
        """Start long polls, and close their connections without an answer."""
        config = self._provider.config
        url = config.namespace_url.rstrip("/")
        parts = urlsplit(url)
        host, port = str(parts.hostname), int(parts.port or 80)
        credentials = config.credentials
        assert credentials is not None
        assert credentials.key is not None
        assert credentials.key_name is not None
        number = 0
        while not self._ended.wait(0.25):
            number += 1
            token = generate_sas_token(f"{url}/", credentials.key_name, credentials.key, int(time.time()) + 600)
            head = (
                f"DELETE /{HELD}/sessions/aborted-{number % 200}/messages/head?timeout=30 HTTP/1.1\r\n"
                f"Host: {host}:{port}\r\nAuthorization: {token}\r\nAzsession-Lock-Id: aborted-{number}\r\n\r\n"
            )
            with socket.create_connection((host, port), timeout=10) as sock:
                sock.sendall(head.encode())
                self._ended.wait(0.1)
            self._ledger.count("long polls aborted")

    def _look(self) -> None:
        while not self._ended.wait(2.0):
            self._provider.list_sessions(OPEN)
            self._provider.peek_messages(HELD, "held-1")
            self._provider.get_queue(OPEN)
            self._ledger.count("looks")


_resubmitted_numbers: set[int] = set()


def _note_resubmitted(number: int) -> None:
    _resubmitted_numbers.add(number)


def _resubmitted(message: ReceivedMessage) -> bool:
    number = json.loads(message.body)["number"]
    if number in _resubmitted_numbers:
        _resubmitted_numbers.discard(number)
        return True
    return False
