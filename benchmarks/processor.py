"""Messages per second of a `SessionProcessor`: one message in each session, beside a failing session, settling in background.

The first figure is compared with plain `SessionClient` threads that know the session ids. Both use the same gateway, in
alternating rounds.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import threading
import time

from azsession import (
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionProcessor,
)

from .common import QUEUE, Figure, Gateway, arguments, gateway, interleaved, show

_numbers = itertools.count()


def _send(provider: ServiceBusProvider, ids: list[str], each: int = 1) -> None:
    """Send `each` messages to each of the sessions, interleaved."""
    messages = [Message(b"x" * 256, session_id=session_id) for _ in range(each) for session_id in ids]
    for start in range(0, len(messages), 1000):
        provider.send_messages(QUEUE, messages[start : start + 1000])


def _new_ids(count: int) -> list[str]:
    number = next(_numbers)
    return [f"{number}-{each}" for each in range(count)]


def _bare(provider: ServiceBusProvider, ids: list[str], slots: int) -> float:
    """Return the messages per second of threads that know the session ids."""
    left, lock = iter(ids), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                session_id = next(left, None)
            if session_id is None:
                return
            with provider.create_session_client(QUEUE, session_id) as session:
                for message in session.receive_messages(10, timeout=0):
                    session.complete_message(message)

    threads = [threading.Thread(target=work) for _ in range(slots)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(ids) / (time.perf_counter() - began)


class _Counted:
    """A handler that counts messages and fails for sessions whose id starts with "poison"."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._count = 0
        self.done = threading.Event()

    def __call__(self, message: ReceivedMessage, session: SessionClient) -> None:
        if session.session_id.startswith("poison"):
            raise RuntimeError("poison")
        with self._lock:
            self._count += 1
            if self._count == self._wanted:
                self.done.set()


def _processed(
    provider: ServiceBusProvider, wanted: int, slots: int, *, settle_in_background: int = 0
) -> tuple[float, float]:
    """Return the messages per second of a processor, and the share of time that its slots waited for sessions."""
    handler = _Counted(wanted)
    processor = SessionProcessor(
        provider,
        QUEUE,
        handler,
        max_concurrent_sessions=slots,
        settle_in_background=settle_in_background,
        on_error=lambda *_: None,
    )
    began = time.perf_counter()
    with processor:
        handler.done.wait()
        took = time.perf_counter() - began
        share = processor.stats.seconds_waited / (took * slots)
    return wanted / took, share


def _one_message_each(server: Gateway, options: argparse.Namespace) -> Figure:
    slots, shares = options.slots, []

    def ours() -> float:
        with server.provider() as provider:
            _send(provider, _new_ids(options.sessions))
            rate, share = _processed(provider, options.sessions, slots)
            shares.append(share)
            return rate

    def bare() -> float:
        with server.provider() as provider:
            ids = _new_ids(options.sessions)
            _send(provider, ids)
            return _bare(provider, ids, slots)

    found = interleaved(options.rounds, bare=bare, ours=ours)
    ratio = found["ours"] / found["bare"]
    waited = sum(shares) / len(shares)
    return Figure(
        f"{options.sessions} sessions with one message each, {slots} at once, handler of 0 ms ({options.rounds} rounds)",
        f"{found['bare']:.0f} messages/s   {slots} plain SessionClient threads that know the ids",
        f"{found['ours']:.0f} messages/s   the processor; its slots waited for sessions {waited:.0%} of the time",
        ratio,
        "at least 1.3",
        ratio >= 1.3,
    )


def _dead_letter_rest(provider: ServiceBusProvider) -> None:
    """Dead-letter what is left. A session whose message failed is held back for a while."""
    for session in provider.list_sessions(QUEUE):
        while True:
            try:
                with provider.create_session_client(QUEUE, session.session_id) as rest:
                    rest.dead_letter_session("left over")
                break
            except SessionLockedError as error:
                time.sleep(min(error.retry_after or 1.0, 1.0))


def _in_background(server: Gateway, options: argparse.Namespace) -> Figure:
    each = 10 * options.each

    def run(behind: int) -> float:
        with server.provider() as provider:
            _send(provider, _new_ids(4), each)
            return _processed(provider, 4 * each, 4, settle_in_background=behind)[0]

    found = interleaved(options.rounds, without=lambda: run(0), behind=lambda: run(10))
    ratio = found["behind"] / found["without"]
    return Figure(
        f"4 sessions with {each} messages each, 4 at once, completions up to 10 messages behind",
        f"{found['without']:.0f} messages/s   each message is completed before the next one is handled",
        f"{found['behind']:.0f} messages/s   settle_in_background=10",
        ratio,
    )


def _beside_poison(server: Gateway, options: argparse.Namespace) -> Figure:
    wanted = 99 * options.each

    def run(poison: bool) -> float:
        with server.provider() as provider:
            if poison:
                # Send it first, so that its message is always the oldest.
                _send(provider, [f"poison-{next(_numbers)}"], 10)
            _send(provider, _new_ids(99), options.each)
            rate, _ = _processed(provider, wanted, options.slots)
            _dead_letter_rest(provider)
            return rate

    found = interleaved(options.rounds, without=lambda: run(False), beside=lambda: run(True))
    ratio = found["beside"] / found["without"]
    return Figure(
        f"99 sessions with {options.each} messages each, {options.slots} at once, beside a session whose messages all fail",
        f"{found['without']:.0f} messages/s   without it",
        f"{found['beside']:.0f} messages/s   with it",
        ratio,
        "at least 0.9",
        ratio >= 0.9,
    )


def main() -> None:
    """Measure and print the results."""
    options = arguments("processor", __doc__ or "", sessions=10_000, slots=16, each=50, rounds=2)
    logging.disable(logging.WARNING)
    with gateway() as server:
        figures = [_one_message_each(server, options), _beside_poison(server, options), _in_background(server, options)]
    show("processor", figures)


if __name__ == "__main__":
    main()
