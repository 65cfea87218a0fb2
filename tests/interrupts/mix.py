"""A random mix of interrupts and closes: exceptions of SIGALRM every 1 to 30 ms in sends, receives and settlements.

Run it with ``python -m tests.interrupts.mix --seconds 600``. It uses an embedded broker, or the server of
``--connection-string``, and ends with an error if a message is lost or overtaken.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

from azsession import InvalidReceiptError, Message, ServiceBusProvider, SessionClient


class AlarmError(Exception):
    """Raised by the signal handler."""


def _alarm(*_: object) -> None:
    raise AlarmError


class Mix:
    """Sends numbered messages to one session and receives them, and is interrupted all the time."""

    def __init__(self, provider: ServiceBusProvider, queue: str, seed: int) -> None:
        self._provider = provider
        self._queue = queue
        self._session_id = f"mix-{uuid.uuid4()}"
        self._chance = random.Random(seed)
        self._session: SessionClient | None = None
        self.sent = self.interrupts = 0
        self.completed: list[int] = []

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
        """Send, receive and complete one message, each with interrupts. Sometimes close the session."""
        # The same message id again: an interrupted send can have been accepted.
        text = str(self.sent)
        if self._attempt(lambda: self._provider.send_message(self._queue, Message(text, session_id=self._session_id))):
            self.sent += 1
        message = self._attempt(lambda: self._open().receive_message(timeout=self._chance.choice([0, 0.01])))
        if message is not None:
            self._check(int(message.text()))
            self._complete(message)
        if self._chance.random() < 0.05 and self._session is not None:
            session, self._session = self._session, None
            self._attempt(session.close)
            session.close()

    def _check(self, number: int) -> None:
        last = self.completed[-1] if self.completed else -1
        # An interrupted send is repeated, so that a number can come twice, but none may be left out.
        if number not in (last, last + 1):
            raise AssertionError(f"message {number} came after {last}")

    def _complete(self, message: Any) -> None:
        while True:
            try:
                if self._attempt(lambda: self._open().complete_message(message) or True):
                    break
            except InvalidReceiptError:
                break  # An interrupted attempt completed it.
        self.completed.append(int(message.text()))

    def finish(self) -> None:
        """Receive the rest without interrupts, and check that nothing is lost."""
        while (message := self._open().receive_message(timeout=0.5)) is not None:
            self._check(int(message.text()))
            self._complete(message)
        self._open().close()
        if self.completed and self.sent and self.completed[-1] < self.sent - 1:
            raise AssertionError(f"{self.sent} messages were sent, and {self.completed[-1]} is the last that came")


def run(provider: ServiceBusProvider, queue: str, seconds: float, seed: int) -> Mix:
    """Run the mix for so many seconds, and return it."""
    before = signal.signal(signal.SIGALRM, _alarm)
    try:
        mix, until = Mix(provider, queue, seed), time.monotonic() + seconds
        while time.monotonic() < until:
            mix.step()
        mix.finish()
        return mix
    finally:
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--queue", default="mix")
    parser.add_argument("--connection-string")
    options = parser.parse_args()
    place = options.connection_string
    with ServiceBusProvider.from_connection_string(place) if place else ServiceBusProvider.embedded() as provider:
        mix = run(provider, options.queue, options.seconds, options.seed)
    print(f"{mix.sent} messages sent, {len(mix.completed)} completed, {mix.interrupts} interrupts")


if __name__ == "__main__":
    main()
