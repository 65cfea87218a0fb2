"""The embedded broker against a simple model, driven at random by hypothesis.

``AZSESSION_MODEL_EXAMPLES=2000 pytest tests/broker/embedded/test_model.py`` runs longer, with other examples each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from azsession import ProviderError, ReceivedMessage, SessionLockedError, SessionNotFoundError
from azsession.broker.calls import AcceptRequest, Delivery, Disposition, ReceiveRequest, Settlement

from .machine import BrokerMachine
from .model import LOCK_SECONDS, SESSIONS

#: The caller: the holder of the lock, a new one, one that lost the lock, or the shared holder of the plain dialect.
CALLERS = st.sampled_from(["holder", "holder", "new", "former", "plain"])
MOSTLY_HOLDER = st.sampled_from(["holder", "holder", "holder", "new", "former", "plain"])


class HolderMachine(BrokerMachine):
    """Adds the operations of holders, and those on dead letters."""

    # Receiving

    @rule(
        session=st.sampled_from(SESSIONS),
        who=MOSTLY_HOLDER,
        count=st.integers(1, 4),
        with_request=st.booleans(),
        taken=st.sampled_from([None, None, 1, 2]),
    )
    def receive(self, session: str, who: str, count: int, with_request: bool, taken: int | None) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)
        request = f"request-{next(self.model.numbers)}" if with_request else ""
        delivery = self.try_receive(session, holder, count, request, taken)
        if delivery is None:
            return
        lock = self.model.take(session, holder)
        lock.expires = self.model.steady + LOCK_SECONDS
        received = list(delivery.messages)
        expected = self.model.take_messages(session, count)
        assert [one.body.decode() for one in received] == [one.body for one in expected]
        for index, (one, message) in enumerate(zip(expected, received, strict=True)):
            self.model.deliver(one, message, "Active", ahead=taken is not None and index >= taken)
        if received:
            lock.last_request = (request, [one.receipt.handle for one in received]) if request else None

    def try_receive(self, session: str, holder: str, count: int, request: str, taken: int | None = None) -> Delivery | None:
        """Return the delivery, or `None` if the holder got the expected error."""

        def call() -> Delivery:
            return self.broker.receive(
                ReceiveRequest("q", session, holder, max_count=count, timeout=0, request_id=request, taken=taken)
            ).result()

        refusal = self.model.refusal(session, holder)
        if refusal is not None:
            with pytest.raises(refusal) as caught:
                call()
            if refusal is SessionLockedError:
                until = caught.value.locked_until  # type: ignore[attr-defined]
                assert until.timestamp() == pytest.approx(self.model.locked_until(session), abs=1e-3)
            return None
        delivery = call()
        assert delivery.lock_expires_in == pytest.approx(LOCK_SECONDS)
        return delivery

    @rule(session=st.sampled_from(SESSIONS), kind=st.sampled_from([None, *Disposition]), then=st.sampled_from([0, 3.0, 31.0]))
    def receive_and_settle(self, session: str, kind: Disposition | None, then: float) -> None:
        """Receive, then settle the latest message or lose the lock, so that many messages reach their delivery limit."""
        self.receive(session, "holder", 2, False, None)
        in_hand = [one.token for one in self.model.of(session) if one.token is not None]
        if kind is not None and in_hand:
            (code,) = self.broker.settle("q", session, [Settlement(in_hand[-1], kind, "why", "more")]).result()
            self.model.check_settled(session, in_hand[-1], kind, code)
            self.model.use_next(session)
        self.clock.advance(then)

    @rule(session=st.sampled_from(SESSIONS))
    def receive_again(self, session: str) -> None:
        self.model.tick()
        lock = self.model.locks.get(session)
        if lock is None or lock.last_request is None:
            return
        request, tokens = lock.last_request
        delivery = self.try_receive(session, lock.holder, 4, request)
        assert delivery is not None
        lock.expires = self.model.steady + LOCK_SECONDS
        by_token = {one.token: one for one in self.model.of(session)}
        still = [by_token[token] for token in tokens if token in by_token]
        assert len(delivery.messages) == len(still)
        for one, message in zip(still, delivery.messages, strict=True):
            self.model.count(one)
            self.model.check_delivery(one, message)
            one.answers += 1

    @rule(
        session=st.sampled_from([None, None, *SESSIONS]),
        who=st.sampled_from(["holder", "new", "former", "plain"]),
        with_request=st.booleans(),
    )
    def accept(self, session: str | None, who: str, with_request: bool) -> None:
        self.model.tick()
        holder = self.model.holder(session or "a", who)
        request = f"request-{next(self.model.numbers)}" if with_request else ""

        def call() -> Delivery | None:
            return self.broker.accept(AcceptRequest("q", session, holder, timeout=0, request_id=request)).result()

        refusal = None if session is None else self.model.refusal(session, holder)
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        if session is None:
            session = self.model.next_session(holder)
        delivery = call()
        if session is None:
            assert delivery is None
            return
        assert delivery is not None
        assert delivery.session_id == session
        assert delivery.lock_expires_in == pytest.approx(LOCK_SECONDS)
        lock = self.model.take(session, holder)
        lock.expires = self.model.steady + LOCK_SECONDS
        if request:
            self.model.accepts[request] = (session, holder, lock)

    @precondition(lambda self: self.model.accepts)
    @rule(data=st.data())
    def accept_again(self, data: st.DataObject) -> None:
        self.model.tick()
        request = data.draw(st.sampled_from(sorted(self.model.accepts)))
        session, holder, lock = self.model.accepts[request]
        if self.model.locks.get(session) is lock:
            delivery = self.broker.accept(AcceptRequest("q", None, holder, timeout=0, request_id=request)).result()
            assert delivery is not None
            assert delivery.session_id == session
            lock.expires = self.model.steady + LOCK_SECONDS

    @rule(
        session=st.sampled_from(SESSIONS),
        who=MOSTLY_HOLDER,
        bogus=st.sampled_from([0, 0, 0, 999_999, 2**40 + 1, -1]),
        data=st.data(),
    )
    def receive_deferred(self, session: str, who: str, bogus: int, data: st.DataObject) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)
        deferred = self.model.of(session, "Deferred")
        wanted = data.draw(st.lists(st.sampled_from(deferred), max_size=2, unique=True)) if deferred else []
        numbers = [one.sequence or 0 for one in wanted] + ([bogus] if bogus else [])

        def call() -> list[ReceivedMessage]:
            return self.broker.receive_deferred("q", session, holder, numbers).result()

        refusal = self.model.refusal(session, holder)
        if refusal is None and session not in self.model.locks and holder:
            refusal = SessionNotFoundError
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        self.model.take(session, holder)
        if bogus:
            with pytest.raises(ProviderError) as caught:
                call()
            assert caught.value.code == "MessageNotFound"
            return
        for one, message in zip(wanted, call(), strict=True):
            if one.token is None:
                self.model.deliver(one, message, "Deferred")
            else:
                assert message.receipt.handle == one.token
                one.answers += 1

    @rule(session=st.sampled_from(SESSIONS), who=CALLERS, data=st.data())
    def give_back(self, session: str, who: str, data: st.DataObject) -> None:
        """Give back messages whose answer was not written. A message that is not the caller's is ignored."""
        self.model.tick()
        holder = self.model.holder(session, who)
        in_hand = [one for one in self.model.of(session) if one.token is not None]
        given_back = data.draw(st.lists(st.sampled_from(in_hand), max_size=2, unique=True)) if in_hand else []
        tokens = [one.token or "" for one in given_back]
        self.broker.give_back("q", session, holder, [*tokens, "unknown"]).result()
        lock = self.model.locks.get(session)
        if lock is None or lock.holder != holder:
            return
        for one in given_back:
            one.answers -= 1
            if one.answers == 0:
                self.model.stale.append((session, one.token or ""))
                self.model.uncount(one)
                one.token, one.ahead = None, False
        held = {one.token for one in self.model.of(session)}
        if lock.last_request is not None and not held & set(lock.last_request[1]):
            # A repeated receive gets new messages, if the answer was given back as a whole.
            lock.last_request = None

    # Settling

    @rule(
        session=st.sampled_from(SESSIONS),
        kinds=st.lists(st.sampled_from(list(Disposition)), min_size=1, max_size=4),
        data=st.data(),
    )
    def settle(self, session: str, kinds: list[Disposition], data: st.DataObject) -> None:
        self.model.tick()
        held = [one.token for one in self.model.of(session) if one.token is not None]
        tokens = list(held)
        tokens += [token for where, token in self.model.stale[-3:] if where == session]
        tokens += [token for token, (_, _, where) in list(self.model.settled.items())[-6:] if where == session]
        tokens.append("00000000-0000-0000-0000-000000000000")
        chosen = [(data.draw(st.sampled_from(tokens)), kind) for kind in kinds]
        codes = self.broker.settle("q", session, [Settlement(token, kind, "why", "more") for token, kind in chosen]).result()
        assert len(codes) == len(chosen)
        for (token, kind), code in zip(chosen, codes, strict=True):
            self.model.check_settled(session, token, kind, code)
        if any(token in held and code is None for (token, _), code in zip(chosen, codes, strict=True)):
            self.model.use_next(session)

    @rule(
        session=st.sampled_from(SESSIONS),
        who=CALLERS,
    )
    def dead_letter_session(self, session: str, who: str) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)

        def call() -> int:
            return self.broker.dead_letter_session("q", session, holder, "session", None).result()

        if self.is_refused(session, holder, call):
            return
        rest = self.model.of(session, "Active", "Deferred")
        assert call() == len(rest)
        for one in rest:
            one.state, one.reason = "DeadLettered", "session"
            if one.token is not None:
                self.model.settled[one.token] = (Disposition.DEAD_LETTER, self.model.steady, session)
                one.token, one.ahead = None, False

    def is_refused(self, session: str, holder: str, call: object) -> bool:
        """Check that the call fails if the caller does not hold the session. Return whether it does not."""
        refusal = self.model.refusal(session, holder)
        if refusal is None and session not in self.model.locks and holder:
            refusal = SessionNotFoundError
        if refusal is None:
            return False
        with pytest.raises(refusal):
            call()  # type: ignore[operator]
        return True

    @rule(session=st.sampled_from(SESSIONS), who=st.sampled_from(["holder", "holder", "new", "former"]))
    def renew(self, session: str, who: str) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)

        def call() -> float:
            return self.broker.renew("q", session, holder).result()

        if session not in self.model.locks:
            with pytest.raises(SessionNotFoundError):
                call()
        elif not self.is_refused(session, holder, call):
            assert call() == pytest.approx(LOCK_SECONDS)
            self.model.locks[session].expires = self.model.steady + LOCK_SECONDS

    @rule(session=st.sampled_from(SESSIONS), who=CALLERS)
    def release(self, session: str, who: str) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)
        self.broker.release("q", session, holder).result()
        lock = self.model.locks.get(session)
        if lock is not None and lock.holder == holder:
            self.model.end(session, counted=False)
        elif holder:
            self.model.lost.add((session, holder))

    @rule(
        session=st.sampled_from(SESSIONS),
        who=CALLERS,
        state=st.sampled_from([None, b"", b"somewhere"]),
    )
    def keep_state(self, session: str, who: str, state: bytes | None) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)

        def call() -> bytes | None:
            before = self.broker.get_state("q", session, holder).result()
            self.broker.set_state("q", session, holder, state).result()
            return before

        if not self.is_refused(session, holder, call):
            assert call() == self.model.states.pop(session, None)
            if state is not None:
                self.model.states[session] = state

    # Dead letters

    @rule(resubmit=st.booleans(), data=st.data())
    def handle_a_dead_letter(self, resubmit: bool, data: st.DataObject) -> None:
        self.model.tick()
        dead = [one for one in self.model.kept if one.state == "DeadLettered"]
        one = data.draw(st.sampled_from([None, *sorted(dead, key=lambda one: one.place)]))
        call = self.broker.resubmit if resubmit else self.broker.delete_dead_letter
        if one is None or one.sequence is None:
            with pytest.raises(ProviderError) as caught:
                call("q", data.draw(st.sampled_from([0, -1, 999_999, 2**40 + 1, 2**70]))).result()
            assert caught.value.code == "MessageNotFound"
            return
        call("q", one.sequence).result()
        if resubmit:
            one.state, one.place, one.sequence = "Active", next(self.model.numbers), None
            one.count, one.reason = 0, None
            one.expires = None if one.lasts is None else self.model.now + one.lasts
        else:
            self.model.kept.remove(one)


_LONGER = int(os.environ.get("AZSESSION_MODEL_EXAMPLES", "0"))
#: The examples are divided between so many tests. One test of all would reach the timeout on a busy machine.
PARTS = 5


@pytest.mark.parametrize("part", range(PARTS))
def test_the_broker_equals_the_model(part: int) -> None:
    machine = type("PartMachine", (HolderMachine,), {})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine if _LONGER else seed(part)(machine),
        settings=settings(
            max_examples=(_LONGER or 100) // PARTS,
            stateful_step_count=60,
            derandomize=not _LONGER,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
