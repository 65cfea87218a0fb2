"""The part of the state machine that receives and accepts. `test_model` adds the other operations."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from azsession import SessionLockedError
from azsession.broker.calls import AcceptRequest, Delivery, ReceiveRequest

from .machine import BrokerMachine
from .model import LOCK_SECONDS, SESSIONS

#: The caller: the holder of the lock, a new one, one that lost the lock, or the shared holder of the plain dialect.
CALLERS = st.sampled_from(["holder", "holder", "new", "former", "plain"])
MOSTLY_HOLDER = st.sampled_from(["holder", "holder", "holder", "new", "former", "plain"])


class ReceivingMachine(BrokerMachine):
    """Adds receives and accepts."""

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
        self.check_received(session, holder, delivery, count, request, taken)

    def check_received(
        self, session: str, holder: str, delivery: Delivery, count: int, request: str, taken: int | None
    ) -> None:
        """Compare the messages of a session that a holder got with the model."""
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
        self.check_repeated(session, tokens, delivery)

    def check_repeated(self, session: str, tokens: list[str], delivery: Delivery) -> None:
        """Compare the messages that a repeated request got with those of the former one that are unsettled."""
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
        count=st.sampled_from([None, 1, 3]),
        taken=st.sampled_from([None, None, 1, 2]),
    )
    def accept(self, session: str | None, who: str, with_request: bool, count: int | None, taken: int | None) -> None:
        self.model.tick()
        holder = self.model.holder(session or "a", who)
        request = f"request-{next(self.model.numbers)}" if with_request else ""

        def call() -> Delivery | None:
            wanted = AcceptRequest(
                "q", session, holder, timeout=0, request_id=request, max_count=count, taken=None if count is None else taken
            )
            return self.broker.accept(wanted).result()

        refusal = None if session is None else self.model.refusal(session, holder)
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        delivery = call()
        expected = session
        if expected is None:
            expected = self.model.next_session(holder, deliverable=count is not None)
        if expected is None:
            assert delivery is None
            return
        assert delivery is not None
        assert delivery.session_id == expected
        assert delivery.lock_expires_in == pytest.approx(LOCK_SECONDS)
        if count is None:
            assert not delivery.messages
            self.model.take(expected, holder).expires = self.model.steady + LOCK_SECONDS
        else:
            self.check_received(expected, holder, delivery, count, request, taken)
        if request:
            tokens = [one.receipt.handle for one in delivery.messages]
            self.model.accepts[request] = (expected, holder, self.model.locks[expected], tokens)

    @precondition(lambda self: self.model.accepts)
    @rule(data=st.data())
    def accept_again(self, data: st.DataObject) -> None:
        self.model.tick()
        request = data.draw(st.sampled_from(sorted(self.model.accepts)))
        session, holder, lock, tokens = self.model.accepts[request]
        if self.model.locks.get(session) is lock:
            wanted = AcceptRequest("q", None, holder, timeout=0, request_id=request, max_count=4 if tokens else None)
            delivery = self.broker.accept(wanted).result()
            assert delivery is not None
            assert delivery.session_id == session
            lock.expires = self.model.steady + LOCK_SECONDS
            self.check_repeated(session, tokens, delivery)
