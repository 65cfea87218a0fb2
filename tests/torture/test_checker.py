"""Tests of the checker: it accepts correct histories and finds each kind of violation. The histories are forged."""

from __future__ import annotations

from pathlib import Path

import pytest

from .counts import EXCEEDED
from .forged import Forged
from .history import FAILED, OK, UNKNOWN, Event, Operation, Recorder, read
from .rules import Rules


def test_a_correct_history_has_no_violation() -> None:
    forged = (
        Forged()
        .send("a", "b")
        .send("c", session="t")
        .consume("p.1", ("a", 1), ("b", 2))
        .consume("q.1", ("c", 3), session="t")
    )
    assert forged.kinds() == []


def test_an_accepted_message_that_is_never_seen_again_is_lost() -> None:
    assert Forged().send("a").send("b").consume("p.1", ("b", 2)).kinds() == ["lost"]


def test_a_received_message_that_is_gone_without_a_complete_is_lost() -> None:
    assert Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).close("p.1").kinds() == ["lost"]


def test_a_message_that_is_gone_after_a_failed_complete_is_lost() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1))
    assert forged.settle("complete", "p.1", 1, outcome=FAILED).close("p.1").kinds() == ["lost"]


def test_a_message_may_be_gone_after_a_complete_with_unknown_outcome() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1))
    assert forged.settle("complete", "p.1", 1, outcome=UNKNOWN).close("p.1").kinds() == []


def test_a_send_with_unknown_outcome_may_have_taken_effect_or_not() -> None:
    assert Forged().send("a", outcome=UNKNOWN).kinds() == []
    assert Forged().send("a", outcome=UNKNOWN).consume("p.1", ("a", 1)).kinds() == []


def test_a_message_of_a_failed_send_is_invented() -> None:
    assert Forged().send("a", outcome=FAILED).consume("p.1", ("a", 1)).kinds() == ["invented"]


def test_a_message_that_was_not_sent_is_invented() -> None:
    assert Forged().consume("p.1", ("a", 1)).kinds() == ["invented"]


def test_a_message_stored_twice_is_doubled() -> None:
    assert Forged().send("a").consume("p.1", ("a", 1), ("a", 2)).kinds() == ["doubled"]


def test_with_doubled_sends_a_message_may_be_stored_twice_only_during_a_kill_of_the_gateway() -> None:
    forged = Forged().event("gateway-down").send("a", at=(0, 3)).consume("p.1", ("a", 1), ("a", 2))
    assert forged.kinds(Rules(doubled_sends=True)) == []
    forged = Forged().event("gateway-down").send("a").consume("p.1", ("a", 1), ("a", 2))
    assert forged.kinds(Rules(doubled_sends=True)) == ["doubled"]


def test_a_message_in_another_session_is_misplaced() -> None:
    assert Forged().send("a").consume("p.1", ("a", 1), session="t").kinds() == ["misplaced"]


def test_a_completed_message_that_still_exists_is_undone() -> None:
    assert Forged().send("a").consume("p.1", ("a", 1)).left("active", ("a", 1, 1)).kinds() == ["undone"]


def test_a_completed_message_that_is_delivered_again_is_undone() -> None:
    forged = Forged().send("a").consume("p.1", ("a", 1)).accept("q.1").receive("q.1", ("a", 1, 2))
    assert "undone" in forged.kinds()


def test_a_dead_letter_needs_a_dead_letter_operation() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).settle("dead_letter", "p.1", 1).close("p.1")
    assert forged.left("dead", ("a", 1, 1), reason="torture").kinds() == []
    assert Forged().send("a").left("dead", ("a", 1, 3), reason="torture").kinds() == ["misplaced"]


def test_a_deferred_message_without_a_defer_operation_is_misplaced() -> None:
    assert Forged().send("a").left("deferred", ("a", 1, 1)).kinds() == ["misplaced"]


def test_a_send_begun_after_another_was_confirmed_must_be_stored_behind_it() -> None:
    assert Forged().send("a").send("b").consume("p.1", ("b", 1), ("a", 2)).kinds() == ["misordered"]


def test_overlapping_sends_may_be_stored_in_any_order() -> None:
    assert Forged().send("a", at=(0, 5)).send("b", at=(1, 4)).consume("p.1", ("b", 1), ("a", 2)).kinds() == []


def test_the_messages_of_one_send_must_keep_their_order() -> None:
    assert Forged().send("a", "b").consume("p.1", ("b", 1), ("a", 2)).kinds() == ["misordered"]


