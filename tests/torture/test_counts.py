"""Tests of the check of delivery counts, with forged histories: it accepts right counts and finds wrong ones."""

from __future__ import annotations

import pytest

from .counts import EXCEEDED
from .forged import Forged
from .history import FAILED, OK, UNKNOWN
from .rules import Rules

AZURE = Rules(doubled_sends=True, locks_outlast=False, kills_count=False, fetches_ahead=True)


def received() -> Forged:
    """Return a history in which a holder received a message."""
    return Forged().send("a").accept("p.1").receive("p.1", ("a", 1))


def counts(forged: Forged, rules: Rules | None = None) -> list[int]:
    """Return the delivery counts that the next delivery may have."""
    found = []
    for count in range(1, 5):
        after = forged.copy().accept("q.1").receive("q.1", ("a", 1, count)).settle("complete", "q.1", 1)
        kinds = after.kinds(rules)
        assert kinds in ([], ["count"]), kinds
        found += [count] if not kinds else []
    return found


def test_the_first_delivery_has_the_count_one() -> None:
    assert counts(Forged().send("a")) == [1]


def test_an_abandon_counts() -> None:
    assert counts(received().settle("abandon", "p.1", 1).close("p.1")) == [2]
    assert counts(received().settle("abandon", "p.1", 1).close("p.1", lock_until=100.0), AZURE) == [2]


def test_an_abandon_with_unknown_outcome_may_count() -> None:
    assert counts(received().settle("abandon", "p.1", 1, outcome=UNKNOWN).close("p.1")) == [1, 2]


def test_an_abandon_that_failed_does_not_count() -> None:
    assert counts(received().settle("abandon", "p.1", 1, outcome=FAILED).close("p.1")) == [1]


@pytest.mark.parametrize("rules", [Rules(), AZURE])
def test_a_lock_that_expired_counts(rules: Rules) -> None:
    assert counts(received().event("lost", holder="p.1", left=0.0), rules) == [2]
    # A client whose lock is lost sends no release.
    assert counts(received().event("lost", holder="p.1", left=0.0).close("p.1"), rules) == [2]


@pytest.mark.parametrize("rules", [Rules(), AZURE])
def test_the_death_of_the_holder_counts(rules: Rules) -> None:
    assert counts(received().event("killed", victim="p"), rules) == [2]


def test_a_kill_of_the_gateway_counts_unless_the_messages_are_in_azure() -> None:
    forged = received().event("gateway-down", how="killed").event("gateway-down", how="killed")
    assert counts(forged) == [2]
    assert counts(forged, AZURE) == [1, 2]


def test_the_orderly_end_of_the_gateway_may_count() -> None:
    # The lock may have expired before.
    assert counts(received().event("gateway-down", how="ended")) == [1, 2]


def test_a_lost_link_to_azure_may_count() -> None:
    assert counts(received().event("link-down"), AZURE) == [1, 2]


@pytest.mark.parametrize("rules", [Rules(), AZURE])
def test_a_close_does_not_count(rules: Rules) -> None:
    assert counts(received().close("p.1", lock_until=100.0), rules) == [1]


def test_a_close_may_count_if_its_release_failed_or_came_after_the_expiry() -> None:
    # The message came to the next holder after the time at which the lock expired.
    assert counts(received().close("p.1", lock_until=7.5)) == [1, 2]
    assert counts(received().close("p.1", lock_until=5.5)) == [1, 2]


def test_a_close_may_count_if_the_gateway_was_killed_before_the_release() -> None:
    forged = received().event("gateway-down", how="killed").close("p.1", lock_until=100.0)
    assert counts(forged) == [1, 2]


def test_a_deferred_message_does_not_count() -> None:
    forged = received().settle("defer", "p.1", 1)
    assert forged.copy().receive("p.1", ("a", 1, 1), name="receive_deferred").settle("complete", "p.1", 1).kinds() == []
    again = forged.copy().receive("p.1", ("a", 1, 1), name="receive_deferred").settle("defer", "p.1", 1)
    assert again.copy().receive("p.1", ("a", 1, 1), name="receive_deferred").settle("complete", "p.1", 1).kinds() == []
    assert again.receive("p.1", ("a", 1, 2), name="receive_deferred").settle("complete", "p.1", 1).kinds() == ["count"]


def test_a_message_fetched_ahead_and_given_back_does_not_count() -> None:
    fetched = Forged().send("a", "b").accept("p.1").receive("p.1", ("a", 1), prefetch=5)
    fetched.settle("abandon", "p.1", 1).receive("p.1", ("a", 1, 2), prefetch=5).settle("complete", "p.1", 1)
    for count, found in ((1, []), (2, ["count"])):
        forged = fetched.copy().receive("p.1", ("b", 2, count), name="receive_ahead").settle("complete", "p.1", 2)
        assert forged.close("p.1").kinds() == found
    for count, found in ((1, []), (2, ["count"])):
        forged = fetched.copy().close("p.1", lock_until=100.0).accept("q.1").receive("q.1", ("b", 2, count))
        assert forged.settle("complete", "q.1", 2).kinds() == found


