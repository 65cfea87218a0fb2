"""Accepting a session of the embedded broker: which session is next, and repeated requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import SessionLockedError
from azsession.broker.embedded import EmbeddedBroker

from .helpers import COMPLETE, DEFER, HandClock, accept, copy_data, receive, send, settle, undo_accept


def test_accept_takes_the_session_with_the_oldest_first_message(broker: EmbeddedBroker) -> None:
    for session, body in (("z", "1"), ("a", "2"), ("m", "3"), ("z", "4")):
        send(broker, body, session=session)
    assert [accept(broker, lock) for lock in "ABCD"] == ["z", "a", "m", None]


def test_accept_ignores_messages_that_are_completed(broker: EmbeddedBroker) -> None:
    send(broker, "1", session="x")
    send(broker, "2", session="y")
    send(broker, "3", session="x")
    settle(broker, COMPLETE, *receive(broker, "A", session="x"), session="x")
    broker.release("q", "x", "A").result()
    assert accept(broker, "B") == "y"


def test_accept_ignores_a_session_without_active_messages(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    settle(broker, DEFER, *receive(broker, "A"))
    broker.set_state("q", "s", "A", b"state").result()
    broker.release("q", "s", "A").result()
    assert accept(broker, "B") is None


def test_accept_of_a_named_session_needs_no_messages(broker: EmbeddedBroker) -> None:
    assert accept(broker, "A", "empty") == "empty"
    with pytest.raises(SessionLockedError):
        accept(broker, "B", "empty")


def test_a_repeated_accept_gets_the_same_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", session="x")
    send(broker, "2", session="y")
    assert accept(broker, "A", request_id="r1") == "x"
    clock.advance(29)
    assert accept(broker, "A", request_id="r1") == "x"
    assert accept(broker, "B", request_id="r2") == "y"
    clock.advance(2)
    with pytest.raises(SessionLockedError):
        accept(broker, "C", "x")


def test_an_accept_repeated_after_its_lock_ended_does_not_get_the_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", session="x")
    assert accept(broker, "A", request_id="r1") == "x"
    clock.advance(30)
    assert accept(broker, "A", request_id="r1") is None
    assert accept(broker, "B", request_id="r2") == "x"


def test_accept_does_not_look_at_locked_sessions(broker: EmbeddedBroker) -> None:
    for number in range(300):
        send(broker, "a", session=f"s{number}")
    for number in range(299):
        assert accept(broker, f"lock {number}") == f"s{number}"
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def steps_of(lock: str) -> int:
        nonlocal steps
        steps = 0
        broker._core.connection.set_progress_handler(count, 10)
        accept(broker, lock)
        broker._core.connection.set_progress_handler(None, 0)
        return steps

    with EmbeddedBroker(queues=["q"], clock=HandClock()) as small:
        send(small, "a", session="s299")
        small._core.connection.set_progress_handler(count, 10)
        accept(small, "lock")
        small._core.connection.set_progress_handler(None, 0)
        alone = steps
    assert steps_of("last") <= 2 * alone
    assert steps_of("none is left") <= 2 * alone


def test_accept_takes_a_session_whose_lock_ended(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    assert accept(broker, "A") == "s"
    assert accept(broker, "B") is None
    clock.advance(61)
    assert accept(broker, "B") == "s"
    broker.release("q", "s", "B").result()
    assert accept(broker, "C") == "s"


def test_accept_does_not_take_a_session_that_was_locked_before_its_first_message(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    send(broker, "a")
    assert accept(broker, "B") is None
    broker.release("q", "s", "A").result()
    assert accept(broker, "B") == "s"


def test_no_session_is_locked_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a")
        assert accept(broker, "A") == "s"
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert accept(broker, "B") == "s"


def test_accepts_are_remembered_as_long_as_their_locks() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        send(broker, "x")
        for number in range(300):
            assert accept(broker, f"holder-{number}", request_id=f"r-{number}") == "s"
            broker.release("q", "s", f"holder-{number}").result()
        assert len(broker._core.queues["q"].accepts) < 100
        for number in range(100):
            send(broker, "x", session=f"held-{number}")
            assert accept(broker, f"h-{number}", request_id=f"a-{number}")
        # A repeated accept gets the same session while its lock lasts.
        assert accept(broker, "h-1", request_id="a-1") == accept(broker, "h-1", request_id="a-1")


def test_an_accept_that_is_undone_frees_the_session_for_all_holders(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    for holder in ("A", "A", "B"):
        assert accept(broker, holder) == "s"
        undo_accept(broker, holder)


def test_an_accept_that_was_repeated_is_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    assert accept(broker, "A", request_id="r1") == "s"
    assert accept(broker, "A", request_id="r1") == "s"
    undo_accept(broker, "A")
    assert accept(broker, "B") is None
    undo_accept(broker, "A")
    assert accept(broker, "B") == "s"


def test_a_lock_that_an_accept_did_not_take_is_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    settle(broker, COMPLETE, *receive(broker, "A"))
    assert accept(broker, "A", "s") == "s"
    undo_accept(broker, "A")
    with pytest.raises(SessionLockedError):
        accept(broker, "B", "s")
