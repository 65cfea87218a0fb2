"""The embedded broker against a simple model of what must hold, driven at random by hypothesis.

``AZSESSION_MODEL_EXAMPLES=2000 pytest tests/broker/embedded/test_model.py`` runs longer, with other examples each time.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from azsession import Message, ProviderError, ReceivedMessage, SessionLockedError, SessionNotFoundError, ValidationError
from azsession.broker.base import AcceptRequest, Delivery, Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings

from . import HandClock, copy_data

SESSIONS = ("a", "b")
LOCK_SECONDS = 30.0
WINDOW = 40.0
SETTLES_REMEMBERED = 300.0
REQUESTS_REMEMBERED = 600.0


@attrs.define(eq=False)
class Kept:
    """A message, as the model knows it."""

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


@attrs.define(eq=False)
class Held:
    """A session's lock, as the model knows it."""

    holder: str
    expires: float
    last_request: tuple[str, list[str]] | None = None


class BrokerMachine(RuleBasedStateMachine):
    """What a user may do to a broker, and what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="azsession-model-"))
        self.path = self.folder / "data.db"
        self.clock = HandClock()
        self.broker = EmbeddedBroker(self.path, clock=self.clock)
        self.numbers = itertools.count(1)
        self.kept: list[Kept] = []
        self.locks: dict[str, Held] = {}
        self.lost: set[tuple[str, str]] = set()
        self.states: dict[str, bytes] = {}
        self.settled: dict[str, tuple[Disposition, float, str]] = {}
        self.stale: list[tuple[str, str]] = []
        self.accepts: dict[str, tuple[str, str, Held]] = {}
        self.requests: list[tuple[str, list[Message], float]] = []
        self.duplicates: dict[str, float] = {}
        self.highest = 0
        self.settings = QueueSettings()

    @initialize(dead_letter=st.booleans(), detection=st.booleans(), deliveries=st.integers(1, 3))
    def make_queue(self, dead_letter: bool, detection: bool, deliveries: int) -> None:
        self.settings = QueueSettings(
            lock_duration=LOCK_SECONDS,
            max_delivery_count=deliveries,
            dead_letter_on_expiration=dead_letter,
            requires_duplicate_detection=detection,
            duplicate_detection_window=WINDOW,
        )
        assert self.broker.create_queue("q", self.settings).result()

    def teardown(self) -> None:
        self.broker.close()
        shutil.rmtree(self.folder)

    # The model

    @property
    def now(self) -> float:
        return self.clock.now()

    def tick(self) -> None:
        """Bring the model to the present."""
        for session, lock in list(self.locks.items()):
            if lock.expires <= self.now:
                self.end(session)
        due = [one for one in self.kept if one.state == "Scheduled" and one.due is not None and one.due <= self.now]
        for one in sorted(due, key=lambda one: (one.due, one.place)):
            one.state, one.place, one.sequence = "Active", next(self.numbers), None
        for one in list(self.kept):
            over = one.expires is not None and one.expires <= self.now
            if over and one.token is None and one.state in ("Active", "Deferred"):
                if self.settings.dead_letter_on_expiration:
                    one.state, one.reason = "DeadLettered", "TTLExpiredException"
                else:
                    self.kept.remove(one)

    def end(self, session: str) -> None:
        lock = self.locks.pop(session)
        if lock.holder:
            self.lost.add((session, lock.holder))
        for one in self.of(session):
            if one.token is not None:
                self.stale.append((session, one.token))
                one.token = None

    def of(self, session: str, *states: str) -> list[Kept]:
        """Return what is kept of a session, in order."""
        found = [one for one in self.kept if one.session == session and (not states or one.state in states)]
        return sorted(found, key=lambda one: one.place)

    def refusal(self, session: str, holder: str) -> type[Exception] | None:
        """Return how a holder is refused a session, if it is."""
        lock = self.locks.get(session)
        if lock is not None and lock.holder == holder:
            return None
        if (session, holder) in self.lost:
            return SessionNotFoundError
        return None if lock is None else SessionLockedError

    def take(self, session: str, holder: str) -> Held:
        if session not in self.locks:
            self.locks[session] = Held(holder, self.now + LOCK_SECONDS)
        return self.locks[session]

    def holder(self, session: str, who: str) -> str:
        """Return a lock id that is of this kind for the session now, as far as there is one."""
        lock = self.locks.get(session)
        former = sorted(name for where, name in self.lost if where == session)
        if who == "holder" and lock is not None:
            return lock.holder
        if who == "former" and former:
            return former[-1]
        return "" if who == "plain" else f"lock-{next(self.numbers)}"

    def deliver(self, one: Kept, received: ReceivedMessage, state: str) -> None:
        one.count += 1
        one.token = received.receipt.handle
        self.check_delivery(one, received)
        assert one.state == state

    def check_delivery(self, one: Kept, received: ReceivedMessage) -> None:
        assert received.body.decode() == one.body
        assert received.session_id == one.session
        assert received.delivery_count == one.count
        assert received.sequence_number == one.sequence
        assert received.receipt.handle == one.token

    # Time

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, LOCK_SECONDS - 1, LOCK_SECONDS, 61.0, 301.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(kill=st.booleans(), uptime=st.floats(0, 1e6))
    def restart(self, kill: bool, uptime: float) -> None:
        if kill:
            copy = copy_data(self.path)
            self.broker.close()
            self.path = copy
        else:
            self.broker.close()
        self.clock = HandClock(uptime, self.now)
        self.broker = EmbeddedBroker(self.path, clock=self.clock)
        for session in list(self.locks):
            self.end(session)
        self.lost.clear()
        self.accepts.clear()

    # Sending

    @rule(
        batch=st.lists(
            st.tuples(
                st.sampled_from(SESSIONS),
                st.sampled_from([None, None, None, 4.0, 35.0]),
                st.sampled_from([None, None, None, 10.0, 50.0]),
                st.sampled_from([None, None, "id-1", "id-2"]),
            ),
            min_size=1,
            max_size=4,
        ),
        with_request=st.booleans(),
    )
    def send(self, batch: list[tuple[str, float | None, float | None, str | None]], with_request: bool) -> None:
        self.tick()
        made = []
        for session, delay, life, message_id in batch:
            due = None if delay is None else datetime.fromtimestamp(self.now + delay, timezone.utc)
            made.append(
                Message(
                    f"m{next(self.numbers)}",
                    session_id=session,
                    message_id=message_id,
                    scheduled_enqueue_time=due,
                    time_to_live=life,
                )
            )
        request = f"request-{next(self.numbers)}" if with_request else ""
        self.broker.send("q", made, request).result()
        if with_request:
            self.requests.append((request, made, self.now))
        for one in made:
            if one.message_id is not None and self.settings.requires_duplicate_detection:
                if self.duplicates.get(one.message_id, 0.0) > self.now:
                    continue
                self.duplicates[one.message_id] = self.now + WINDOW
            when = None if one.scheduled_enqueue_time is None else one.scheduled_enqueue_time.timestamp()
            lasts = None if one.time_to_live is None else one.time_to_live.total_seconds()
            expires = None if lasts is None else (when or self.now) + lasts
            assert one.session_id is not None
            state = "Active" if when is None else "Scheduled"
            self.kept.append(Kept(one.body.decode(), one.session_id, next(self.numbers), state, when, expires, lasts))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        request, made, at = data.draw(st.sampled_from(self.requests[-3:]))
        if self.now - at < REQUESTS_REMEMBERED:
            self.broker.send("q", made, request).result()

    @rule(session=st.sampled_from(SESSIONS))
    def send_a_batch_with_a_bad_message(self, session: str) -> None:
        with pytest.raises(ValidationError):
            self.broker.send("q", [Message(b"good", session_id=session), Message(b"of no session")]).result()

    # Receiving

    @rule(
        session=st.sampled_from(SESSIONS),
        who=st.sampled_from(["holder", "holder", "holder", "new", "former", "plain"]),
        count=st.integers(1, 4),
        with_request=st.booleans(),
    )
    def receive(self, session: str, who: str, count: int, with_request: bool) -> None:
        self.tick()
        holder = self.holder(session, who)
        request = f"request-{next(self.numbers)}" if with_request else ""
        delivery = self.try_receive(session, holder, count, request)
        if delivery is None:
            return
        lock = self.take(session, holder)
        lock.expires = self.now + LOCK_SECONDS
        received = list(delivery.messages)
        expected: list[Kept] = []
        for one in self.of(session, "Active"):
            if len(expected) == count:
                break
            if one.token is not None:
                continue
            if one.count >= self.settings.max_delivery_count:
                one.state, one.reason = "DeadLettered", "MaxDeliveryCountExceeded"
            else:
                expected.append(one)
        assert [one.body.decode() for one in received] == [one.body for one in expected]
        for one, message in zip(expected, received, strict=True):
            self.deliver(one, message, "Active")
        if received:
            lock.last_request = (request, [one.receipt.handle for one in received]) if request else None

    def try_receive(self, session: str, holder: str, count: int, request: str) -> Delivery | None:
        """Return the delivery, or `None` where the holder was rightly refused."""

        def call() -> Delivery:
            return self.broker.receive(
                ReceiveRequest("q", session, holder, max_count=count, timeout=0, request_id=request)
            ).result()

        refusal = self.refusal(session, holder)
        if refusal is not None:
            with pytest.raises(refusal) as caught:
                call()
            if refusal is SessionLockedError:
                until = caught.value.locked_until  # type: ignore[attr-defined]
                assert until.timestamp() == pytest.approx(self.locks[session].expires, abs=1e-3)
            return None
        delivery = call()
        assert delivery.lock_expires_in == pytest.approx(LOCK_SECONDS)
        return delivery

    @rule(session=st.sampled_from(SESSIONS), kind=st.sampled_from([None, *Disposition]), then=st.sampled_from([0, 3.0, 31.0]))
    def receive_and_settle(self, session: str, kind: Disposition | None, then: float) -> None:
        """What a holder mostly does, so that messages get far: receive, settle what came last, or lose it all."""
        self.receive(session, "holder", 2, False)
        in_hand = [one.token for one in self.of(session) if one.token is not None]
        if kind is not None and in_hand:
            (code,) = self.broker.settle("q", session, [Settlement(in_hand[-1], kind, "why", "more")]).result()
            self.check_settled(session, in_hand[-1], kind, code)
        self.clock.advance(then)

    @rule(session=st.sampled_from(SESSIONS))
    def receive_again(self, session: str) -> None:
        self.tick()
        lock = self.locks.get(session)
        if lock is None or lock.last_request is None:
            return
        request, tokens = lock.last_request
        delivery = self.try_receive(session, lock.holder, 4, request)
        assert delivery is not None
        lock.expires = self.now + LOCK_SECONDS
        by_token = {one.token: one for one in self.of(session)}
        still = [by_token[token] for token in tokens if token in by_token]
        assert len(delivery.messages) == len(still)
        for one, message in zip(still, delivery.messages, strict=True):
            self.check_delivery(one, message)

    @rule(
        session=st.sampled_from([None, None, *SESSIONS]),
        who=st.sampled_from(["holder", "new", "former", "plain"]),
        with_request=st.booleans(),
    )
    def accept(self, session: str | None, who: str, with_request: bool) -> None:
        self.tick()
        holder = self.holder(session or "a", who)
        request = f"request-{next(self.numbers)}" if with_request else ""

        def call() -> Delivery | None:
            return self.broker.accept(AcceptRequest("q", session, holder, timeout=0, request_id=request)).result()

        refusal = None if session is None else self.refusal(session, holder)
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        if session is None:
            heads = [
                (active[0].place, name)
                for name in SESSIONS
                if name not in self.locks and (name, holder) not in self.lost and (active := self.of(name, "Active"))
            ]
            session = min(heads)[1] if heads else None
        delivery = call()
        if session is None:
            assert delivery is None
            return
        assert delivery is not None
        assert delivery.session_id == session
        assert delivery.lock_expires_in == pytest.approx(LOCK_SECONDS)
        lock = self.take(session, holder)
        lock.expires = self.now + LOCK_SECONDS
        if request:
            self.accepts[request] = (session, holder, lock)

    @precondition(lambda self: self.accepts)
    @rule(data=st.data())
    def accept_again(self, data: st.DataObject) -> None:
        self.tick()
        request = data.draw(st.sampled_from(sorted(self.accepts)))
        session, holder, lock = self.accepts[request]
        if self.locks.get(session) is lock:
            delivery = self.broker.accept(AcceptRequest("q", None, holder, timeout=0, request_id=request)).result()
            assert delivery is not None
            assert delivery.session_id == session
            lock.expires = self.now + LOCK_SECONDS

    @rule(
        session=st.sampled_from(SESSIONS),
        who=st.sampled_from(["holder", "holder", "holder", "new", "former", "plain"]),
        bogus=st.sampled_from([0, 0, 0, 999_999, 2**40 + 1, -1]),
        data=st.data(),
    )
    def receive_deferred(self, session: str, who: str, bogus: int, data: st.DataObject) -> None:
        self.tick()
        holder = self.holder(session, who)
        deferred = self.of(session, "Deferred")
        wanted = data.draw(st.lists(st.sampled_from(deferred), max_size=2, unique=True)) if deferred else []
        numbers = [one.sequence or 0 for one in wanted] + ([bogus] if bogus else [])

        def call() -> list[ReceivedMessage]:
            return self.broker.receive_deferred("q", session, holder, numbers).result()

        refusal = self.refusal(session, holder)
        if refusal is None and session not in self.locks and holder:
            refusal = SessionNotFoundError
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        self.take(session, holder)
        if bogus:
            with pytest.raises(ProviderError) as caught:
                call()
            assert caught.value.code == "MessageNotFound"
            return
        for one, message in zip(wanted, call(), strict=True):
            if one.token is None:
                self.deliver(one, message, "Deferred")
            else:
                assert message.receipt.handle == one.token

    # Settling

    @rule(
        session=st.sampled_from(SESSIONS),
        kinds=st.lists(st.sampled_from(list(Disposition)), min_size=1, max_size=4),
        data=st.data(),
    )
    def settle(self, session: str, kinds: list[Disposition], data: st.DataObject) -> None:
        self.tick()
        tokens = [one.token for one in self.of(session) if one.token is not None]
        tokens += [token for where, token in self.stale[-3:] if where == session]
        tokens += [token for token, (_, _, where) in list(self.settled.items())[-6:] if where == session]
        tokens.append("00000000-0000-0000-0000-000000000000")
        chosen = [(data.draw(st.sampled_from(tokens)), kind) for kind in kinds]
        codes = self.broker.settle("q", session, [Settlement(token, kind, "why", "more") for token, kind in chosen]).result()
        assert len(codes) == len(chosen)
        for (token, kind), code in zip(chosen, codes, strict=True):
            self.check_settled(session, token, kind, code)

    def check_settled(self, session: str, token: str, kind: Disposition, code: str | None) -> None:
        in_hand = next((one for one in self.of(session) if one.token == token), None)
        if in_hand is not None:
            assert code is None
            in_hand.token = None
            self.settled[token] = (kind, self.now, session)
            if kind is Disposition.COMPLETE:
                self.kept.remove(in_hand)
            elif kind is Disposition.DEFER:
                in_hand.state = "Deferred"
            elif kind is Disposition.DEAD_LETTER:
                in_hand.state, in_hand.reason = "DeadLettered", "why"
            elif in_hand.count >= self.settings.max_delivery_count:
                in_hand.state, in_hand.reason = "DeadLettered", "MaxDeliveryCountExceeded"
            return
        gone = "SessionLockLost" if session not in self.locks else "MessageLockLost"
        if token not in self.settled:
            assert code == gone
            return
        before, at, _ = self.settled[token]
        remembered = None if before is kind else "Conflict"
        if self.now - at < SETTLES_REMEMBERED:
            assert code == remembered
        else:
            assert code in (remembered, gone)

    @rule(
        session=st.sampled_from(SESSIONS),
        who=st.sampled_from(["holder", "holder", "new", "former", "plain"]),
    )
    def dead_letter_the_rest(self, session: str, who: str) -> None:
        self.tick()
        holder = self.holder(session, who)

        def call() -> int:
            return self.broker.dead_letter_session("q", session, holder, "the rest", None).result()

        if self.refused_by_all_but_its_holder(session, holder, call):
            return
        rest = self.of(session, "Active", "Deferred")
        assert call() == len(rest)
        for one in rest:
            one.state, one.reason = "DeadLettered", "the rest"
            if one.token is not None:
                self.settled[one.token] = (Disposition.DEAD_LETTER, self.now, session)
                one.token = None

    def refused_by_all_but_its_holder(self, session: str, holder: str, call: object) -> bool:
        """Check that what only a session's holder may do is refused, where it must be; tell whether it was."""
        refusal = self.refusal(session, holder)
        if refusal is None and session not in self.locks and holder:
            refusal = SessionNotFoundError
        if refusal is None:
            return False
        with pytest.raises(refusal):
            call()  # type: ignore[operator]
        return True

    @rule(session=st.sampled_from(SESSIONS), who=st.sampled_from(["holder", "holder", "new", "former"]))
    def renew(self, session: str, who: str) -> None:
        self.tick()
        holder = self.holder(session, who)

        def call() -> float:
            return self.broker.renew("q", session, holder).result()

        if session not in self.locks:
            with pytest.raises(SessionNotFoundError):
                call()
        elif not self.refused_by_all_but_its_holder(session, holder, call):
            assert call() == pytest.approx(LOCK_SECONDS)
            self.locks[session].expires = self.now + LOCK_SECONDS

    @rule(session=st.sampled_from(SESSIONS), who=st.sampled_from(["holder", "holder", "new", "former", "plain"]))
    def release(self, session: str, who: str) -> None:
        self.tick()
        holder = self.holder(session, who)
        self.broker.release("q", session, holder).result()
        lock = self.locks.get(session)
        if lock is not None and lock.holder == holder:
            self.end(session)
        elif holder:
            self.lost.add((session, holder))

    @rule(
        session=st.sampled_from(SESSIONS),
        who=st.sampled_from(["holder", "holder", "new", "former", "plain"]),
        state=st.sampled_from([None, b"", b"somewhere"]),
    )
    def keep_state(self, session: str, who: str, state: bytes | None) -> None:
        self.tick()
        holder = self.holder(session, who)

        def call() -> bytes | None:
            before = self.broker.get_state("q", session, holder).result()
            self.broker.set_state("q", session, holder, state).result()
            return before

        if not self.refused_by_all_but_its_holder(session, holder, call):
            assert call() == self.states.pop(session, None)
            if state is not None:
                self.states[session] = state

    # Dead letters

    @rule(resubmit=st.booleans(), data=st.data())
    def handle_a_dead_letter(self, resubmit: bool, data: st.DataObject) -> None:
        self.tick()
        dead = [one for one in self.kept if one.state == "DeadLettered"]
        one = data.draw(st.sampled_from([None, *sorted(dead, key=lambda one: one.place)]))
        call = self.broker.resubmit if resubmit else self.broker.delete_dead_letter
        if one is None or one.sequence is None:
            with pytest.raises(ProviderError) as caught:
                call("q", data.draw(st.sampled_from([0, -1, 999_999, 2**40 + 1, 2**70]))).result()
            assert caught.value.code == "MessageNotFound"
            return
        call("q", one.sequence).result()
        if resubmit:
            one.state, one.place, one.sequence = "Active", next(self.numbers), None
            one.count, one.reason = 0, None
            one.expires = None if one.lasts is None else self.now + one.lasts
        else:
            self.kept.remove(one)

    # What holds after every step

    @invariant()
    def everything_is_where_it_belongs(self) -> None:
        self.tick()
        shown = {session: self.broker.peek("q", session, 0, 1000).result() for session in SESSIONS}
        dead = self.broker.dead_letters("q", 0, 1000).result()
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

    @invariant()
    def sessions_are_listed_with_their_locks(self) -> None:
        self.tick()
        listed = {
            one.session_id: (one.message_count, None if one.locked_until is None else one.locked_until.timestamp())
            for one in self.broker.list_sessions("q", "", 100).result()
        }
        expected = {
            session: (
                len(self.of(session, "Active")),
                pytest.approx(self.locks[session].expires, abs=1e-3) if session in self.locks else None,
            )
            for session in SESSIONS
            if self.of(session, "Active", "Deferred") or session in self.states
        }
        assert listed == expected
        info = self.broker.get_queue("q").result()
        assert info.active_count == sum(one.state == "Active" for one in self.kept)
        assert info.dead_letter_count == sum(one.state == "DeadLettered" for one in self.kept)


_LONGER = int(os.environ.get("AZSESSION_MODEL_EXAMPLES", "0"))

TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(
    max_examples=_LONGER or 100,
    stateful_step_count=60,
    derandomize=not _LONGER,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
