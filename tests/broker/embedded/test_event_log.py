"""The log records of the embedded broker: locks that expire, and messages that are dead-lettered."""

from __future__ import annotations

import logging

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.logs import FIELDS

from .helpers import ABANDON, HandClock, broker_with, peek, receive, send, settle


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession.broker")


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, list[object]]]:
    """Return the text and the fields of each record."""
    return [(record.getMessage(), [getattr(record, name) for name in FIELDS]) for record in caplog.records]


def test_a_lock_that_expires_is_logged(broker: EmbeddedBroker, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    send(broker, "a", "b")
    receive(broker)
    clock.advance(31)
    assert peek(broker) == ["a", "b"]
    expected = ("the lock of the session 's' of 'q' expired; unsettled messages: 1", ["q", "s", None])
    assert events(caplog) == [expected]


def test_a_message_that_reaches_the_delivery_limit_is_logged(
    broker: EmbeddedBroker, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, "a", "b")
    for _ in range(3):
        (message,) = receive(broker)
        settle(broker, ABANDON, message)
    (number,) = {message.sequence_number}
    why = f"message {number} of the session 's' of 'q' was dead-lettered: MaxDeliveryCountExceeded"
    assert events(caplog) == [(why, ["q", "s", number])]


def test_an_expired_message_that_is_dead_lettered_is_logged(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    with broker_with(clock, dead_letter_on_expiration=True) as broker:
        send(broker, "a", time_to_live=10)
        clock.advance(11)
        assert peek(broker) == []
    assert events(caplog) == [("message 1 of the session 's' of 'q' was dead-lettered: TTLExpiredException", ["q", "s", 1])]


def test_a_dead_lettered_session_is_logged_once(broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture) -> None:
    send(broker, "a", "b")
    assert broker.dead_letter_session("q", "s", "", "Gone", None, "").result() == 2
    assert events(caplog) == [("2 messages of the session 's' of 'q' are dead-lettered: Gone", ["q", "s", None])]
