"""Ids for locks, requests and messages."""

from __future__ import annotations

import time
import uuid

import pytest

from azsession.client import ids


@pytest.mark.parametrize(("kind", "version"), [("new_id", 4), ("new_ordered_id", 7)])
def test_each_id_is_another_uuid_of_its_version(kind: str, version: int) -> None:
    made = [getattr(ids, kind)() for _ in range(200)]
    assert len(set(made)) == 200
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, version, uuid.RFC_4122)


def test_an_ordered_id_begins_with_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(ids.new_ordered_id())
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000
