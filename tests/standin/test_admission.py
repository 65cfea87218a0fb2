"""The stand-in's rules for messages that a client of the official SDK would not send, and for the passing of time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.standin.admission import PARTITIONS, Admission
from tests.standin.boxes import Options
from tests.standin.refusal import Refusal
from tests.standin.wire import NULL, Content


def content(session_id: str | None = None, **fields: Any) -> Content:
    return Content((NULL, NULL, NULL), [], b"", [], b"", b"", session_id=session_id, **fields)


class Clock:
    time = 0.0

    def now(self) -> float:
        return self.time


def admission(*, sessions: bool = True, clock: Clock | None = None, **options: Any) -> Admission:
    return Admission(Options(**options), (clock or Clock()).now, sessions=sessions)


def test_a_partitioned_entity_needs_the_key_on_the_batch_itself() -> None:
    rules = admission(partitioned=True)
    both = [content("a"), content("a")]
    rules.check(both, content("a"))
    with pytest.raises(Refusal, match="distinct SessionId or PartitionKey"):
        rules.check(both, content())
    # An entity without partitions does not look at the batch.
    admission().check([content("a"), content("b")], content())


def test_with_duplicate_detection_the_message_ids_of_a_partitioned_batch_are_equal() -> None:
    rules = admission(partitioned=True, duplicate_detection=60.0, sessions=False)
    with pytest.raises(Refusal, match="or MessageId is not supported"):
        rules.check([content(message_id="1"), content(message_id="2")], content(message_id="1"))
    rules.check([content(message_id="1", partition_key="k"), content(message_id="2", partition_key="k")])
    with pytest.raises(Refusal, match="either PartitionKey or MessageId"):
        rules.check([content()])


def test_a_partition_key_that_is_not_the_session_id_is_refused() -> None:
    rules = admission(partitioned=True)
    with pytest.raises(Refusal, match="PartitionKey 'k'"):
        rules.check([content("a", partition_key="k")])
    rules.check([content("a", partition_key="a")])


@pytest.mark.parametrize("name", ["", ".", "..", "\0", "é" * 128])
def test_any_session_id_of_up_to_128_characters_is_accepted(name: str) -> None:
    admission().check([content(name)])
    with pytest.raises(Refusal, match="128 characters"):
        admission().check([content(name + "x" * 129)])


def test_a_message_id_is_free_again_after_the_window() -> None:
    clock = Clock()
    rules = admission(duplicate_detection=60.0, clock=clock)
    number = rules.number(content("s", message_id="m"))
    clock.time = 59.9
    assert rules.duplicate_of(content("t", message_id="m")) == number
    assert rules.duplicate_of(content("t")) is None
    clock.time = 60.0
    assert rules.duplicate_of(content("s", message_id="m")) is None


def test_a_message_id_of_a_partitioned_entity_counts_for_its_partition_key() -> None:
    rules = admission(duplicate_detection=60.0, partitioned=True)
    rules.number(content("a", message_id="m"))
    assert rules.duplicate_of(content("a", message_id="m")) is not None
    assert rules.duplicate_of(content("b", message_id="m")) is None


def test_messages_without_a_key_are_spread_over_the_partitions() -> None:
    rules = admission(partitioned=True, sessions=False)
    assert {rules.number(content()) >> 48 for _ in range(PARTITIONS)} == set(range(PARTITIONS))
