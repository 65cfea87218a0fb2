"""Where a lock is from decides which calls a client has."""

from __future__ import annotations

import pytest

from azsession import ReceiptHandle, UnsupportedOperationError
from azsession.client.lock_origin import LockOrigin

RECEIPT = ReceiptHandle("token", queue_name="q", session_id="s")


def test_a_client_that_took_its_lock_has_every_call_but_no_foreign_receipt() -> None:
    origin = LockOrigin()
    origin.check("s", settling=False)
    assert not origin.may_settle(RECEIPT)


def test_a_client_of_a_receipt_only_settles() -> None:
    origin = LockOrigin()
    origin.settles_only = True
    origin.check("s", settling=True)
    with pytest.raises(UnsupportedOperationError, match="only settle"):
        origin.check("s", settling=False)


def test_a_lock_that_was_handed_over_settles_the_receipts_of_its_session_only() -> None:
    origin = LockOrigin()
    origin.handed_over = ("q", "s")
    assert origin.may_settle(RECEIPT)
    for other in (ReceiptHandle("token"), ReceiptHandle("token", queue_name="q", session_id="t")):
        assert not origin.may_settle(other)
