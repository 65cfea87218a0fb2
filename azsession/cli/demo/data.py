"""The messages of the demo: generated or read from a file, and the messages with a special role."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs

from ...messages import Message

#: Number of sessions of the generated messages.
SESSIONS = 24


@attrs.frozen
class Sent:
    """A message of the demo. `place` is its position in its session, counted from 1."""

    message_id: str
    session_id: str
    place: int
    body: bytes = attrs.field(repr=False)


def _sent(entries: Iterable[tuple[str, bytes]]) -> list[Sent]:
    places: Counter[str] = Counter()
    sent = []
    for number, (session_id, body) in enumerate(entries, 1):
        places[session_id] += 1
        sent.append(Sent(f"demo-{number:06d}", session_id, places[session_id], body))
    return sent


def by_session(sent: Iterable[Sent]) -> dict[str, list[Sent]]:
    """Return the messages of each session. The sessions are in the order of their first messages."""
    sessions: dict[str, list[Sent]] = {}
    for message in sent:
        sessions.setdefault(message.session_id, []).append(message)
    return sessions


#: Events of each order, optional events of its transport, and events of a return.
_ORDER = ["placed", "payment-authorized", "confirmed", "picked", "packed", "payment-captured", "handed-to-carrier"]
_TRANSPORT = ["at-sorting-centre", "departed", "arrived-at-hub", "customs-cleared", "out-for-delivery", "nobody-at-home"]
_RETURN = ["return-announced", "return-received", "return-inspected", "refunded"]


def make_orders(seed: int) -> list[Sent]:
    """Return the events of some orders, interleaved. The same seed returns the same events."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    orders: list[list[tuple[str, bytes]]] = []
    for number in range(SESSIONS):
        order = f"order-{1040 + number * 7 + rng.randrange(7)}"
        events = (
            _ORDER + sorted(rng.sample(_TRANSPORT, rng.randrange(len(_TRANSPORT) + 1)), key=_TRANSPORT.index) + ["delivered"]
        )
        if rng.random() < 0.4:
            events = events + _RETURN[: rng.randrange(2, len(_RETURN) + 1)]
        common = {"customer": f"C-{rng.randrange(10000, 99999)}", "total": f"{rng.randrange(990, 49900) / 100:.2f}"}
        at = datetime(2025, 3, 3, 8, tzinfo=timezone.utc) + timedelta(minutes=rng.randrange(600))
        lines = []
        for position, event in enumerate(events, 1):
            at += timedelta(minutes=rng.randrange(1, 300), seconds=rng.randrange(60))
            line = {"session_id": order, "position": position, "event": event, "at": at.isoformat(), **common}
            lines.append((order, json.dumps(line).encode()))
        orders.append(lines)
    # Merge the orders at random. The events of one order keep their order.
    turns = [number for number, lines in enumerate(orders) for _ in lines]
    rng.shuffle(turns)
    rest = [iter(lines) for lines in orders]
    return _sent(next(rest[number]) for number in turns)


def from_messages(messages: Iterable[Message]) -> list[Sent]:
    """Return the messages of the demo for messages whose bodies are JSON objects.

    If all bodies of a session have an integer ``position``, the session is sorted by it. Otherwise its order is kept.
    """
    read = [
        (message.session_id or "", json.loads(message.body.decode()).get("position"), message.body) for message in messages
    ]
    sessions: dict[str, list[tuple[Any, bytes]]] = {}
    for session_id, position, body in read:
        sessions.setdefault(session_id, []).append((position, body))
    for entries in sessions.values():
        if all(type(position) is int for position, _ in entries):
            entries.sort(key=lambda entry: entry[0])
    rest = {session_id: iter(entries) for session_id, entries in sessions.items()}
    return _sent((session_id, next(rest[session_id])[1]) for session_id, _, _ in read)


@attrs.frozen
class Roles:
    """The ids of the messages with a special role; `None` if there are too few messages for all roles.

    Attributes:
        slow: Takes longer than the lock duration.
        failing: Fails the first time and is abandoned.
        refused: Is dead-lettered.
    """

    slow: str | None = None
    failing: str | None = None
    refused: str | None = None


def choose_roles(sent: Sequence[Sent], workers: int, seed: int) -> Roles:
    """Choose a message for each role, in three different sessions if possible. The slow message is an early one."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    sessions = list(by_session(sent).values())
    taken: set[str] = set()
    used: set[str] = set()

    def pick(among: Iterable[Sequence[Sent]]) -> str | None:
        """Return the middle message of a session: one without a role if possible, then one with three messages or more."""
        free = [[message for message in session if message.message_id not in taken] for session in among]
        chosen = min(
            filter(None, free),
            key=lambda session: (session[0].session_id in used, len(session) < 3, rng.random()),
            default=None,
        )
        if chosen is None:
            return None
        message = chosen[len(chosen) // 2]
        taken.add(message.message_id)
        used.add(message.session_id)
        return message.message_id

    slow = pick(session[:2] for session in sessions[:workers])
    return Roles(slow, pick(sessions), pick(sessions))
