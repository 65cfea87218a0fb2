"""No job of the embedded broker runs for long: large operations are done in steps, and others run in between.

The tests count the rows that one job changes, or the jobs that an operation needs, instead of measuring time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from azsession import Message, ProviderError, SessionNotFoundError
from azsession.broker.base import CallContext, Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.group_commit import Transaction
from azsession.broker.embedded.store import STEP_BYTES, STEP_ROWS
from azsession.queues import QueueSettings
from tests.conftest import eventually

from . import HandClock, accept, bodies, copy_data, dead, messages, peek, receive, send

MANY = 5 * STEP_ROWS


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def broker(clock: HandClock) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(queues=["q", "other"], clock=clock) as made:
        yield made


class JobLog:
    """Counts how many rows each job of a broker changes, deletes or inserts."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.rows: list[int] = []
        transact = broker._core.commits._transact
        connection = broker._core.connection

        def counted(batch: list[object]) -> object:
            before = connection.total_changes
            try:
                return transact(batch)  # type: ignore[arg-type]
            finally:
                # The last transaction closes the connection.
                with suppress(sqlite3.ProgrammingError):
                    self.rows.append(connection.total_changes - before)

        broker._core.commits._transact = counted  # type: ignore[method-assign, assignment]

    @property
    def most(self) -> int:
        return max(self.rows)


#: A transaction does one step of due work and one step of an operation. A step changes each of its messages, their delivery
#: counts, and the counters of their session and queue.
BOUND = 2 * 5 * STEP_ROWS + 100


def fill(broker: EmbeddedBroker, count: int, **fields: object) -> None:
    for start in range(0, count, 1000):
        part = [str(number) for number in range(start, min(start + 1000, count))]
        broker.send("q", messages(*part, **fields)).result()  # type: ignore[arg-type]


def test_expired_messages_are_removed_in_steps_when_a_session_is_received_from(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    fill(broker, MANY, time_to_live=60)
    send(broker, "alive")
    clock.advance(61)
    log = JobLog(broker)
    assert bodies(receive(broker)) == ["alive"]
    assert log.most <= BOUND


def test_another_holder_keeps_its_lock_while_many_messages_expire(broker: EmbeddedBroker, clock: HandClock) -> None:
    fill(broker, MANY, time_to_live=60)
    send(broker, "a", queue="other")
    clock.advance(61)
    receive(broker, "A", queue="other")
    future = broker.receive(ReceiveRequest("q", "s", "B", max_count=1, timeout=0), context=CallContext(blocking=False))
    # The renewal runs between two steps of the receive, not after all of them.
    assert broker.renew("other", "s", "A", context=CallContext(blocking=False)).result(10) > 0
    assert future.result(10).messages == []


def test_a_renewal_that_arrives_before_the_expiry_is_in_time_although_it_runs_later(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    receive(broker, "A")
    clock.advance(59)
    started, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        started.set()
        assert go_on.wait(10)

    blocker = threading.Thread(target=lambda: broker._core.perform(slow))
    blocker.start()
    assert started.wait(10)
    renewal = broker.renew("q", "s", "A", context=CallContext(blocking=False))
    late = broker.renew("q", "s", "B", context=CallContext(blocking=False))
    clock.advance(10)
    go_on.set()
    blocker.join()
    assert renewal.result(10) == pytest.approx(60)
    with pytest.raises(Exception, match="holder"):
        late.result(10)


def test_a_settlement_that_arrives_before_the_expiry_is_in_time_although_it_runs_later(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    clock.advance(59)
    started, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        started.set()
        assert go_on.wait(10)

    blocker = threading.Thread(target=lambda: broker._core.perform(slow))
    blocker.start()
    assert started.wait(10)
    settlement = Settlement(message.receipt.handle, Disposition.COMPLETE)
    settled = broker.settle("q", "s", [settlement], context=CallContext(blocking=False))
    clock.advance(10)
    go_on.set()
    blocker.join()
    assert settled.result(10) == [None]
    assert peek(broker) == []


def test_scheduled_messages_become_active_in_steps(broker: EmbeddedBroker, clock: HandClock) -> None:
    from azsession.broker.embedded.rows import to_datetime

    fill(broker, MANY, scheduled_enqueue_time=to_datetime(clock.now() + 60))
    log = JobLog(broker)
    clock.advance(61)
    eventually(lambda: broker.get_queue("q").result().active_count == MANY)
    assert log.most <= BOUND


# Deleting queues


def test_a_queue_is_deleted_in_steps_and_is_gone_at_once(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"]) as broker:
        fill(broker, MANY)
        log = JobLog(broker)
        broker.delete_queue("q").result()
        assert broker.list_queues().result() == []
        assert broker.create_queue("q", QueueSettings()).result()
        send(broker, "new")
        assert peek(broker) == ["new"]
        run = broker._core.connection.execute
        eventually(lambda: run("SELECT count(*) FROM messages").fetchone() == (1,))
        eventually(lambda: run("SELECT count(*) FROM deleted_queues").fetchone() == (0,))
        assert log.most <= BOUND
        assert broker.get_queue("q").result().active_count == 1


def test_a_queue_whose_deletion_was_cut_off_is_deleted_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, MANY)
        broker.delete_queue("q").result()
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        run = broker._core.connection.execute
        assert broker.list_queues().result() == []
        eventually(lambda: run("SELECT count(*) FROM messages").fetchone() == (0,))
        eventually(lambda: run("SELECT count(*) FROM sessions").fetchone() == (0,))


# Dead-lettering sessions


def test_a_session_is_dead_lettered_in_steps_that_nobody_sees(broker: EmbeddedBroker) -> None:
    fill(broker, MANY)
    receive(broker, "A", 3)
    log = JobLog(broker)
    context = CallContext(blocking=False)
    future = broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=context)
    seen = [broker.peek("q", "s", 0, 1000, context=context) for _ in range(3)]
    counts = [broker.get_queue("q", context=context) for _ in range(3)]
    assert future.result(10) == MANY
    assert [one.result(10) for one in seen] == [[]] * 3
    assert {one.result(10).dead_letter_count for one in counts} == {MANY}
    assert log.most <= BOUND
    assert {reason for _, reason in dead(broker)} == {"why"}


def test_dead_lettering_a_session_again_with_the_same_request_id_returns_the_same_number(broker: EmbeddedBroker) -> None:
    fill(broker, MANY)
    receive(broker, "A")
    context = CallContext(blocking=False)
    calls = [broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=context) for _ in range(2)]
    assert [call.result(10) for call in calls] == [MANY, MANY]


def test_messages_that_are_sent_while_a_session_is_dead_lettered_stay_active(broker: EmbeddedBroker) -> None:
    fill(broker, MANY)
    receive(broker, "A")
    future = broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=CallContext(blocking=False))
    send(broker, "later")
    assert future.result(10) == MANY
    assert peek(broker) == ["later"]
    assert bodies(receive(broker, "A")) == ["later"]