def test_a_message_completed_before_an_earlier_one_is_misordered() -> None:
    assert Forged().send("a").send("b").consume("p.1", ("b", 2), ("a", 1)).kinds() == ["misordered"]


def test_a_message_completed_before_one_much_earlier_is_misordered() -> None:
    forged = Forged().send("a", "b", "c").accept("p.1").receive("p.1", ("a", 1), ("b", 2), ("c", 3))
    forged.settle("complete", "p.1", 3, at=(10, 11)).settle("complete", "p.1", 2, at=(10, 14))
    assert forged.settle("complete", "p.1", 1, at=(12, 13)).close("p.1").kinds() == ["misordered"]


def test_a_message_completed_before_one_that_is_left_over_is_misordered() -> None:
    assert Forged().send("a", "b").consume("p.1", ("b", 2)).left("active", ("a", 1, 1)).kinds() == ["misordered"]


def test_later_messages_may_overtake_a_deferred_one() -> None:
    forged = Forged().send("a", "b").accept("p.1").receive("p.1", ("a", 1)).settle("defer", "p.1", 1)
    forged.receive("p.1", ("b", 2)).settle("complete", "p.1", 2).receive("p.1", ("a", 1, 1), name="receive_deferred")
    assert forged.settle("complete", "p.1", 1).close("p.1").kinds() == []


@pytest.mark.parametrize("name", ["complete", "dead_letter", "abandon", "defer"])
def test_a_settlement_confirmed_to_the_previous_holder_is_two_holders(name: str) -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).event("gateway-down").accept("q.1")
    assert "two holders" in forged.settle(name, "p.1", 1).left("dead", ("a", 1, 1)).kinds()


@pytest.mark.parametrize("name", ["renew", "get_state", "set_state"])
def test_another_operation_confirmed_to_the_previous_holder_is_two_holders(name: str) -> None:
    forged = Forged().accept("p.1").accept("q.1").add(name, "p.1", result={"value": None}, value=None)
    assert forged.kinds() == ["two holders"]


def test_a_receive_confirmed_to_the_previous_holder_is_two_holders() -> None:
    assert "two holders" in Forged().send("a").accept("p.1").accept("q.1").receive("p.1", ("a", 1)).kinds()


def test_an_accept_whose_response_was_read_late_may_have_expired_before_the_next_accept() -> None:
    # For example, the process was paused: its lock was granted at 3 and expired before the other accept.
    forged = Forged().send("a").add("accept", "q.1", at=(3, 30)).add("accept", "p.1", at=(20, 21))
    forged.receive("p.1", ("a", 1), at=(31, 32)).settle("complete", "p.1", 1)
    assert forged.kinds() == []


def test_alternating_confirmations_are_two_holders_even_if_an_accept_was_read_late() -> None:
    forged = Forged().send("a").add("accept", "q.1", at=(3, 30)).add("accept", "p.1", at=(20, 21))
    forged.receive("p.1", ("a", 1), at=(31, 32)).add("renew", "q.1").settle("complete", "p.1", 1)
    assert forged.kinds() == ["two holders"]


def test_a_settlement_that_overlaps_the_next_accept_is_not_two_holders() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).settle("complete", "p.1", 1, at=(7, 12))
    forged.operations.append(Operation("q", "accept", "q.1", "s", 8, 9, OK))
    forged.events.append(Event("lost", "p", 13, {"holder": "p.1", "left": 0}))
    assert forged.kinds() == []


def test_a_retried_settlement_may_be_confirmed_after_the_next_accept() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).settle("complete", "p.1", 1, outcome=UNKNOWN)
    assert forged.accept("q.1").settle("complete", "p.1", 1).kinds() == []


@pytest.mark.parametrize("cause", ["nothing", "close", "killed", "lost", "gateway-down", "link-down", "abandon"])
def test_a_duplicate_needs_a_cause(cause: str) -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1))
    if cause == "close":
        forged.close("p.1")
    elif cause == "abandon":
        forged.settle("abandon", "p.1", 1)
    elif cause != "nothing":
        forged.event(cause, victim="p", holder="p.1", left=0.0)
    forged.accept("q.1").receive("q.1", ("a", 1, 1 if cause == "close" else 2)).settle("complete", "q.1", 1)
    assert forged.kinds() == (["duplicate"] if cause == "nothing" else [])


