"""`SessionFlow`: windows, ids and waiting frames of one end of an AMQP session."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import amqp
from azsession.amqp.session_flow import INCOMING_WINDOW

TOP = 2**32


def made(window: int = 2, first_id: int = 0) -> tuple[amqp.SessionFlow[str], list[bytes]]:
    """Return the flow of a session whose peer has a window, and the list of the frames that it sends."""
    sent: list[bytes] = []
    flow: amqp.SessionFlow[str] = amqp.SessionFlow(3, sent.append)
    flow.on_begin(amqp.Begin(None, first_id, window, 100, 255))
    return flow, sent


def read(frame: bytes) -> Any:
    return amqp.decode_frame(frame[8:])[1]


def deliver(flow: amqp.SessionFlow[str], owner: str, size: int = 10) -> int:
    return flow.transfer(owner, handle=1, tag=b"t", payload=bytes(size), max_frame_size=512)


def window(following: int | None, size: int) -> amqp.Flow:
    return amqp.Flow(following, size, 0, 1, None, None, None, False, False)


def test_frames_wait_for_the_window_of_the_peer() -> None:
    flow, sent = made(2)
    assert [deliver(flow, "a") for _ in range(4)] == [0, 1, 2, 3]
    assert (len(sent), flow.has_window) == (2, False)
    flow.on_flow(window(2, 1))
    assert (len(sent), flow.has_window) == (3, False)
    flow.on_flow(window(3, 5))
    assert (len(sent), flow.has_window) == (4, True)
    assert [read(frame).delivery_id for frame in sent] == [0, 1, 2, 3]


def test_a_window_counts_from_the_frames_that_the_peer_has_seen() -> None:
    flow, sent = made(3)
    for _ in range(3):
        deliver(flow, "a")
    # The peer wrote this when it had seen one frame: two of its window are used.
    flow.on_flow(window(1, 3))
    for _ in range(3):
        deliver(flow, "a")
    assert len(sent) == 4
    # A peer that had not seen the begin means the window from the start.
    flow.on_flow(window(None, 5))
    assert len(sent) == 5


def test_only_the_waiting_frames_of_a_link_are_dropped() -> None:
    flow, sent = made(1)
    deliver(flow, "a", 1000)
    deliver(flow, "b")
    flow.drop("a")
    flow.on_flow(window(1, 10))
    assert [read(frame).delivery_id for frame in sent] == [0, 1]
    deliver(flow, "c", 20_000)
    flow.clear()
    count = len(sent)
    flow.on_flow(window(count, 10))
    assert (len(sent), flow.has_window) == (count, True)


def test_a_peer_gets_a_new_window_when_it_has_used_half() -> None:
    flow, sent = made()
    for _ in range(INCOMING_WINDOW // 2 - 1):
        assert flow.on_transfer()
    assert not flow.owes_flow
    assert flow.on_transfer()
    assert flow.owes_flow
    flow.send_flow()
    assert not flow.owes_flow
    answer = read(sent[-1])
    assert (answer.next_incoming_id, answer.incoming_window) == (INCOMING_WINDOW // 2, INCOMING_WINDOW)


def test_a_peer_that_ignores_the_window_is_found() -> None:
    flow, _ = made()
    assert all(flow.on_transfer() for _ in range(INCOMING_WINDOW))
    assert not flow.on_transfer()


def test_ids_follow_each_other_modulo_2_to_the_32() -> None:
    flow, sent = made(first_id=TOP - 1)
    flow.on_transfer()
    flow.send_flow(handle=7, delivery_count=TOP - 1, credit=3, drain=True)
    answer = read(sent[0])
    assert (answer.next_incoming_id, answer.handle, answer.delivery_count, answer.link_credit) == (0, 7, TOP - 1, 3)
    assert answer.drain
    flow._next_outgoing_id, flow._next_delivery_id = TOP - 1, TOP - 1
    flow.on_flow(window(TOP - 1, 2))
    assert (deliver(flow, "a"), deliver(flow, "a")) == (TOP - 1, 0)
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [(5, 3, 2), (3, 3, 0), (3, 5, 0), (TOP + 2, TOP - 1, 3), (1, TOP - 1, 2), (TOP - 1, 1, 0)],
)
def test_a_serial_number_beyond_its_limit_leaves_nothing(limit: int, used: int, left: int) -> None:
    assert amqp.remaining(limit, used) == left


@pytest.mark.parametrize(
    ("known", "first", "last", "found"),
    [
        ((1, 2, 3), 2, 2, [2]),
        ((1, 2, 3), 0, 100, [1, 2, 3]),
        ((3, 1, 2), 1, 100, [1, 2, 3]),
        ((1, 2, 3), 2, 3, [2, 3]),
        ((1, 2, 3), 4, 9, []),
        ((TOP - 1, 0, 1), TOP - 1, 0, [TOP - 1, 0]),
        ((1, 0, TOP - 1), TOP - 2, 100, [TOP - 1, 0, 1]),
        ((1, 2, 3), 3, 1, None),
        ((), 0, 0, []),
        ((), 1, 0, None),
    ],
)
def test_a_range_of_deliveries_may_pass_the_end_of_the_numbers(
    known: tuple[int, ...], first: int, last: int, found: list[int] | None
) -> None:
    assert amqp.numbers_between(set(known), first, last) == found
    assert amqp.numbers_between(dict.fromkeys(known), first, last) == found