def test_a_session_whose_dead_lettering_was_cut_off_is_dead_lettered_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, MANY)
        receive(broker, "A")
        broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=CallContext(blocking=False))
        eventually(lambda: broker._core.connection.execute("SELECT count(*) FROM dead_letterings").fetchone()[0] < 2)
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        # The copy holds either nothing of the operation, or all of it.
        assert peek(broker) in ([], [str(number) for number in range(MANY)])
        assert broker.get_queue("q").result().dead_letter_count in (0, MANY)


def test_a_holder_that_lost_its_lock_cannot_dead_letter_the_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    fill(broker, 3)
    receive(broker, "A")
    clock.advance(61)
    with pytest.raises(SessionNotFoundError):
        broker.dead_letter_session("q", "s", "A", "why", None).result()


# Large messages

LARGE = b"x" * (1024 * 1024)


def large(count: int) -> list[Message]:
    return [Message(LARGE, session_id="s") for _ in range(count)]


def test_the_messages_of_one_result_are_bounded_in_bytes_and_the_rest_is_not_counted(broker: EmbeddedBroker) -> None:
    limit = STEP_BYTES // len(LARGE)
    broker.send("q", large(limit + 4)).result()
    assert len(broker.peek("q", "s", 0, 1000).result()) == limit
    first = receive(broker, "A", 1000)
    rest = receive(broker, "A", 1000)
    assert (len(first), len(rest)) == (limit, 4)
    assert {one.delivery_count for one in (*first, *rest)} == {1}
    assert [one.sequence_number for one in (*first, *rest)] == list(range(1, limit + 5))


def test_a_message_over_the_bound_is_returned_by_itself(broker: EmbeddedBroker) -> None:
    huge = Message(b"x" * (STEP_BYTES + 1), session_id="s")
    broker.send("q", [huge, *messages("small")]).result()
    assert [len(one.body) for one in receive(broker, "A", 10)] == [STEP_BYTES + 1]
    assert bodies(receive(broker, "A", 10)) == ["small"]


def test_many_large_messages_are_settled_in_steps(broker: EmbeddedBroker) -> None:
    count = 2 * STEP_BYTES // len(LARGE)
    broker.send("q", large(count)).result()
    received = [*receive(broker, "A", 1000), *receive(broker, "A", 1000), *receive(broker, "A", 1000)]
    assert len(received) == count
    log = JobLog(broker)
    settlements = [Settlement(one.receipt.handle, Disposition.COMPLETE) for one in received]
    assert broker.settle("q", "s", settlements).result() == [None] * count
    assert len([rows for rows in log.rows if rows]) >= 2
    assert broker.get_queue("q").result().active_count == 0


