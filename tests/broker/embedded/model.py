"""A simple model of the embedded broker: the state that its users can observe. `test_model` compares the broker with it."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Collection, Sequence

import attrs
import pytest

from azsession import Message, PeekedMessage, ReceivedMessage, SessionInfo, SessionLockedError, SessionNotFoundError
from azsession.broker.calls import Disposition
from azsession.broker.clock import Clock
from azsession.queues import QueueSettings

SESSIONS = ("a", "b")
LOCK_SECONDS = 30.0
WINDOW = 40.0
SETTLES_REMEMBERED = 300.0
REQUESTS_REMEMBERED = 600.0


@attrs.define(eq=False)
class Kept:
    """A message of the model.

    Attributes:
        place: Its place in the order of its session.
        lasts: Its time to live in seconds.
        token: Its lock token while it is unsettled.
        answers: How many answers contain it since its delivery.
        ahead: It was fetched ahead, and its delivery is not counted yet.
    """

    body: str
    session: str
    place: int
    state: str
    due: float | None = None
    expires: float | None = None
    lasts: float | None = None
    count: int = 0
    reason: str | None = None
    sequence: int | None = None
    token: str | None = None
    answers: int = 0
    ahead: bool = False


@attrs.define(eq=False)
class Held:
    """A session lock of the model."""

    holder: str
    expires: float
    last_request: tuple[str, list[str]] | None = None


class Model:
    """The expected state of a broker with one queue.

    Args:
        clock: The clock of the broker.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.numbers = itertools.count(1)
        self.kept: list[Kept] = []
        self.locks: dict[str, Held] = {}
        self.lost: set[tuple[str, str]] = set()
        self.states: dict[str, bytes] = {}
        self.settled: dict[str, tuple[Disposition, float, str]] = {}
        #: Lock tokens of locks that ended, with their sessions.
        self.stale: list[tuple[str, str]] = []
        self.accepts: dict[str, tuple[str, str, Held, list[str]]] = {}
        self.requests: list[tuple[str, list[Message], float]] = []
        self.duplicates: dict[str, float] = {}
        #: The highest sequence number so far.
        self.highest = 0
        self.settings = QueueSettings()

    @property
    def now(self) -> float:
        return self.clock.now()

    @property
    def steady(self) -> float:
        """The time of locks and remembered entries."""
        return self.clock.steady()

    def locked_until(self, session: str) -> float:
        """Return the expiry of a session's lock by the wall clock."""
        return self.locks[session].expires - self.steady + self.now

    def tick(self) -> None:
        """Let locks expire, scheduled messages become active, and messages expire, up to the present."""
        for session, lock in list(self.locks.items()):
            if lock.expires <= self.steady:
                self.end(session)
        due = [one for one in self.kept if one.state == "Scheduled" and one.due is not None and one.due <= self.now]
        for one in sorted(due, key=lambda one: (one.due, one.place)):
            one.state, one.place, one.sequence = "Active", next(self.numbers), None
        for one in list(self.kept):
            over = one.expires is not None and one.expires <= self.now
            if over and one.token is None and one.state == "Active":
                if self.settings.dead_letter_on_expiration:
                    one.state, one.reason = "DeadLettered", "TTLExpiredException"
                else:
                    self.kept.remove(one)

    def end(self, session: str, *, counted: bool = True, dies: bool = False) -> None:
        """End a lock. The deliveries of its messages count, unless the lock was released."""
        lock = self.locks.pop(session)
        if lock.holder:
            self.lost.add((session, lock.holder))
        for one in self.of(session):
            if one.token is not None:
                self.stale.append((session, one.token))
                if not counted:
                    self.uncount(one)
                elif one.count >= self.settings.max_delivery_count and not one.ahead and not dies:
                    one.state, one.reason = "DeadLettered", "MaxDeliveryCountExceeded"
                one.token, one.ahead = None, False

    def uncount(self, one: Kept) -> None:
        """Count no delivery of a message that is unsettled."""
        if not one.ahead:
            one.count -= 1

    def count(self, one: Kept) -> None:
        """Count the delivery of a message that was fetched ahead."""
        if one.ahead:
            one.count, one.ahead = one.count + 1, False

    def of(self, session: str, *states: str) -> list[Kept]:
        """Return the messages of a session in order."""
        found = [one for one in self.kept if one.session == session and (not states or one.state in states)]
        return sorted(found, key=lambda one: one.place)

    def refusal(self, session: str, holder: str) -> type[Exception] | None:
        """Return the error that a holder gets for a session, or `None`."""
        lock = self.locks.get(session)
        if lock is not None and lock.holder == holder:
            return None
        if (session, holder) in self.lost:
            return SessionNotFoundError
        return None if lock is None else SessionLockedError

    def take(self, session: str, holder: str) -> Held:
        if session not in self.locks:
            self.locks[session] = Held(holder, self.steady + LOCK_SECONDS)
        return self.locks[session]

    def holder(self, session: str, who: str) -> str:
        """Return a lock id of this kind of caller, if the session has one; otherwise a new one."""
        lock = self.locks.get(session)
        former = sorted(name for where, name in self.lost if where == session)
        if who == "holder" and lock is not None:
            return lock.holder
        if who == "former" and former:
            return former[-1]
        return "" if who == "plain" else f"lock-{next(self.numbers)}"

    def deliver(self, one: Kept, received: ReceivedMessage, state: str, *, ahead: bool = False) -> None:
        one.ahead = ahead
        if not ahead:
            one.count += 1
        one.token, one.answers = received.receipt.handle, 1
        self.check_delivery(one, received)
        assert one.state == state

    def check_delivery(self, one: Kept, received: ReceivedMessage) -> None:
        assert received.body.decode() == one.body
        assert received.session_id == one.session
        assert received.delivery_count == one.count + one.ahead
        assert received.sequence_number == one.sequence
        assert received.receipt.handle == one.token

    def check_settled(self, session: str, token: str, kind: Disposition, code: str | None) -> None:
        in_hand = next((one for one in self.of(session) if one.token == token), None)
        if in_hand is not None:
            assert code is None
            if kind in (Disposition.DEFER, Disposition.RELEASE):
                self.uncount(in_hand)
            else:
                self.count(in_hand)
            if kind is Disposition.TAKE:
                return
            in_hand.token, in_hand.ahead = None, False
            self.settled[token] = (kind, self.steady, session)
            if kind is Disposition.COMPLETE:
                self.kept.remove(in_hand)
            elif kind is Disposition.DEFER:
                in_hand.state = "Deferred"
            elif kind is Disposition.DEAD_LETTER:
                in_hand.state, in_hand.reason = "DeadLettered", "why"
            elif kind is Disposition.ABANDON and in_hand.count >= self.settings.max_delivery_count:
                in_hand.state, in_hand.reason = "DeadLettered", "MaxDeliveryCountExceeded"
            return
        gone = "SessionLockLost" if session not in self.locks else "MessageLockLost"
        if token not in self.settled:
            assert code == gone
            return
        before, at, _ = self.settled[token]
        remembered = None if before is kind else "Conflict"
        if self.steady - at < SETTLES_REMEMBERED:
            assert code == remembered
        else:
            assert code in (remembered, gone)

    def use_next(self, session: str) -> None:
        """Count the first message that was fetched ahead, after all messages before it were settled."""
        in_hand = [one for one in self.of(session) if one.token is not None]
        if in_hand and all(one.ahead for one in in_hand):
            self.count(in_hand[0])

    def add(self, made: Sequence[Message]) -> None:
        """Add messages that were sent."""
        for one in made:
            if one.message_id is not None and self.settings.requires_duplicate_detection:
                if self.duplicates.get(one.message_id, 0.0) > self.steady:
                    continue
                self.duplicates[one.message_id] = self.steady + WINDOW
            when = None if one.scheduled_enqueue_time is None else one.scheduled_enqueue_time.timestamp()
            lasts = None if one.time_to_live is None else one.time_to_live.total_seconds()
            expires = None if lasts is None else (when or self.now) + lasts
            assert one.session_id is not None
            state = "Active" if when is None else "Scheduled"
            self.kept.append(Kept(one.body.decode(), one.session_id, next(self.numbers), state, when, expires, lasts))

    def restart(self, clock: Clock, *, kill: bool) -> None:
        """End all locks, as a restart of the broker does. The death of its process counts the deliveries."""
        self.clock = clock
        for session in list(self.locks):
            # After a kill, a message at its limit is dead-lettered when it would be delivered.
            self.end(session, counted=kill, dies=kill)
        self.lost.clear()
        self.accepts.clear()

    def take_messages(self, session: str, count: int) -> list[Kept]:
        """Return the messages that a receive gets. Dead-letter those that were delivered too often."""
        taken: list[Kept] = []
        for one in self.of(session, "Active"):
            if len(taken) == count:
                break
            if one.token is not None:
                continue
            if one.count >= self.settings.max_delivery_count:
                one.state, one.reason = "DeadLettered", "MaxDeliveryCountExceeded"
            else:
                taken.append(one)
        return taken

    def next_session(self, holder: str, *, deliverable: bool) -> str | None:
        """Return the session that an accept gets.

        An accept with messages passes over a session whose messages were all delivered too often. They become dead letters.
        """
        heads = [
            (active[0].place, name)
            for name in SESSIONS
            if name not in self.locks and (name, holder) not in self.lost and (active := self.of(name, "Active"))
        ]
        for _, name in sorted(heads):
            limit = self.settings.max_delivery_count
            if not deliverable or any(one.count < limit for one in self.of(name, "Active")):
                return name
            assert self.take_messages(name, 1) == []
        return None

    # Comparison with the broker

    def check_messages(self, shown: dict[str, list[PeekedMessage]], dead: list[PeekedMessage]) -> None:
        """Compare the messages of all sessions and the dead letters with the model."""
        numbers = {one.body.decode(): one.sequence_number or 0 for found in (*shown.values(), dead) for one in found}
        for one in sorted(self.kept, key=lambda one: one.place):
            if one.sequence is None and one.body in numbers:
                one.sequence = numbers[one.body]
                assert one.sequence > self.highest, "a sequence number was used again, or out of order"
                self.highest = one.sequence
        for session in SESSIONS:
            expected = self.of(session, "Active", "Deferred", "Scheduled")
            assert [(one.body.decode(), one.state, one.delivery_count, one.sequence_number) for one in shown[session]] == [
                (one.body, one.state, one.count, one.sequence) for one in expected
            ]
        buried = sorted((one for one in self.kept if one.state == "DeadLettered"), key=lambda one: one.place)
        assert [
            (one.body.decode(), one.session_id, one.dead_letter_reason, one.delivery_count, one.sequence_number)
            for one in dead
        ] == [(one.body, one.session, one.reason, one.count, one.sequence) for one in buried]

    def check_sessions(self, listed: list[SessionInfo]) -> None:
        """Compare a list of the sessions with the model."""
        found = {
            one.session_id: (one.message_count, None if one.locked_until is None else one.locked_until.timestamp())
            for one in listed
        }
        expected = {
            session: (
                len(self.of(session, "Active")),
                pytest.approx(self.locked_until(session), abs=1e-3) if session in self.locks else None,
            )
            for session in SESSIONS
            if self.of(session, "Active", "Deferred") or session in self.states
        }
        assert found == expected


