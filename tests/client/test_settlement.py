"""The ways to settle a message: the request of its own, and the part of a larger request."""

from __future__ import annotations

import pytest

from azsession.client.call import SessionTarget
from azsession.client.settlement import COMPLETE, DEFER, Settlement, dead_lettering

TARGET = SessionTarget("orders", "s", "lock-1", "route-1")


@pytest.mark.parametrize(
    ("settlement", "name", "request_line", "dispositions"),
    [
        (COMPLETE, "complete", "DELETE /messages/t", {"complete": ["t"]}),
        (DEFER, "defer", "POST /messages/t/$defer", {"defer": ["t"]}),
        (
            dead_lettering("why", "more"),
            "dead_letter",
            "POST /messages/t/$deadletter",
            {"deadletter": [{"LockToken": "t", "DeadLetterReason": "why", "DeadLetterErrorDescription": "more"}]},
        ),
        (
            dead_lettering("why", None),
            "dead_letter",
            "POST /messages/t/$deadletter",
            {"deadletter": [{"LockToken": "t", "DeadLetterReason": "why"}]},
        ),
    ],
)
def test_a_settlement_has_two_forms(settlement: Settlement, name: str, request_line: str, dispositions: object) -> None:
    call = settlement.call(TARGET, "t")
    assert settlement.name == name
    assert f"{call.method} {call.path.removeprefix(TARGET.path)}" == request_line
    assert settlement.dispositions("t") == dispositions