def test_dead_letters_and_deferred_messages_are_bounded_in_bytes(broker: EmbeddedBroker) -> None:
    limit = STEP_BYTES // len(LARGE)
    broker.send("q", large(limit + 2)).result()
    received = [*receive(broker, "A", 1000), *receive(broker, "A", 1000)]
    defer = [Settlement(one.receipt.handle, Disposition.DEFER) for one in received]
    assert broker.settle("q", "s", defer).result() == [None] * (limit + 2)
    numbers = [one.sequence_number or 0 for one in received]
    assert len(broker.receive_deferred("q", "s", "A", numbers).result()) == limit
    broker.dead_letter_session("q", "s", "A", "why", None).result()
    assert len(broker.dead_letters("q", 0, 1000).result()) == limit


# The next free session


def test_accepting_the_next_session_looks_at_no_locked_session(broker: EmbeddedBroker) -> None:
    for number in range(300):
        send(broker, "a", session=f"s{number}")
    for number in range(299):
        assert accept(broker, f"lock {number}") == f"s{number}"
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def steps_of(lock: str) -> int:
        nonlocal steps
        steps = 0
        broker._core.connection.set_progress_handler(count, 10)
        accept(broker, lock)
        broker._core.connection.set_progress_handler(None, 0)
        return steps

    with EmbeddedBroker(queues=["q"], clock=HandClock()) as small:
        send(small, "a", session="s299")
        small._core.connection.set_progress_handler(count, 10)
        accept(small, "lock")
        small._core.connection.set_progress_handler(None, 0)
        alone = steps
    assert steps_of("last") <= 2 * alone
    assert steps_of("none is left") <= 2 * alone


def test_a_session_is_free_again_for_an_accept_after_its_lock_ends(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    assert accept(broker, "A") == "s"
    assert accept(broker, "B") is None
    clock.advance(61)
    assert accept(broker, "B") == "s"
    broker.release("q", "s", "B").result()
    assert accept(broker, "C") == "s"


def test_a_session_that_is_locked_before_its_first_message_is_not_offered(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    send(broker, "a")
    assert accept(broker, "B") is None
    broker.release("q", "s", "A").result()
    assert accept(broker, "B") == "s"


def test_no_session_is_locked_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "a")
        assert accept(broker, "A") == "s"
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert accept(broker, "B") == "s"


# Giving messages back


def test_messages_that_are_given_back_come_again_uncounted_and_in_order(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    received = receive(broker, "A", 2, request_id="r1")
    broker.give_back("q", "s", "A", [one.receipt.handle for one in received]).result()
    again = receive(broker, "A", 10)
    assert [(one.text(), one.delivery_count) for one in again] == [("a", 1), ("b", 1), ("c", 1)]


def test_messages_that_a_repeated_receive_has_got_are_not_given_back(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A", request_id="r1")
    receive(broker, "A", request_id="r1")
    broker.give_back("q", "s", "A", [message.receipt.handle]).result()
    assert receive(broker, "A") == []
    assert broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.COMPLETE)]).result() == [None]


def test_a_receive_that_is_repeated_after_its_messages_were_given_back_gets_them_again(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    received = receive(broker, "A", 2, request_id="r1")
    broker.give_back("q", "s", "A", [one.receipt.handle for one in received]).result()
    assert bodies(receive(broker, "A", 2, request_id="r1")) == ["a", "b"]


def test_an_accept_that_is_undone_frees_the_session_for_all_holders(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    for holder in ("A", "A", "B"):
        assert accept(broker, holder) == "s"
        broker.undo_accept("q", "s", holder).result()


def test_an_accept_that_was_repeated_is_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    assert accept(broker, "A", request_id="r1") == "s"
    assert accept(broker, "A", request_id="r1") == "s"
    broker.undo_accept("q", "s", "A").result()
    assert accept(broker, "B") is None
    broker.undo_accept("q", "s", "A").result()
    assert accept(broker, "B") == "s"


def test_a_lock_that_an_accept_did_not_take_is_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    receive(broker, "A")
    assert accept(broker, "A", "s") == "s"
    broker.undo_accept("q", "s", "A").result()
    assert accept(broker, "B") is None


def test_only_the_holder_can_give_messages_back(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    broker.give_back("q", "s", "B", [message.receipt.handle]).result()
    assert broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.COMPLETE)]).result() == [None]


# Readiness


def test_a_broker_is_ready_unless_its_file_cannot_be_written(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"]) as broker:
        broker.check_ready().result()
        broker._core.connection.execute("PRAGMA query_only=ON")
        with pytest.raises(ProviderError, match="cannot be written"):
            broker.check_ready().result()
        broker._core.connection.execute("PRAGMA query_only=OFF")
        broker.check_ready().result()
