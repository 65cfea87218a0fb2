"""The bytes of one answer are bounded: the rest stays in place, uncounted."""

from __future__ import annotations

import pytest

from azsession import Message
from azsession.broker.azure import AzureBroker, answer_size
from azsession.broker.calls import Disposition

from .holders import QUEUE, Holder

#: Bytes of the messages here. An answer holds two of them.
SIZE = 30_000


@pytest.fixture(autouse=True)
def _small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_size, "MAX_ANSWER_SIZE", 70_000)


def send(broker: AzureBroker, *bodies: str) -> None:
    broker.send(QUEUE, [Message(body, session_id="s1") for body in bodies]).result(10)


def bodies(*letters: str) -> list[str]:
    return [letter * SIZE for letter in letters]


def test_a_receive_stops_at_the_limit_and_the_next_one_goes_on_in_order(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, *bodies("a", "b", "c", "d", "e"))
    found = [holder.receive(10) for _ in range(3)]
    assert [[message.text()[0] for message in part] for part in found] == [["a", "b"], ["c", "d"], ["e"]]
    assert {message.delivery_count for part in found for message in part} == {1}


def test_messages_that_did_not_fit_come_to_the_next_holder_uncounted(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, *bodies("a", "b", "c"))
    assert len(holder.receive(10)) == 2
    holder.release()
    found = Holder(broker).take(3)
    assert [(message.text()[0], message.delivery_count) for message in found] == [("a", 1), ("b", 1), ("c", 1)]


def test_a_message_beyond_the_limit_is_received_alone(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a" * 100_000, "b")
    assert [[message.text()[0] for message in holder.receive(10)] for _ in range(2)] == [["a"], ["b"]]


def test_peeking_stops_at_the_limit(broker: AzureBroker) -> None:
    send(broker, *bodies("a", "b", "c"))
    found = broker.peek(QUEUE, "s1", 0, 10).result(10)
    assert [message.text()[0] for message in found] == ["a", "b"]
    rest = broker.peek(QUEUE, "s1", (found[-1].sequence_number or 0) + 1, 10).result(10)
    assert [message.text()[0] for message in rest] == ["c"]


def test_deferred_messages_that_do_not_fit_come_with_the_next_request(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, *bodies("a", "b", "c"))
    messages = [*holder.receive(10), *holder.receive(10)]
    holder.settle(*messages, how=Disposition.DEFER)
    numbers = [message.sequence_number or 0 for message in messages]
    found = broker.receive_deferred(*holder.whose, numbers).result(10)
    assert [message.text()[0] for message in found] == ["a", "b"]
    assert holder.complete(*found) == [None, None]
    (last,) = broker.receive_deferred(*holder.whose, numbers[2:]).result(10)
    assert last.text()[0] == "c"


def test_dead_lettering_a_session_takes_messages_beyond_the_limit_too(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, *bodies("a", "b", "c", "d", "e", "f"))
    deferred = [*holder.receive(2), *holder.receive(2)]
    holder.settle(*deferred, how=Disposition.DEFER)
    assert broker.dead_letter_session(*holder.whose, "why", None).result(20) == 6
    assert broker.peek(QUEUE, "s1", 0, 10).result(10) == []
