"""Checks the record of a demo run: every session in order, no message lost, none doubled.

The check compares the sent messages with the observed deliveries. It does not depend on how the messages were delivered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ...messages import PeekedMessage
from .data import Roles, Sent, by_session

#: The reason with which one message is dead-lettered.
REASON = "Refused"


@attrs.define
class ObservedDelivery:
    """One delivery, as a worker saw it. `outcome` is set when the server has confirmed the settlement."""

    session_id: str
    message_id: str | None
    body: bytes = attrs.field(repr=False)
    delivery_count: int
    outcome: str | None = None


@attrs.frozen
class Leftover:
    """The messages that the broker holds at the end.

    Attributes:
        active: Number of active messages.
        listed: Number of sessions with messages.
        dead_letters: The dead letters.
    """

    active: int
    listed: int
    dead_letters: Sequence[PeekedMessage] = ()


@attrs.frozen
class Record:
    """The observations of a run.

    Attributes:
        deliveries: The deliveries, in order.
        renewals: Number of lock renewals of each session.
        leftover: The messages that the broker holds at the end.
        errors: Errors of the workers.
        seconds: Duration of the run.
    """

    deliveries: Sequence[ObservedDelivery]
    renewals: Mapping[str, int]
    leftover: Leftover
    errors: Sequence[str] = ()
    seconds: float = 0.0


@attrs.frozen
class Fault:
    """Something that must not happen. `kind` is ``"lost"``, ``"doubled"``, ``"out of order"`` or ``"other"``."""

    kind: str
    text: str
    session_id: str | None = None


def judge(sent: Sequence[Sent], roles: Roles, record: Record) -> list[Fault]:
    """Return the faults of a run. The list is empty if every session was in order and nothing was lost or doubled."""
    faults = [Fault("other", error) for error in record.errors]
    deliveries, unexpected = _by_session(sent, record.deliveries)
    faults += unexpected
    for session_id, messages in by_session(sent).items():
        faults += [Fault(kind, text, session_id) for kind, text in _judge_session(messages, roles, deliveries[session_id])]
    slow = next((message for message in sent if message.message_id == roles.slow), None)
    if slow is not None and not record.renewals.get(slow.session_id):
        faults.append(Fault("other", "a handler outlasted the lock, but the lock was not renewed", slow.session_id))
    return [*faults, *_judge_leftover(sent, roles, record.leftover)]


def _by_session(
    sent: Sequence[Sent], deliveries: Iterable[ObservedDelivery]
) -> tuple[dict[str, list[ObservedDelivery]], list[Fault]]:
    """Return the deliveries of each session, and the faults of deliveries that do not match a sent message."""
    known = {message.message_id: message for message in sent}
    found: dict[str, list[ObservedDelivery]] = {session_id: [] for session_id in by_session(sent)}
    faults = []
    for delivery in deliveries:
        message = known.get(delivery.message_id or "")
        if message is None:
            faults.append(Fault("other", "a message arrived that was not sent", delivery.session_id))
        elif message.session_id != delivery.session_id:
            faults.append(Fault("other", f"a message of session {message.session_id} arrived in it", delivery.session_id))
        else:
            found[message.session_id].append(delivery)
            if delivery.body != message.body:
                faults.append(Fault("other", f"#{message.place} arrived with another body", message.session_id))
    return found, faults


def _judge_session(
    messages: Sequence[Sent], roles: Roles, deliveries: Sequence[ObservedDelivery]
) -> Iterable[tuple[str, str]]:
    places = {message.message_id: message.place for message in messages}
    expected = list(_expected_deliveries(messages, roles))
    order = [places[delivery.message_id or ""] for delivery in deliveries]
    missing = Counter(place for place, _, _ in expected)
    missing.subtract(order)
    lost = [place for place, count in missing.items() if count > 0]
    doubled = [place for place, count in missing.items() if count < 0]
    if lost:
        yield "lost", f"{compact(lost)} arrived too few times"
    if doubled:
        yield "doubled", f"{compact(sorted(doubled))} arrived too many times"
    if order != sorted(order):
        yield "out of order", f"messages arrived in the order {compact(order)}"
    if order == [place for place, _, _ in expected]:
        for delivery, (place, number, outcome) in zip(deliveries, expected, strict=True):
            if delivery.outcome != outcome:
                yield "other", f"#{place} should be {outcome}, but was {delivery.outcome or 'not settled'}"
            if delivery.delivery_count != number:
                yield "other", f"delivery {number} of #{place} has the delivery count {delivery.delivery_count}"


def _expected_deliveries(messages: Sequence[Sent], roles: Roles) -> Iterable[tuple[int, int, str]]:
    """Yield the place, the delivery count and the outcome of each expected delivery of a session."""
    for message in messages:
        count = 1
        if message.message_id == roles.failing:
            yield message.place, count, "abandoned"
            count = 2
        yield message.place, count, "dead-lettered" if message.message_id == roles.refused else "completed"


def _judge_leftover(sent: Sequence[Sent], roles: Roles, leftover: Leftover) -> Iterable[Fault]:
    if leftover.active or leftover.listed:
        yield Fault("other", f"the broker still has {leftover.active} active messages in {leftover.listed} sessions")
    refused = [message for message in sent if message.message_id == roles.refused]
    expected = [(message.session_id, message.message_id, message.body, REASON) for message in refused]
    found = [(m.session_id, m.message_id, m.body, m.dead_letter_reason) for m in leftover.dead_letters]
    if found != expected:
        yield Fault("other", f"the broker has {len(found)} dead letters, which are not the {len(expected)} expected ones")


def compact(numbers: Sequence[int], limit: int = 12) -> str:
    """Return numbers as runs, for example ``1-4, 4-9``. After `limit` runs, return the number of further runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more runs" if len(texts) > limit else "")
