"""The pauses between attempts to reach Azure."""

from __future__ import annotations

import pytest

from azsession.broker.azure import backoff
from azsession.broker.azure.backoff import FIRST_PAUSE, MAX_PAUSE, Backoff


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(backoff.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def pauses(clock: Clock, subject: Backoff, count: int) -> list[float]:
    found = []
    for _ in range(count):
        subject.fail()
        found.append(subject.left())
        clock.now += subject.left()
    return found


def test_each_pause_is_up_to_twice_as_long_up_to_the_maximum(clock: Clock) -> None:
    for number, pause in enumerate(pauses(clock, Backoff(), 100)):
        longest = min(MAX_PAUSE, FIRST_PAUSE * 2**number)
        assert longest / 2 - 1e-6 <= pause <= longest + 1e-6


def test_pauses_differ_between_processes(clock: Clock) -> None:
    assert len({round(pauses(clock, Backoff(), 3)[2], 6) for _ in range(20)}) > 10


def test_attempts_that_fail_together_count_once(clock: Clock) -> None:
    subject = Backoff()
    for _ in range(50):
        subject.fail()
    assert subject.left() <= FIRST_PAUSE


def test_a_success_begins_anew(clock: Clock) -> None:
    subject = Backoff()
    pauses(clock, subject, 10)
    subject.succeed()
    assert subject.left() == 0.0
    assert pauses(clock, subject, 1)[0] <= FIRST_PAUSE
