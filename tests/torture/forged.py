"""Forged histories, for tests of the checker."""

from __future__ import annotations

from typing import Any

from .checker import check
from .history import OK, Event, History, Operation
from .rules import Rules


class Forged:
    """Builds a history. Each operation takes one second and follows the previous one, unless `at` is given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.operations: list[Operation] = []
        self.events: list[Event] = []

    def copy(self) -> Forged:
        """Return a history that begins like this one."""
        other = Forged()
        other.now, other.operations, other.events = self.now, list(self.operations), list(self.events)
        return other

    def add(
        self,
        name: str,
        holder: str = "",
        session: str = "s",
        outcome: str = OK,
        *,
        at: tuple[float, float] | None = None,
        result: dict[str, Any] | None = None,
        **about: Any,
    ) -> Forged:
        begin, end = at or (self.now + 1, self.now + 2)
        self.now = max(self.now, end)
        process = holder.partition(".")[0] or "sender"
        self.operations.append(Operation(process, name, holder, session, begin, end, outcome, about, result or {}))
        return self

    def send(self, *ids: str, outcome: str = OK, session: str = "s", at: tuple[float, float] | None = None) -> Forged:
        return self.add("send", session=session, outcome=outcome, ids=list(ids), at=at)

    def accept(self, holder: str, session: str = "s") -> Forged:
        return self.add("accept", holder, session)

    def receive(
        self,
        holder: str,
        *messages: tuple[str, int] | tuple[str, int, int],
        session: str = "s",
        name: str = "receive",
        at: tuple[float, float] | None = None,
        **about: Any,
    ) -> Forged:
        given = [[*message, 1][:3] for message in messages]
        return self.add(name, holder, session, at=at, result={"messages": given}, **about)

    def settle(
        self,
        name: str,
        holder: str,
        *sequences: int,
        outcome: str = OK,
        session: str = "s",
        at: tuple[float, float] | None = None,
        **about: Any,
    ) -> Forged:
        return self.add(name, holder, session, outcome, sequences=list(sequences), at=at, **about)

    def close(self, holder: str, session: str = "s", **about: Any) -> Forged:
        return self.add("close", holder, session, **about)

    def event(self, name: str, **fields: Any) -> Forged:
        self.now += 1
        self.events.append(Event(name, "scene", self.now, fields))
        return self

    def left(self, where: str, *messages: tuple[str, int, int], session: str = "s", reason: str | None = None) -> Forged:
        left = [[*each, reason] for each in messages]
        return self.event("left", where=where, session=session, messages=left, max_delivery_count=3)

    def consume(self, holder: str, *messages: tuple[str, int], session: str = "s") -> Forged:
        """Accept the session, receive and complete the messages one by one, and close."""
        self.accept(holder, session)
        for message in messages:
            self.receive(holder, message, session=session).settle("complete", holder, message[1], session=session)
        return self.close(holder, session)

    def kinds(self, rules: Rules | None = None) -> list[str]:
        self.operations.sort(key=lambda one: one.begin)
        return sorted({violation.kind for violation in check(History(self.operations, self.events), rules)})
