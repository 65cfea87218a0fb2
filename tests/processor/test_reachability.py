"""`Reachability`: what begins and what ends an outage."""

from __future__ import annotations

from azsession.processor.reachability import Reachability


def test_an_outage_begins_with_the_first_error_and_ends_with_the_first_answer() -> None:
    broker = Reachability()
    assert not broker.is_reached
    assert not broker.answered()
    assert broker.is_reached
    assert [broker.failed(), broker.failed()] == [True, False]
    assert not broker.is_reached
    assert [broker.answered(), broker.answered()] == [True, False]
    assert broker.is_reached


def test_an_outage_can_begin_before_the_first_answer() -> None:
    broker = Reachability()
    assert broker.failed()
    assert broker.answered()
