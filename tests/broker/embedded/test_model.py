"""The embedded broker against a simple model, driven at random by hypothesis.

``AZSESSION_MODEL_EXAMPLES=2000 pytest tests/broker/embedded/test_model.py`` runs longer, with other examples each time.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from azsession import ProviderError, ReceivedMessage, SessionNotFoundError
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement

from .model import LOCK_SECONDS, SESSIONS
from .receiving_machine import CALLERS, MOSTLY_HOLDER, ReceivingMachine


class HolderMachine(ReceivingMachine):
    """Adds settlements, the other operations of holders, and those on dead letters."""

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
        chosen = self.choose(session, kinds, data)
        codes = self.broker.settle("q", session, settlements(chosen)).result()
        self.check_codes(session, chosen, codes)

    def choose(self, session: str, kinds: list[Disposition], data: st.DataObject) -> list[tuple[str, Disposition]]:
        """Choose messages to settle: unsettled ones, and some that the broker must refuse."""
        tokens = [one.token for one in self.model.of(session) if one.token is not None]
        tokens += [token for where, token in self.model.stale[-3:] if where == session]
        tokens += [token for token, (_, _, where) in list(self.model.settled.items())[-6:] if where == session]
        tokens.append("00000000-0000-0000-0000-000000000000")
        return [(data.draw(st.sampled_from(tokens)), kind) for kind in kinds]

    def check_codes(self, session: str, chosen: list[tuple[str, Disposition]], codes: Sequence[str | None]) -> None:
        """Compare the results of settlements with the model."""
        held = {one.token for one in self.model.of(session) if one.token is not None}
        assert len(codes) == len(chosen)
        for (token, kind), code in zip(chosen, codes, strict=True):
            self.model.check_settled(session, token, kind, code)
        if any(token in held and code is None for (token, _), code in zip(chosen, codes, strict=True)):
            self.model.use_next(session)

    @rule(
        session=st.sampled_from(SESSIONS),
        who=MOSTLY_HOLDER,
        kinds=st.lists(st.sampled_from(list(Disposition)), max_size=3),
        count=st.integers(1, 4),
        taken=st.sampled_from([None, None, 1, 2]),
        holds=st.booleans(),
        data=st.data(),
    )
    def settle_and_receive(
        self,
        session: str,
        who: str,
        kinds: list[Disposition],
        count: int,
        taken: int | None,
        holds: bool,
        data: st.DataObject,
    ) -> None:
        """Settle messages, those in hand first, and receive."""
        self.model.tick()
        holder, request = self.model.holder(session, who), f"request-{next(self.model.numbers)}"
        first = [one.token for one in self.model.of(session) if one.token is not None][:1]
        chosen = [(token, Disposition.COMPLETE) for token in first] + self.choose(session, kinds, data)
        wanted = ReceiveRequest(
            "q", session, holder, max_count=count, timeout=0, request_id=request, taken=taken, holds_lock=holds
        )
        settled = self.broker.settle_and_receive(settlements(chosen), wanted).result()
        self.check_codes(session, chosen, settled.codes)
        is_lost = self.model.refusal(session, holder) is not None or (
            holds and bool(holder) and session not in self.model.locks
        )
        if is_lost or any(code is not None for code in settled.codes):
            assert settled.delivery is None
            return
        assert settled.delivery is not None
        self.check_received(session, holder, settled.delivery, count, request, taken)

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

    @rule(
        session=st.sampled_from(SESSIONS),
        who=CALLERS,
        kinds=st.lists(st.sampled_from(list(Disposition)), max_size=2),
        data=st.data(),
    )
    def release(self, session: str, who: str, kinds: list[Disposition], data: st.DataObject) -> None:
        self.model.tick()
        holder = self.model.holder(session, who)
        chosen = self.choose(session, kinds, data)
        codes = self.broker.release("q", session, holder, settlements(chosen)).result()
        self.check_codes(session, chosen, codes)
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


def settlements(chosen: Sequence[tuple[str, Disposition]]) -> list[Settlement]:
    return [Settlement(token, kind, "why", "more") for token, kind in chosen]


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
            # A search for a smaller example takes so long that the test would reach its timeout, and not show the failure.
            phases=list(Phase) if _LONGER else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.skipif("CI" not in os.environ, reason="the examples are the same each time in CI only")
def test_the_examples_do_not_depend_on_the_modules_that_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    @settings(max_examples=200, derandomize=True, database=None)
    @given(st.integers())
    def collect(number: int) -> None:
        found.append(number)

    collect()
    before, found = found, []
    (tmp_path / "many_constants.py").write_text(
        f"NUMBERS = {[1_000_003 * number for number in range(100)]}", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("many_constants")
    collect()
    assert found == before
