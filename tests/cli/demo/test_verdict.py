"""The check of a demo run, with correct and forged records."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.cli.demo.data import Roles, from_messages
from azsession.cli.demo.verdict import Leftover, ObservedDelivery, Record, compact, judge

from .helpers import message, perfect

SENT = from_messages(message(session_id, n=number) for number, session_id in enumerate("abacabacabcc"))
ROLES = Roles(SENT[2].message_id, SENT[4].message_id, SENT[5].message_id)


def test_a_perfect_record_has_no_fault() -> None:
    assert judge(SENT, ROLES, perfect(SENT, ROLES)) == []


def lost(deliveries: list[ObservedDelivery]) -> None:
    del deliveries[0]


def lost_at_the_end(deliveries: list[ObservedDelivery]) -> None:
    del deliveries[-1]


def lost_second_delivery(deliveries: list[ObservedDelivery]) -> None:
    deliveries.remove(next(each for each in deliveries if each.delivery_count == 2))


def doubled(deliveries: list[ObservedDelivery]) -> None:
    deliveries.insert(1, deliveries[0])


def doubled_later(deliveries: list[ObservedDelivery]) -> None:
    deliveries.append(deliveries[0])


def misordered(deliveries: list[ObservedDelivery]) -> None:
    deliveries.append(deliveries.pop(0))


def overtaken(deliveries: list[ObservedDelivery]) -> None:
    """Move the redelivery of the abandoned message behind a later message."""
    again = next(each for each in deliveries if each.delivery_count == 2)
    deliveries.remove(again)
    deliveries.append(again)


def not_settled(deliveries: list[ObservedDelivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], outcome=None)


def settled_otherwise(deliveries: list[ObservedDelivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], outcome="dead-lettered")


def wrong_count(deliveries: list[ObservedDelivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], delivery_count=2)


def other_body(deliveries: list[ObservedDelivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], body=b"{}")


def other_session(deliveries: list[ObservedDelivery]) -> None:
    deliveries[0] = attrs.evolve(deliveries[0], session_id="b")


def never_sent(deliveries: list[ObservedDelivery]) -> None:
    deliveries.append(ObservedDelivery("a", "stranger", b"{}", 1, "completed"))


def nameless(deliveries: list[ObservedDelivery]) -> None:
    deliveries.append(ObservedDelivery("a", None, b"{}", 1, "completed"))


FORGERIES = {
    lost: {"lost"},
    lost_at_the_end: {"lost"},
    lost_second_delivery: {"lost"},
    doubled: {"doubled"},
    doubled_later: {"doubled", "out of order"},
    misordered: {"out of order"},
    overtaken: {"out of order"},
    not_settled: {"other"},
    settled_otherwise: {"other"},
    wrong_count: {"other"},
    other_body: {"other"},
    other_session: {"other", "lost"},
    never_sent: {"other"},
    nameless: {"other"},
}


@pytest.mark.parametrize(("forge", "kinds"), FORGERIES.items(), ids=[forge.__name__ for forge in FORGERIES])
def test_a_forged_record_has_the_expected_faults(forge: Callable[[list[ObservedDelivery]], None], kinds: set[str]) -> None:
    record = perfect(SENT, ROLES)
    deliveries = list(record.deliveries)
    forge(deliveries)
    assert {fault.kind for fault in judge(SENT, ROLES, attrs.evolve(record, deliveries=deliveries))} == kinds


@given(st.lists(st.integers(0, 3), max_size=7))
def test_any_order_except_the_sent_one_is_a_fault(numbers: list[int]) -> None:
    sent = from_messages(message("a", n=number) for number in range(4))
    deliveries = [ObservedDelivery("a", sent[number].message_id, sent[number].body, 1, "completed") for number in numbers]
    faults = judge(sent, Roles(), Record(deliveries, {}, Leftover(0, 0)))
    assert (faults == []) == (numbers == [0, 1, 2, 3])


def test_a_slow_session_without_a_renewal_is_a_fault() -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), renewals={}))
    assert [fault.session_id for fault in faults] == [SENT[2].session_id]


def test_an_error_of_a_worker_is_a_fault() -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), errors=["SessionNotFoundError: the lock is lost"]))
    assert [fault.text for fault in faults] == ["SessionNotFoundError: the lock is lost"]


def leftovers() -> dict[str, Leftover]:
    good = perfect(SENT, ROLES).leftover
    (letter,) = good.dead_letters
    return {
        "active": attrs.evolve(good, active=1),
        "listed": attrs.evolve(good, listed=1),
        "no dead letter": attrs.evolve(good, dead_letters=[]),
        "two dead letters": attrs.evolve(good, dead_letters=[letter, letter]),
        "other reason": attrs.evolve(
            good, dead_letters=[attrs.evolve(letter, dead_letter_reason="MaxDeliveryCountExceeded")]
        ),
        "other body": attrs.evolve(good, dead_letters=[attrs.evolve(letter, body=b"")]),
        "other message": attrs.evolve(good, dead_letters=[attrs.evolve(letter, message_id=SENT[0].message_id)]),
    }


@pytest.mark.parametrize("name", leftovers())
def test_unexpected_messages_left_in_the_broker_are_a_fault(name: str) -> None:
    faults = judge(SENT, ROLES, attrs.evolve(perfect(SENT, ROLES), leftover=leftovers()[name]))
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([1], "1"),
        ([1, 2, 3], "1-3"),
        ([1, 2, 2, 3], "1-2, 2-3"),
        ([3, 1, 2], "3, 1-2"),
        (list(range(1, 60, 2)), "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 18 more runs"),
    ],
)
def test_compact_shows_numbers_as_runs(numbers: list[int], text: str) -> None:
    assert compact(numbers) == text