def test_a_message_fetched_ahead_may_count_if_the_lock_expired() -> None:
    fetched = Forged().send("b", "a").accept("p.1").receive("p.1", ("b", 1), prefetch=5).settle("complete", "p.1", 1)
    fetched.event("lost", holder="p.1", left=0.0)
    for count, found in ((1, []), (2, []), (3, ["count"])):
        forged = fetched.copy().accept("q.1").receive("q.1", ("a", 2, count)).settle("complete", "q.1", 2)
        assert forged.kinds() == found


def test_in_front_of_azure_the_gateway_may_have_fetched_the_next_message_when_the_lock_expired() -> None:
    fetched = Forged().send("b", "a").accept("p.1").receive("p.1", ("b", 1)).settle("complete", "p.1", 1)
    closed, lost = fetched.copy().close("p.1", lock_until=100.0), fetched.event("lost", holder="p.1", left=0.0)
    for forged, rules, found in ((lost, AZURE, []), (closed, AZURE, ["count"]), (lost, Rules(), ["count"])):
        after = forged.copy().accept("q.1").receive("q.1", ("a", 2, 2)).settle("complete", "q.1", 2)
        assert after.kinds(rules) == found


def test_in_front_of_azure_the_gateway_may_fetch_a_message_that_was_sent_after_the_receive() -> None:
    forged = Forged().send("b").accept("p.1").receive("p.1", ("b", 1)).settle("complete", "p.1", 1).send("a")
    for after, rules, found in (
        (forged.copy().event("killed", victim="p"), AZURE, []),
        (forged.copy().event("killed", victim="p"), Rules(), ["count"]),
        (forged.copy().close("p.1", lock_until=100.0), AZURE, ["count"]),
    ):
        assert after.accept("q.1").receive("q.1", ("a", 2, 2)).settle("complete", "q.1", 2).kinds(rules) == found
    # The message "c" was sent long after the end of the holder.
    late = forged.event("killed", victim="p").send("c", at=(30, 31)).accept("q.1").receive("q.1", ("a", 2, 1), ("c", 3, 2))
    assert late.settle("complete", "q.1", 2, 3).kinds(AZURE) == ["count"]


def test_in_front_of_azure_the_gateway_may_fetch_an_abandoned_message_again() -> None:
    forged = received().settle("abandon", "p.1", 1).event("lost", holder="p.1", left=0.0)
    assert counts(forged) == [2]
    assert counts(forged, AZURE) == [2, 3]


def test_a_message_handed_out_from_those_fetched_ahead_counts_from_its_request() -> None:
    forged = Forged().send("b", "a").accept("p.1").receive("p.1", ("b", 1), prefetch=5).settle("complete", "p.1", 1)
    forged.event("gateway-down", how="killed").receive("p.1", ("a", 2), name="receive_ahead")
    for count, found in ((1, ["count"]), (2, []), (3, ["count"])):
        after = forged.copy().accept("q.1").receive("q.1", ("a", 2, count)).settle("complete", "q.1", 2)
        assert after.kinds() == found


def test_a_lost_response_may_count() -> None:
    forged = Forged().send("a").accept("p.1").add("receive", "p.1", outcome=UNKNOWN).event("lost", holder="p.1", left=0.0)
    assert counts(forged) == [1, 2]
    forged.accept("r.1").add("receive", "r.1", outcome=UNKNOWN).event("killed", victim="r")
    assert counts(forged) == [1, 2, 3]


def test_a_lost_response_does_not_count_after_a_close_or_to_the_same_holder() -> None:
    forged = Forged().send("a").accept("p.1").add("receive", "p.1", outcome=UNKNOWN)
    assert counts(forged.copy().close("p.1", lock_until=100.0)) == [1]
    for count, found in ((1, []), (2, ["count"])):
        again = forged.copy().receive("p.1", ("a", 1, count)).settle("complete", "p.1", 1)
        assert again.kinds() == found


def test_a_lost_response_before_the_message_was_sent_does_not_count() -> None:
    forged = Forged().accept("p.1").add("receive", "p.1", outcome=UNKNOWN).event("lost", holder="p.1", left=0.0).send("a")
    assert counts(forged) == [1]


def test_several_failed_deliveries_add_up() -> None:
    forged = received().settle("abandon", "p.1", 1).receive("p.1", ("a", 1, 2)).event("killed", victim="p")
    assert counts(forged) == [3]


# Dead letters. The limit in the forged histories is 3.