def check_counters(run: Callable[[str], sqlite3.Cursor], locked_sessions: Collection[str]) -> None:
    """Compare the counters, heads and lock flags that the database keeps with its messages and the session locks."""
    counted = "SELECT count(*) FROM messages WHERE session = sessions.id AND status ="
    rows = run(
        "SELECT name, locked, head, active, deferred, (SELECT min(key) FROM messages WHERE session = sessions.id AND "
        f"status = 0), ({counted} 0), ({counted} 1), ({counted} 2) + ({counted} 3), state FROM sessions"
    ).fetchall()
    for name, locked, head, active, deferred, first, *numbers, others, state in rows:
        assert (head, active, deferred) == (first, *numbers)
        assert locked == (name in locked_sessions)
        assert active or deferred or others or state is not None, "a session without a purpose was kept"
    counted = "SELECT count(*) FROM messages WHERE key >> 40 = queues.id AND status ="
    sessions = "SELECT count(*) FROM sessions WHERE queue = queues.id AND active > 0"
    for *kept, active, deferred, scheduled, dead, filled in run(
        "SELECT active, deferred, scheduled, dead, with_messages, "
        f"({counted} 0), ({counted} 1), ({counted} 2), ({counted} 3), ({sessions}) FROM queues"
    ):
        assert kept == [active, deferred, scheduled, dead, filled]
    assert run("SELECT count(*) FROM messages WHERE session NOT IN (SELECT id FROM sessions)").fetchone() == (0,)
    assert run("SELECT count(*) FROM deliveries WHERE key NOT IN (SELECT key FROM messages)").fetchone() == (0,)
