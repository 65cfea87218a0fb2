"""The state machine with which `test_model` compares the broker and the model: time, restarts, sends, and the invariants."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from azsession import Message, ProviderError, QueueError, ValidationError
from azsession.broker.calls import ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings

from .helpers import HandClock, copy_data
from .model import LOCK_SECONDS, REQUESTS_REMEMBERED, SESSIONS, WINDOW, Model, check_counters


class BrokerMachine(RuleBasedStateMachine):
    """Calls operations of a broker in any order. After each step, the broker must equal the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="azsession-model-"))
        self.path = self.folder / "data.db"
        self.clock = HandClock()
        self.broker = EmbeddedBroker(self.path, clock=self.clock)
        self.model = Model(self.clock)

    @initialize(dead_letter=st.booleans(), detection=st.booleans(), deliveries=st.integers(1, 3))
    def make_queue(self, dead_letter: bool, detection: bool, deliveries: int) -> None:
        self.model.settings = QueueSettings(
            lock_duration=LOCK_SECONDS,
            max_delivery_count=deliveries,
            dead_letter_on_expiration=dead_letter,
            requires_duplicate_detection=detection,
            duplicate_detection_window=WINDOW,
        )
        assert self.broker.create_queue("q", self.model.settings).result()

    def teardown(self) -> None:
        self.broker.close()
        shutil.rmtree(self.folder)

    # Time

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, LOCK_SECONDS - 1, LOCK_SECONDS, 61.0, 301.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-7200.0, -5.0, 5.0, 7200.0]))
    def set_wall_clock(self, seconds: float) -> None:
        self.model.tick()
        self.clock.set_wall_clock(seconds)

    @precondition(lambda self: self.model.locks)
    @rule(session=st.sampled_from(SESSIONS))
    def fail_to_write(self, session: str) -> None:
        """Let writes fail. No operation may change anything."""
        self.model.tick()
        self.broker.list_queues().result()
        run = self.broker._core.connection.execute
        run("PRAGMA query_only=ON")
        lock = self.model.locks.get(session)
        holder = "another" if lock is None else lock.holder
        with pytest.raises(ProviderError):
            self.broker.send("q", [Message("lost", session_id=session)]).result()
        with suppress(QueueError):
            self.broker.dead_letter_session("q", session, holder, "why", None).result()
        with suppress(QueueError):
            # Without messages, a receive writes nothing and extends the lock.
            delivery = self.broker.receive(ReceiveRequest("q", session, holder, max_count=3, timeout=0)).result()
            assert delivery.messages == []
            assert lock is not None
            lock.expires = self.model.steady + LOCK_SECONDS
        if lock is not None:
            with pytest.raises(ProviderError):
                self.broker.release("q", session, holder).result()
        run("PRAGMA query_only=OFF")

    @rule(kill=st.booleans(), uptime=st.floats(0, 1e6))
    def restart(self, kill: bool, uptime: float) -> None:
        if kill:
            copy = copy_data(self.path)
            self.broker.close()
            self.path = copy
        else:
            self.broker.close()
        correction = self.clock.now() - self.clock.steady()
        self.clock = HandClock(uptime, self.clock.steady())
        self.clock.set_wall_clock(correction)
        self.broker = EmbeddedBroker(self.path, clock=self.clock)
        self.model.restart(self.clock, kill=kill)

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
        self.model.tick()
        made = []
        for session, delay, life, message_id in batch:
            due = None if delay is None else datetime.fromtimestamp(self.model.now + delay, timezone.utc)
            made.append(
                Message(
                    f"m{next(self.model.numbers)}",
                    session_id=session,
                    message_id=message_id,
                    scheduled_enqueue_time=due,
                    time_to_live=life,
                )
            )
        request = f"request-{next(self.model.numbers)}" if with_request else ""
        self.broker.send("q", made, request).result()
        if with_request:
            self.model.requests.append((request, made, self.model.steady))
        self.model.add(made)

    @precondition(lambda self: self.model.requests)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        request, made, at = data.draw(st.sampled_from(self.model.requests[-3:]))
        if self.model.steady - at < REQUESTS_REMEMBERED:
            self.broker.send("q", made, request).result()

    @rule(session=st.sampled_from(SESSIONS))
    def send_a_batch_with_a_message_without_session_id(self, session: str) -> None:
        with pytest.raises(ValidationError):
            self.broker.send("q", [Message(b"good", session_id=session), Message(b"without session")]).result()

    # Invariants

    @invariant()
    def the_broker_equals_the_model(self) -> None:
        self.model.tick()
        # The first operation can share its transaction with a step of the broker's thread that began before the clock was
        # advanced. A transaction has one step, so that the messages that expired meanwhile are removed in the next one.
        self.broker.list_queues().result()
        shown = {session: self.broker.peek("q", session, 0, 1000).result() for session in SESSIONS}
        self.model.check_messages(shown, self.broker.dead_letters("q", 0, 1000).result())
        self.model.check_sessions(self.broker.list_sessions("q", "", 100).result())
        info = self.broker.get_queue("q").result()
        assert info.active_count == sum(one.state == "Active" for one in self.model.kept)
        assert info.dead_letter_count == sum(one.state == "DeadLettered" for one in self.model.kept)

    @invariant()
    def the_counters_equal_the_stored_messages(self) -> None:
        self.model.tick()
        core = self.broker._core
        core.perform(lambda tx: check_counters(core.connection.execute, self.model.locks))