def failed(times: int) -> Forged:
    """Return a history in which a message was abandoned some times."""
    forged = Forged().send("a").accept("p.1")
    for count in range(1, times + 1):
        forged.receive("p.1", ("a", 1, count)).settle("abandon", "p.1", 1)
    return forged.close("p.1", lock_until=1000.0)


@pytest.mark.parametrize(("times", "found"), [(0, ["dead letter"]), (1, ["dead letter"]), (2, ["dead letter"]), (3, [])])
def test_a_message_is_dead_lettered_only_after_enough_failed_deliveries(times: int, found: list[str]) -> None:
    assert failed(times).left("dead", ("a", 1, times), reason=EXCEEDED).kinds() == found


def test_deliveries_that_did_not_fail_do_not_make_a_message_a_dead_letter() -> None:
    forged = failed(1)
    for number in range(3):
        forged.accept(f"q.{number}").receive(f"q.{number}", ("a", 1, 2)).close(f"q.{number}", lock_until=1000.0)
    assert forged.left("dead", ("a", 1, 3), reason=EXCEEDED).kinds() == ["dead letter"]


def test_deliveries_whose_responses_were_lost_may_make_a_message_a_dead_letter() -> None:
    forged = Forged().send("a")
    for name in "pqr":
        forged.accept(f"{name}.1").add("receive", f"{name}.1", outcome=UNKNOWN).event("killed", victim=name)
    assert forged.copy().left("dead", ("a", 1, 3), reason=EXCEEDED).kinds() == []
    assert Forged().send("a").left("dead", ("a", 1, 3), reason=EXCEEDED).kinds() == ["dead letter"]


def test_a_message_is_not_delivered_beyond_the_limit() -> None:
    forged = failed(3).accept("q.1").receive("q.1", ("a", 1, 4)).settle("complete", "q.1", 1, outcome=OK).send("b")
    assert forged.left("active", ("b", 2, 0)).kinds() == ["count"]


def test_a_message_that_came_with_a_settlement_may_count_before_it_is_seen() -> None:
    history = Forged().send("0").send("a").accept("p.1").receive("p.1", ("0", 0))
    fetched = history.copy().settle("complete", "p.1", 0, prefetch=1).event("killed", victim="p")
    assert counts(fetched) == [1, 2]
    assert counts(history.settle("complete", "p.1", 0).event("killed", victim="p")) == [1]


def test_a_message_that_came_with_a_lost_accept_may_count_before_it_is_seen() -> None:
    history = Forged().send("a").add("accept", "p.1", "", UNKNOWN, prefetch=3).event("killed", victim="p")
    assert counts(history) == [1, 2]
    assert counts(Forged().send("a").add("accept", "p.1", "", UNKNOWN).event("killed", victim="p")) == [1]


def test_a_delivery_whose_response_was_delayed_can_have_come_before_one_that_was_abandoned_meanwhile() -> None:
    forged = Forged().send("a").accept("p.1").event("link-down")
    forged.receive("p.1", ("a", 1, 1), at=(4.2, 9)).add("accept", "q.1", at=(5.5, 6)).receive("q.1", ("a", 1, 1), at=(6.2, 7))
    forged.settle("abandon", "q.1", 1, at=(7.2, 7.8)).event("lost", holder="p.1", left=0.0).close("q.1", lock_until=100.0)
    assert counts(forged, AZURE) == [2]


def test_a_delivery_whose_response_was_delayed_can_have_come_before_several_others() -> None:
    forged = Forged().send("a").accept("p.1").event("gateway-down", how="killed")
    forged.receive("p.1", ("a", 1, 1), at=(4.2, 12)).add("accept", "q.1", at=(5.5, 6)).receive(
        "q.1", ("a", 1, 2), at=(6.2, 7)
    )
    forged.settle("defer", "q.1", 1, at=(7.2, 7.4)).receive("q.1", ("a", 1, 2), name="receive_deferred", at=(7.5, 8))
    assert forged.settle("complete", "q.1", 1, at=(8.2, 9)).close("p.1").kinds() == []


def test_a_message_that_came_with_the_lost_first_attempt_of_an_accept_may_count_before_it_is_seen() -> None:
    # The gateway was killed before it answered with the session. The accept was repeated, and got another session.
    killed = Forged().send("a").event("gateway-down", how="killed")
    assert counts(killed.copy().add("accept", "q.1", "t", at=(2, 5), prefetch=3)) == [1, 2]
    assert counts(killed.copy().add("accept", "q.1", "t", at=(2, 5))) == [1]
    assert counts(killed.copy().add("accept", "q.1", "t", at=(4, 5), prefetch=3)) == [1]
    assert counts(Forged().send("a").add("accept", "q.1", "t", at=(2, 5), prefetch=3)) == [1]
