"""The log records of the embedded broker: locks that expire, and messages that are dead-lettered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.logs import FIELDS

from .helpers import ABANDON, HandClock, broker_with, peek, receive, send, settle


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession.broker")


def events(caplog: pytest.LogCaptureFixture, broker: EmbeddedBroker) -> list[tuple[str, list[object]]]:
    """Return the text and the fields of each record, also of those that were not made yet. Closes the broker."""
    broker.close()
    return [(record.getMessage(), [getattr(record, name) for name in FIELDS]) for record in caplog.records]


class Slow(logging.Handler):
    """Blocks until `go_on` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self._may_end = threading.Event()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.has_begun.set()
        assert self._may_end.wait(60)
        self.texts.append(record.getMessage())

    def go_on(self) -> None:
        self._may_end.set()


@pytest.fixture
def slow() -> Iterator[Slow]:
    handler = Slow()
    logging.getLogger("azsession.broker").addHandler(handler)
    yield handler
    handler.go_on()
    logging.getLogger("azsession.broker").removeHandler(handler)


def test_a_lock_that_expires_is_logged(broker: EmbeddedBroker, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    send(broker, "a", "b")
    receive(broker)
    clock.advance(31)
    assert peek(broker) == ["a", "b"]
    expected = ("the lock of the session 's' of 'q' expired; unsettled messages: 1", ["q", "s", None])
    assert events(caplog, broker) == [expected]


def test_a_message_that_reaches_the_delivery_limit_is_logged(
    broker: EmbeddedBroker, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, "a", "b")
    for _ in range(3):
        (message,) = receive(broker)
        settle(broker, ABANDON, message)
    (number,) = {message.sequence_number}
    why = f"message {number} of the session 's' of 'q' was dead-lettered: MaxDeliveryCountExceeded"
    assert events(caplog, broker) == [(why, ["q", "s", number])]


def test_an_expired_message_that_is_dead_lettered_is_logged(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    with broker_with(clock, dead_letter_on_expiration=True) as broker:
        send(broker, "a", time_to_live=10)
        clock.advance(11)
        assert peek(broker) == []
        assert events(caplog, broker) == [
            ("message 1 of the session 's' of 'q' was dead-lettered: TTLExpiredException", ["q", "s", 1])
        ]


def test_a_dead_lettered_session_is_logged_once(broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture) -> None:
    send(broker, "a", "b")
    assert broker.dead_letter_session("q", "s", "", "Gone", None, "").result() == 2
    assert events(caplog, broker) == [("2 messages of the session 's' of 'q' are dead-lettered: Gone", ["q", "s", None])]


def test_a_log_handler_that_blocks_does_not_hold_up_the_broker(broker: EmbeddedBroker, clock: HandClock, slow: Slow) -> None:
    send(broker, "a", "b")
    receive(broker)
    clock.advance(31)
    assert peek(broker) == ["a", "b"]
    assert slow.has_begun.wait(60)
    assert broker.dead_letter_session("q", "s", "", "Gone", None, "").result(60) == 2
    assert slow.texts == []
    slow.go_on()
    broker.close()
    assert [text.partition(" of ")[0] for text in slow.texts] == ["the lock", "2 messages"]


def test_a_log_handler_that_raises_does_not_fail_the_operation(broker: EmbeddedBroker, clock: HandClock) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("on purpose")

    handler = Broken()
    logging.getLogger("azsession.broker").addHandler(handler)
    try:
        send(broker, "a")
        receive(broker)
        clock.advance(31)
        assert peek(broker) == ["a"]
        assert broker.dead_letter_session("q", "s", "", "Gone", None, "").result() == 1
        broker.close()
    finally:
        logging.getLogger("azsession.broker").removeHandler(handler)