@pytest.mark.parametrize(("lock_until", "found"), [(5, []), (7, []), (8.5, ["duplicate"]), (12, ["duplicate"])])
def test_a_lock_that_expired_before_its_client_closed_it_explains_a_later_delivery(
    lock_until: float, found: list[str]
) -> None:
    forged = Forged().send("a").add("accept", "p.1", at=(2, 3)).receive("p.1", ("a", 1), at=(3, 4))
    forged.add("accept", "q.1", at=(6, 7)).receive("q.1", ("a", 1, 2), at=(7, 8)).settle("complete", "q.1", 1, at=(8, 9))
    # For example, the process was paused from 4 to 10, and the close came before the report of the lost lock.
    assert forged.add("close", "p.1", at=(10, 11), lock_until=lock_until).kinds() == found


@pytest.mark.parametrize(("expired", "found"), [(5, []), (7, []), (8.5, ["duplicate"]), (10, ["duplicate"])])
def test_a_lock_that_was_reported_as_lost_explains_a_delivery_after_its_expiry(expired: float, found: list[str]) -> None:
    forged = Forged().send("a").add("accept", "p.1", at=(2, 3)).receive("p.1", ("a", 1), at=(3, 4))
    forged.add("accept", "q.1", at=(6, 7)).receive("q.1", ("a", 1, 2), at=(7, 8)).settle("complete", "q.1", 1, at=(8, 9))
    forged.events.append(Event("lost", "p", 10, {"holder": "p.1", "left": expired - 10}))
    assert [kind for kind in forged.kinds() if kind != "count"] == found
    # In front of Azure, a lost link may have ended the lock before.
    assert "duplicate" not in forged.kinds(Rules(locks_outlast=False))


def test_a_redelivery_to_the_same_holder_needs_an_abandon() -> None:
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).receive("p.1", ("a", 1, 2))
    assert forged.settle("complete", "p.1", 1).kinds() == ["duplicate"]
    forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1)).settle("abandon", "p.1", 1)
    assert forged.receive("p.1", ("a", 1, 2)).settle("complete", "p.1", 1).kinds() == []


def test_messages_that_come_during_the_delay_of_an_abandon_are_early() -> None:
    for delay, found in ((0.0, []), (4.0, []), (6.0, ["early"])):
        forged = Forged().send("a").accept("p.1").receive("p.1", ("a", 1), at=(3, 4))
        forged.settle("abandon", "p.1", 1, at=(5, 6), delay=delay)
        assert forged.copy().receive("p.1", ("a", 1, 2), at=(8, 10)).settle("complete", "p.1", 1).kinds() == found
        assert forged.copy().receive("p.1", at=(8, 9)).settle("complete", "p.1", 1).kinds() == []
        dead = forged.copy().send("b").receive("p.1", ("b", 2), at=(8, 10)).settle("complete", "p.1", 2)
        assert "early" not in dead.left("dead", ("a", 1, 3), reason=EXCEEDED).kinds()
        after = forged.event("gateway-down", how="ended").receive("p.1", ("a", 1, 2), at=(8, 10))
        assert after.settle("complete", "p.1", 1).kinds() == []


def test_reading_a_state_that_is_not_the_last_one_is_a_violation() -> None:
    forged = Forged().accept("p.1").add("set_state", "p.1", value="1").add("set_state", "p.1", value="2")
    assert forged.add("get_state", "p.1", result={"value": "1"}).kinds() == ["state"]


def test_a_state_set_with_unknown_outcome_may_be_read_or_not() -> None:
    for value in ("1", "2"):
        forged = Forged().accept("p.1").add("set_state", "p.1", value="1")
        forged.add("set_state", "p.1", outcome=UNKNOWN, value="2")
        assert forged.add("get_state", "p.1", result={"value": value}).kinds() == []


def test_a_state_that_was_never_set_must_be_none() -> None:
    assert Forged().accept("p.1").add("get_state", "p.1", result={"value": None}).kinds() == []
    assert Forged().accept("p.1").add("get_state", "p.1", result={"value": "x"}).kinds() == ["state"]


def test_a_lock_that_ends_early_without_a_cause_is_a_violation() -> None:
    assert Forged().accept("p.1").event("lost", holder="p.1", left=3.0).kinds() == ["lock taken"]
    assert Forged().accept("p.1").event("lost", holder="p.1", left=-0.1).kinds() == []
    assert Forged().accept("p.1").event("gateway-down").event("lost", holder="p.1", left=3.0).kinds() == []
    assert Forged().accept("p.1").event("lost", holder="p.1", left=3.0).kinds(Rules(locks_outlast=False)) == []


def test_a_prefetched_message_may_be_returned_after_its_lock_was_lost() -> None:
    forged = Forged().send("a", "b").accept("p.1").receive("p.1", ("a", 1)).event("gateway-down")
    forged.accept("q.1").receive("q.1", ("a", 1, 2), ("b", 2, 2)).settle("complete", "q.1", 1, 2)
    ahead = forged.receive("p.1", ("b", 2, 1), name="receive_ahead")
    assert "undone" not in ahead.kinds()
    assert "two holders" not in ahead.kinds()


