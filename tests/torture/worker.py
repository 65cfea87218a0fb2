"""A process of a torture run that sends or consumes: ``python -m tests.torture.worker ROLE NAME``.

The first line of its standard input is JSON with its configuration. The process ends at the end of its input. It uses the
public API like an application, and records its operations. The id of a message is repeated in its body. Consumers complete
messages in order, and leave messages that they cannot settle to the next holder.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.client.holder import LockOptions
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.client.settling import settle_and_close
from azsession.errors import (
    ConnectionFailedError,
    InvalidReceiptError,
    ProviderError,
    QueueError,
    SessionNotFoundError,
)

from .history import FAILED, OK, UNKNOWN, Recorder

QUEUE = "orders"
LOCK_DURATION = 5.0
#: The name of the gateway. Only the workers can resolve it.
HOST = "gateway.torture"
SESSIONS = [f"order/{number}" if number % 2 else f"größe {number}%" for number in range(40)]
SENDING_THREADS, CONSUMING_THREADS = 2, 4


def resolve_by(broken: Path) -> None:
    """Make `HOST` resolve to loopback, except while the file `broken` exists."""
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != HOST:
            return original(host, *args, **kwargs)
        if broken.exists():
            raise socket.gaierror(*random.choice([(socket.EAI_AGAIN, "try again"), (socket.EAI_NONAME, "not known")]))
        return original("127.0.0.1", *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def outcome_of(error: QueueError, *, strict: bool) -> str:
    """Return whether a failed operation may have taken effect.

    Without `strict` (Azure), a receipt may be refused because the first response was lost together with its gateway.
    """
    if isinstance(error, ConnectionFailedError):
        return UNKNOWN if error.maybe_delivered else FAILED
    if isinstance(error, ProviderError) or (isinstance(error, InvalidReceiptError) and not strict):
        return UNKNOWN
    return FAILED


class Sender:
    """A thread that sends messages."""

    def __init__(self, provider: ServiceBusProvider, recorder: Recorder, name: str, seed: int, pause: float) -> None:
        self._provider = provider
        self._recorder = recorder
        self._name = name
        self._random = random.Random(seed)
        self._pause = pause
        self._count = 0

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._send(self._random.choice(SESSIONS), self._random.choice([1, 1, 1, 2, 5]))
            ended.wait(self._random.uniform(0, 2 * self._pause))

    def _send(self, session: str, count: int) -> None:
        ids = [f"{self._name}.{self._count + number}" for number in range(count)]
        self._count += count
        messages = [
            Message(f"{each}:" + "x" * self._random.choice([10, 200, 5000]), session_id=session, message_id=each)
            for each in ids
        ]
        with self._recorder.operation("send", session=session, ids=ids) as result:
            try:
                self._provider.send_messages(QUEUE, messages)
            except QueueError as error:
                result.update(outcome=outcome_of(error, strict=True), error=repr(error))
            else:
                result["outcome"] = OK


class Consumer:
    """A thread that handles one session after another."""

    def __init__(self, provider: ServiceBusProvider, recorder: Recorder, name: str, seed: int, *, strict: bool) -> None:
        self._provider = provider
        self._recorder = recorder
        self._name = name
        self._random = random.Random(seed)
        self._strict = strict
        self._count = 0

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._count += 1
            session = self._accept(f"{self._name}.{self._count}")
            if session is not None:
                Hold(session, self._recorder, f"{self._name}.{self._count}", self._random, self._strict).run(ended)

    def _accept(self, holder: str) -> SessionClient | None:
        def on_lock_lost(client: SessionClient, error: SessionNotFoundError) -> None:
            self._recorder.record_event("lost", holder=holder, left=holder_of(client).lock.seconds_left(), error=str(error))

        # As an application does, or as a processor does, which takes the session with its first messages.
        about, core = {"prefetch": 3} if self._random.random() < 0.4 else {}, core_of(self._provider)
        options = LockOptions(core.config.session_timeout)
        with self._recorder.operation("accept", holder, **about) as result:
            try:
                session = core.accept_next(QUEUE, options, 1.0, core.pending, on_lock_lost, **about)
                if session is None:
                    result["outcome"] = FAILED
                    return None
            except QueueError as error:
                result.update(outcome=outcome_of(error, strict=self._strict), error=repr(error))
                time.sleep(0.1)
                return None
            granted = holder_of(session).lock.term.deadline - LOCK_DURATION
            result.update(outcome=OK, session=session.session_id, granted=granted)
            return session


class Hold:
    """The work in one session, until its close."""

    def __init__(self, client: SessionClient, recorder: Recorder, holder: str, chance: random.Random, strict: bool) -> None:
        self._client = client
        self._recorder = recorder
        self._holder = holder
        self._random = chance
        self._strict = strict
        #: The loop that yielded the latest message. While it is alive, a settlement can fetch the next messages.
        self._loop: Iterator[ReceivedMessage] | None = None

    def run(self, ended: threading.Event) -> None:
        try:
            if self._random.random() < 0.2:
                self._do("get_state", lambda: {"value": _text(self._client.get_session_state())})
            for _ in range(self._random.randint(1, 12)):
                if ended.is_set() or not self._step():
                    break
        finally:
            lock_until = holder_of(self._client).lock.term.deadline
            about = {"session": self._client.session_id, "lock_until": lock_until}
            with self._recorder.operation("close", self._holder, **about) as result:
                self._client.close_session()
                result["outcome"] = OK

    def _do(self, name: str, call: Callable[[], dict[str, Any] | None], **about: Any) -> dict[str, Any] | None:
        """Record an operation and its result. Return the result, or `None` if the operation failed."""
        with self._recorder.operation(name, self._holder, session=self._client.session_id, **about) as result:
            try:
                result.update(call() or {}, outcome=OK)
            except QueueError as error:
                # The lock may have ended after the state was set, so the outcome is unknown.
                late = name == "set_state" and isinstance(error, SessionNotFoundError)
                result.update(outcome=UNKNOWN if late else outcome_of(error, strict=self._strict), error=repr(error))
                return None
            return result

    def _step(self) -> bool:
        """Receive and settle messages. Return whether to continue in this session."""
        messages = self._receive()
        if messages is None:
            # If a response was lost, try again: the next receive must not return later messages.
            return not (self._client.is_lock_lost or self._random.random() < 0.3)
        if not messages:
            return False
        time.sleep(self._random.uniform(0, 0.02) if self._random.random() < 0.97 else self._random.uniform(1, 6))
        if not self._settle(messages):
            return False
        if self._random.random() < 0.2:
            state = str(messages[-1].sequence_number)
            return self._do("set_state", lambda: self._client.set_session_state(state.encode()), value=state) is not None
        return self._random.random() > 0.05 or self._do("renew", self._renew) is not None

    def _renew(self) -> None:
        self._client.renew_session_lock()

    def _receive(self) -> list[ReceivedMessage] | None:
        count, prefetch = self._random.choice([(1, 1), (1, 2), (3, 1), (1, 5)])
        timeout = self._random.choice([0.0, 0.0, 0.2, 1.0])
        messages: list[ReceivedMessage] = []

        def receive() -> dict[str, Any]:
            messages.extend(self._client.receive_messages(count, timeout) if count > 1 else self._next(timeout, prefetch))
            return {"messages": [[_id(each), each.sequence_number, each.delivery_count] for each in messages]}

        # Messages that were fetched ahead come first, without a request.
        name, about = ("receive_ahead", {}) if _has_ahead(self._client) else ("receive", {"prefetch": prefetch})
        return None if self._do(name, receive, **about) is None else messages

    def _next(self, timeout: float, prefetch: int) -> list[ReceivedMessage]:
        if prefetch == 1:
            message = self._client.receive_message(timeout)
        else:
            self._loop = self._client.messages(timeout, prefetch)
            message = next(self._loop, None)
        return [] if message is None else [message]

    def _settle(self, messages: list[ReceivedMessage]) -> bool:
        client, chance = self._client, self._random.random()
        if chance < 0.05:
            # Abandon the last message first, so that no message overtakes another.
            later = all(self._settle_one("abandon", client.abandon_message, message) for message in reversed(messages[1:]))
            delay = self._random.choice([0.0, 0.7])
            return later and self._settle_one(
                "abandon", lambda message: client.abandon_message(message, delay), messages[0], delay=delay
            )
        if chance < 0.07:
            return self._settle_one(
                "dead_letter", lambda message: client.dead_letter_message(message, "torture"), messages[0]
            ) and (self._complete(messages[1:]))
        if chance < 0.10:
            return self._defer(messages[0]) and self._complete(messages[1:])
        return self._complete(messages)

    def _defer(self, message: ReceivedMessage) -> bool:
        if not self._settle_one("defer", self._client.defer_message, message):
            return False
        deferred: list[ReceivedMessage] = []

        def receive() -> dict[str, Any]:
            deferred.extend(self._client.receive_deferred_messages([message.sequence_number or 0]))
            return {"messages": [[_id(each), each.sequence_number, each.delivery_count] for each in deferred]}

        return self._do("receive_deferred", receive) is not None and self._complete(deferred)

    def _complete(self, messages: list[ReceivedMessage]) -> bool:
        if not messages:
            return True
        if len(messages) == 1 and self._random.random() < 0.1:
            return self._complete_and_close(messages[0])
        if len(messages) == 1 or self._random.random() < 0.5:
            return all(self._settle_one("complete", self._client.complete_message, message) for message in messages)
        return self._settle_many("complete", lambda: self._client.complete_messages(messages), messages)

    def _complete_and_close(self, message: ReceivedMessage) -> bool:
        """Complete a message and close the session, as a processor does with the last message."""
        lock_until = holder_of(self._client).lock.term.deadline
        about = {"session": self._client.session_id, "lock_until": lock_until}
        with self._recorder.operation("close", self._holder, **about) as result:
            self._settle_many("complete", lambda: settle_and_close(holder_of(self._client), message), [message])
            result["outcome"] = OK
        return False

    def _settle_one(
        self, name: str, settle: Callable[[ReceivedMessage], None], message: ReceivedMessage, **about: Any
    ) -> bool:
        return self._settle_many(name, lambda: settle(message), [message], **about)

    def _settle_many(self, name: str, settle: Callable[[], None], messages: Sequence[ReceivedMessage], **about: Any) -> bool:
        sequences, fetches = [message.sequence_number for message in messages], self._fetches_with(messages)
        about.update(session=self._client.session_id, sequences=sequences, **({"prefetch": fetches} if fetches else {}))
        with self._recorder.operation(name, self._holder, **about) as result:
            try:
                settle()
            except QueueError as error:
                # Of several receipts, the valid ones are settled.
                outcome = outcome_of(error, strict=self._strict)
                partly = isinstance(error, InvalidReceiptError) and len(sequences) > 1
                result.update(outcome=UNKNOWN if partly else outcome, error=repr(error))
                return False
            result["outcome"] = OK
            return True

    def _fetches_with(self, messages: Sequence[ReceivedMessage]) -> int:
        """Return how many messages the settlement of these messages may fetch."""
        return holder_of(self._client).lock.fetch_after(messages[0].receipt.handle) if len(messages) == 1 else 0


def _has_ahead(client: SessionClient) -> bool:
    """Tell whether the client has messages that it fetched ahead."""
    return bool(holder_of(client).lock._ahead)


def _id(message: ReceivedMessage) -> str:
    """Return the id of a message, or an invalid id if the body does not match it."""
    sent_id, _, rest = message.text().partition(":")
    return sent_id if sent_id == message.message_id and set(rest) == {"x"} else f"corrupt {message.message_id}"


def _text(state: bytes | None) -> str | None:
    return None if state is None else state.decode()


def main(role: str, name: str) -> None:
    """Work until the end of the standard input."""
    logging.basicConfig(level=logging.ERROR)
    config = json.loads(sys.stdin.readline())
    resolve_by(Path(config["dns_broken"]))
    recorder = Recorder(Path(config["history"]), name)
    ended = threading.Event()
    provider = ServiceBusProvider.from_connection_string(
        config["connection_string"],
        allow_insecure_http=True,
        request_timeout=config["request_timeout"],
        retry_deadline=4,
        # Some workers retry little. Operations with an unknown outcome are the most interesting.
        retry_attempts=config["seed"] % 4,
    )
    workers: list[Sender | Consumer] = []
    for number in range(SENDING_THREADS if role == "send" else CONSUMING_THREADS):
        own, seed = f"{name}/{number}", config["seed"] * 1000 + number
        if role == "send":
            workers.append(Sender(provider, recorder, own, seed, config["pause"]))
        else:
            workers.append(Consumer(provider, recorder, own, seed, strict=config["strict"]))
    threads = [threading.Thread(target=worker.run, args=(ended,)) for worker in workers]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    provider.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
