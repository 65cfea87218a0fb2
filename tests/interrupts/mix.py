"""A random mix of interrupts, forks and closes: exceptions of SIGALRM every 1 to 30 ms in sends, receives and settlements.

``python -m tests.interrupts.mix --over embedded --seconds 600`` runs it. It ends with an error if a message is lost, doubled
or overtaken, if a session stays locked, or if a thread or a child hangs. ``--over`` chooses an embedded broker, a gateway, or
the stand-in for Azure. The last two run in processes of their own.

A send that is interrupted has an unknown outcome. Half of these are sent again under their message id until they succeed. The
queue detects duplicates, so that each of these messages must come once, and in order. The others may come or not.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from azsession import (
    InvalidReceiptError,
    Message,
    QueueError,
    QueueSettings,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
)

from ..support.processes import Served

#: Seconds after which a child or a thread counts as hanging.
PATIENCE = 60


class AlarmError(Exception):
    """Raised by the signal handler."""


def _alarm(*_: object) -> None:
    raise AlarmError


class Companion:
    """A thread that uses a session of its own, all the time. It hangs if an interrupt leaves a lock taken."""

    def __init__(self, provider: ServiceBusProvider, queue: str) -> None:
        self._provider, self._queue, self._session_id = provider, queue, f"companion-{uuid.uuid4()}"
        self._stopped = False
        self.rounds = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._provider.create_session_client(self._queue, self._session_id) as session:
                while not self._stopped:
                    text = str(self.rounds)
                    self._provider.send_message(self._queue, Message(text, session_id=self._session_id))
                    message = session.receive_message(timeout=PATIENCE)
                    if message is None or message.text() != text:
                        raise AssertionError(f"the companion received {message and message.text()} instead of {text}")
                    session.complete_message(message)
                    self.rounds += 1
                    time.sleep(0.02)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            faulthandler.dump_traceback()
            raise AssertionError("the companion hangs")
        if self.error is not None:
            raise self.error


class Mix:
    """Sends numbered messages to one session and receives them, and is interrupted all the time.

    Args:
        provider: The provider.
        queue: A queue with duplicate detection.
        seed: The seed of all random choices.
        child_uses_provider: Whether a forked child can use the provider.
        child_settles: Whether a forked child can settle what its parent received.
    """

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue: str,
        seed: int,
        *,
        child_uses_provider: bool = True,
        child_settles: bool = True,
    ) -> None:
        self._provider = provider
        self._queue = queue
        self._session_id = f"mix-{uuid.uuid4()}"
        self._chance = random.Random(seed)
        self._session: SessionClient | None = None
        #: The loop that yielded the latest message. While it is alive, a settlement can fetch the next messages.
        self._messages: Iterator[ReceivedMessage] = iter(())
        self._child_uses_provider, self._child_settles = child_uses_provider, child_settles
        self.interrupts = self.forks = self.closes = 0
        self._next = 0
        #: The numbers of messages that were accepted. The outcome of others is unknown.
        self.accepted: set[int] = set()
        self.completed: set[int] = set()
        self._last = -1

    @property
    def sent(self) -> int:
        return len(self.accepted)

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """Return the result of a call that an alarm may interrupt, or `None`."""
        results: list[Any] = []
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0.001, 0.03))
                # An alarm that comes after the return of the call must not lose its result.
                results.append(call())
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except AlarmError:
            self.interrupts += 1
        return results[0] if results else None

    def _open(self) -> SessionClient:
        if self._session is None:
            self._session = self._provider.create_session_client(self._queue, self._session_id)
        return self._session

    def step(self) -> None:
        """Send, receive and complete one message, each with interrupts. Sometimes fork, or close the session."""
        self._send()
        message = self._attempt(self._receive)
        if message is not None:
            self._check(int(message.text()))
        if self._chance.random() < 0.01:
            self._fork(message)
        elif message is not None:
            self._complete(message)
        if self._chance.random() < 0.05 and self._session is not None:
            session, self._session = self._session, None
            self.closes += 1
            self._attempt(session.close)
            session.close()

    def _receive(self) -> ReceivedMessage | None:
        timeout, prefetch = self._chance.choice([0, 0.01]), self._chance.choice([0, 1, 3])
        if prefetch == 0:
            return self._open().receive_message(timeout=timeout)
        self._messages = self._open().messages(timeout, prefetch)
        return next(self._messages, None)

    def _send(self) -> None:
        number, self._next = self._next, self._next + 1
        message = Message(str(number), session_id=self._session_id, message_id=f"{self._session_id}-{number}")
        repeats = self._chance.random() < 0.5
        while True:
            if self._attempt(lambda: self._provider.send_message(self._queue, message)):
                self.accepted.add(number)
                return
            if not repeats:
                return

    def _check(self, number: int) -> None:
        last = self._last
        if number in self.completed:
            raise AssertionError(f"message {number} came again after {last}")
        # A message with an unknown outcome can be accepted later than those sent after it.
        if number <= last and number in self.accepted:
            raise AssertionError(f"message {number} came after {last}")
        missing = self.accepted.intersection(range(last + 1, number))
        if missing:
            raise AssertionError(f"message {number} came after {last}, before {sorted(missing)}")

    def _complete(self, message: Any) -> None:
        while True:
            try:
                if self._attempt(lambda: self._open().complete_message(message) or True):
                    break
            except InvalidReceiptError:
                break  # An interrupted attempt completed it.
        self._note(message)

    def _note(self, message: Any) -> None:
        number = int(message.text())
        self.completed.add(number)
        self._last = max(self._last, number)

    def _fork(self, message: Any) -> None:
        """Fork a child that settles `message`, and uses the provider with a session of its own."""
        self.forks += 1
        child = os.fork()
        if child == 0:
            status = 1
            try:
                faulthandler.dump_traceback_later(PATIENCE / 2, exit=True)
                self._be_child(message)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"a child ended with {status}")
        if message is None:
            return
        if self._child_settles:
            self._note(message)
        else:
            self._complete(message)

    def _be_child(self, message: Any) -> None:
        if message is not None:
            if self._child_settles:
                self._open().complete_message(message)
            else:
                _must_fail(lambda: self._open().complete_message(message))
        name = f"child-{uuid.uuid4()}"
        if not self._child_uses_provider:
            _must_fail(lambda: self._provider.send_message(self._queue, Message("0", session_id=name)))
            return
        self._provider.send_messages(self._queue, [Message(str(number), session_id=name) for number in range(3)])
        with self._provider.create_session_client(self._queue, name) as session:
            for number in range(3):
                received = session.receive_message(timeout=PATIENCE)
                if received is None or received.text() != str(number):
                    raise AssertionError(f"the child received {received and received.text()} instead of {number}")
                session.complete_message(received)

    def finish(self) -> None:
        """Receive the rest without interrupts. Check that nothing is lost, and that the session is free."""
        while (message := self._open().receive_message(timeout=1.0)) is not None:
            self._check(int(message.text()))
            self._complete(message)
        self._open().close()
        lost = self.accepted.difference(self.completed)
        if lost:
            raise AssertionError(f"messages {sorted(lost)} are lost")
        with self._provider.create_session_client(self._queue, self._session_id) as other:
            if other.receive_message(timeout=0) is not None:
                raise AssertionError("a completed message came again")
        if self._session_id in [each.session_id for each in self._provider.list_sessions(self._queue)]:
            raise AssertionError("the session has messages left")


def _must_fail(call: Callable[[], object]) -> None:
    began = time.monotonic()
    try:
        call()
    except QueueError:
        if time.monotonic() - began > 10:
            raise
        return
    raise AssertionError("a child used what belongs to its parent")


def run(provider: ServiceBusProvider, queue: str, seconds: float, seed: int, *, interrupts: int = 0, **child: bool) -> Mix:
    """Run the mix for so many seconds, longer until there were so many interrupts, and return it."""
    before = signal.signal(signal.SIGALRM, _alarm)
    companion = Companion(provider, queue)
    try:
        mix, until = Mix(provider, queue, seed, **child), time.monotonic() + seconds
        while time.monotonic() < until or mix.interrupts < interrupts:
            mix.step()
            if companion.error is not None:
                break
        mix.finish()
        return mix
    finally:
        companion.stop()
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _azure(queue: str) -> Iterator[str]:
    """Run a namespace in the place of Azure, and return its connection string."""
    command = [sys.executable, "-m", "tests.namespaces", "--queue", queue, "--duplicate-detection", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["connection_string"]
        finally:
            process.terminate()


@contextmanager
def _provider(over: str, queue: str) -> Iterator[ServiceBusProvider]:
    if over == "embedded":
        with ServiceBusProvider.embedded() as provider:
            yield provider
    elif over == "http":
        with Served("--memory") as served, ServiceBusProvider.from_connection_string(served.line) as provider:
            yield provider
    else:
        with _azure(queue) as place, ServiceBusProvider.from_connection_string(place) as provider:
            yield provider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--over", choices=["embedded", "http", "azure"], default="embedded")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with _provider(options.over, "mix") as provider:
        if options.over != "azure":
            provider.create_queue("mix", QueueSettings(requires_duplicate_detection=True))
        child = {"child_uses_provider": options.over != "embedded", "child_settles": options.over == "http"}
        mix = run(provider, "mix", options.seconds, options.seed, **child)
    print(
        f"{options.over}, seed {options.seed}: {mix.sent} messages sent, {len(mix.completed)} completed, "
        f"{mix.interrupts} interrupts, {mix.forks} forks, {mix.closes} closes"
    )


if __name__ == "__main__":
    main()