def test_a_history_is_read_from_the_files_of_its_processes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "p", "p")
    with recorder.operation("accept", "p.1") as result:
        result.update(outcome=OK, session="s")
    with pytest.raises(ZeroDivisionError), recorder.operation("receive", "p.1", session="s"):
        raise ZeroDivisionError
    recorder.record_event("lost", holder="p.1", left=1.0)
    # As if the process was killed during an operation, and while it wrote a line.
    with (tmp_path / "p").open("ab") as file:
        file.write(
            b'{"begin":7,"process":"p","name":"complete","holder":"p.1","session":"s","sequences":[1],"t":9e9}\n{"end":'
        )
    history = read([tmp_path / "p"])
    assert [(one.name, one.session, one.outcome) for one in history.operations] == [
        ("accept", "s", OK),
        ("receive", "s", UNKNOWN),
        ("complete", "s", UNKNOWN),
    ]
    assert history.operations[-1].end == float("inf")
    assert [(event.name, event.fields) for event in history.events] == [("lost", {"holder": "p.1", "left": 1.0})]


def test_a_message_that_came_with_the_lock_came_when_the_lock_was_granted() -> None:
    history = Forged().send("a").accept("p.1").receive("p.1", ("a", 1))
    history.add("accept", "q.1", at=(1.0, 20.0), result={"granted": 10.0}, prefetch=3)
    history.settle("abandon", "p.1", 1, at=(5.0, 6.0)).add("close", "p.1", at=(7.0, 8.0))
    history.receive("q.1", ("a", 1, 2), name="receive_ahead").settle("complete", "q.1", 1)
    assert history.kinds() == []


def accepted_late(granted: float, count: int = 1) -> Forged:
    """Return a history in which ``q.1`` got the message with an accept whose answer came at 20. It seems granted earlier."""
    history = Forged().send("a").accept("p.1").add("accept", "q.1", at=(3.0, 20.0), result={"granted": granted}, prefetch=3)
    return history.receive("q.1", ("a", 1, count), name="receive_ahead", at=(20.1, 20.2))


def received_at_9(history: Forged, count: int = 1) -> Forged:
    return history.add("receive", "p.1", at=(9.0, 9.1), result={"messages": [["a", 1, count]]})


def test_a_client_reckons_that_its_lock_was_granted_earlier_than_it_was_if_its_request_was_on_its_way_for_long() -> None:
    history = received_at_9(accepted_late(granted=4.0))
    assert history.copy().add("close", "p.1", at=(9.2, 9.3)).settle("complete", "q.1", 1).kinds() == []
    # Neither of them has given the message back.
    assert history.settle("complete", "q.1", 1).kinds() == ["duplicate"]


def test_an_accept_whose_answer_was_late_may_have_come_before_the_next_delivery() -> None:
    history = received_at_9(accepted_late(granted=4.0))
    history.events.append(Event("gateway-down", "scene", 6.0, {"how": "ended"}))
    assert history.settle("complete", "p.1", 1, at=(20.3, 20.4)).kinds() == []


def test_delivery_counts_tell_the_order_of_deliveries() -> None:
    history = received_at_9(accepted_late(granted=4.0), count=2)
    history.events.append(Event("lost", "q", 8.0, {"holder": "q.1", "left": 0.0}))
    assert history.settle("complete", "p.1", 1, at=(20.3, 20.4)).kinds() == []


def test_a_lock_is_never_granted_earlier_than_its_client_reckons() -> None:
    history = received_at_9(accepted_late(granted=9.5), count=2)
    history.events.append(Event("lost", "q", 8.0, {"holder": "q.1", "left": 0.0}))
    assert history.settle("complete", "p.1", 1, at=(20.3, 20.4)).kinds() == ["count", "duplicate"]


def test_a_late_settlement_of_a_message_that_was_dead_lettered_at_its_limit_does_not_disturb_the_order() -> None:
    history = Forged().send("a", "b").accept("p.1")
    for count in (1, 2, 3):
        history.receive("p.1", ("a", 1, count)).settle("abandon", "p.1", 1)
    history.receive("p.1", ("b", 2)).settle("complete", "p.1", 2).settle("complete", "p.1", 1, outcome=UNKNOWN)
    assert history.copy().left("dead", ("a", 1, 3), reason=EXCEEDED).kinds() == []
    assert history.kinds() == ["misordered"]
