"""`Offers` by themselves: which receives take an offered message, and that it is offered until somebody takes it."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from azsession import amqp
from azsession.broker.azure.session.offers import Offer, Offers
from azsession.broker.azure.session.unsettled import UnsettledMessage
from azsession.broker.calls import ReceiveRequest


@attrs.frozen
class Lock:
    renewal_due: float = attrs.field(factory=lambda: time.monotonic() + 60)

    def left(self) -> float:
        return 60.0


@attrs.frozen
class Session:
    lock_id: str = "holder"
    lock: Lock = attrs.field(factory=Lock)
    entity: str = "q"
    session_id: str | None = "s"


def offer_of(session: Session, **fields: Any) -> Offer:
    payload = amqp.encode_message(amqp.AmqpMessage(data=b"x", **fields))
    return Offer(session, UnsettledMessage("token", 1, payload, None), {"answered"})


def receive(lock_id: str = "holder", **fields: Any) -> ReceiveRequest:
    return ReceiveRequest(
        "q", "s", lock_id, **{"max_count": 1, "timeout": 0.0, "request_id": "r", "holds_lock": True, **fields}
    )


def test_one_receive_of_the_holder_takes_the_message() -> None:
    offers, offer, request = Offers(), offer_of(Session()), receive()
    offers.put(offer)
    assert offers.take(request) is offer
    assert offers.take(receive(request_id="another")) is None
    assert offer.withdraw() is request


@pytest.mark.parametrize(
    "other",
    [
        {"max_count": 2},
        {"holds_lock": False},
        {"request_id": ""},
        {"request_id": "answered"},
        {"lock_id": "another"},
    ],
    ids=str,
)
def test_another_receive_does_not_take_the_message(other: dict[str, Any]) -> None:
    offers, offer = Offers(), offer_of(Session())
    offers.put(offer)
    assert offers.take(receive(**other)) is None
    assert offer.withdraw() is None


def test_the_shared_holder_of_the_plain_dialect_takes_no_offer() -> None:
    offers = Offers()
    offers.put(offer_of(Session(lock_id="")))
    assert offers.take(receive(lock_id="")) is None


def test_an_offer_that_has_ended_is_not_found() -> None:
    offers, offer = Offers(), offer_of(Session())
    offers.put(offer)
    offers.remove(offer)
    offers.remove(offer)
    assert offers.take(receive()) is None


def test_a_message_whose_time_to_live_is_over_stays() -> None:
    now = int(time.time() * 1000)
    for ttl, takes in ((1000, False), (10_000_000, True)):
        offer = offer_of(Session(), ttl_ms=ttl, annotations={"x-opt-enqueued-time": amqp.Timestamp(now - 5000)})
        request = receive()
        assert offer.take(request) is takes
        assert offer.withdraw() is (request if takes else None)


def test_a_receive_that_must_renew_the_lock_takes_nothing() -> None:
    assert not offer_of(Session(lock=Lock(time.monotonic()))).take(receive())
