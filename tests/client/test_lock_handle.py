"""The text of a lock handle."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import ReceiptHandle, ValidationError
from azsession.client.lock_handle import LockHandle

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
HANDLE = LockHandle("site1/orders", "a/b état", "1b2c3d4e-0000-4000-8000-000000000000", NOW)


def test_a_handle_survives_its_text() -> None:
    assert LockHandle.parse(HANDLE.text()) == HANDLE
    assert LockHandle.parse(str.__str__(HANDLE.text())) == HANDLE


@given(session_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=128))
def test_a_handle_carries_any_session_id(session_id: str) -> None:
    handle = LockHandle("q", session_id, "id", NOW)
    assert LockHandle.parse(handle.text()) == handle


def test_neither_the_handle_nor_its_text_shows_the_lock_id() -> None:
    for shown in (repr(HANDLE), repr(HANDLE.text()), repr(LockHandle.parse(HANDLE.text())), repr([HANDLE.text()])):
        assert "1b2c3d4e" not in shown
        assert HANDLE.text()[5:] not in shown


def test_a_receipt_is_not_a_handle() -> None:
    with pytest.raises(ValidationError, match="lock_handle"):
        LockHandle.parse(str(ReceiptHandle("token", queue_name="q", session_id="s")))


@pytest.mark.parametrize("cut", range(1, len(HANDLE.text()), 7))
def test_damaged_text_is_refused_without_showing_it(cut: int) -> None:
    text = HANDLE.text()[:-cut]
    with pytest.raises(ValidationError) as caught:
        LockHandle.parse(text)
    assert text[5:] not in str(caught.value) or len(text) <= 5


@pytest.mark.parametrize("wrong", [None, 5, b"azl1.x", "azl1." + "A" * 5000])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        LockHandle.parse(wrong)
