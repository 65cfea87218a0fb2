"""Messages and records for the tests of the demo."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from azsession import Message, PeekedMessage
from azsession.cli.demo.data import Roles, Sent, from_messages
from azsession.cli.demo.verdict import REASON, Leftover, ObservedDelivery, Record


def message(session_id: str, **fields: Any) -> Message:
    """Return a message whose body is a JSON object with these fields."""
    return Message(json.dumps({"session_id": session_id, **fields}), session_id=session_id)


def bodies(sent: Iterable[Sent]) -> list[Any]:
    """Return the decoded bodies."""
    return [json.loads(each.body) for each in sent]


def small() -> tuple[list[Sent], Roles]:
    """Return 20 messages in 5 sessions, without a slow message."""
    sent = from_messages(message(f"s/{number % 5}", n=number) for number in range(20))
    return sent, Roles(None, sent[7].message_id, sent[13].message_id)


def perfect(sent: list[Sent], roles: Roles) -> Record:
    """Return the record of a run without faults."""
    deliveries: list[ObservedDelivery] = []
    for each in sent:
        again = each.message_id == roles.failing
        if again:
            deliveries.append(ObservedDelivery(each.session_id, each.message_id, each.body, 1, "abandoned"))
        outcome = "dead-lettered" if each.message_id == roles.refused else "completed"
        deliveries.append(ObservedDelivery(each.session_id, each.message_id, each.body, 2 if again else 1, outcome))
    dead = [
        PeekedMessage(body=each.body, session_id=each.session_id, message_id=each.message_id, dead_letter_reason=REASON)
        for each in sent
        if each.message_id == roles.refused
    ]
    renewals = {each.session_id: 3 for each in sent if each.message_id == roles.slow}
    return Record(deliveries, renewals, Leftover(0, 0, dead))
