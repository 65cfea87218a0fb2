"""`session_task`: a task that drains one session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import Ignore

from azsession import (
    ConnectionFailedError,
    DeadLetter,
    DeadLetterSession,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    ValidationError,
)
from azsession.client import settling
from azsession.contrib.celery import session_task
from azsession.testing import AzsessionServer

from ...conftest import eventually
from ...processor.helpers import lengthen_locks
from .conftest import RunTasks
from .workers import QUEUE, is_free, left, send


class Seen:
    """A body that notes its messages and then calls `then`."""

    def __init__(self, then: Callable[[ReceivedMessage, SessionClient], object] | None = None) -> None:
        self._then = then
        self.all: list[str] = []

    def __call__(self, message: ReceivedMessage, session: SessionClient) -> None:
        self.all.append(f"{session.session_id}{message.text()}")
        if self._then is not None:
            self._then(message, session)


def make(app: Celery, body: Callable[..., object], **options: Any) -> Any:
    return session_task(QUEUE, app=app, name="handle", shared=False, **options)(body)


def test_a_task_handles_the_messages_of_its_session_in_order(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    seen = Seen()
    send(azsession_provider, "a", "123")
    send(azsession_provider, "b", "1")
    assert make(app, seen)("a") == 3
    assert seen.all == ["a1", "a2", "a3"]
    assert [(each.session_id, each.message_count) for each in azsession_provider.list_sessions(QUEUE)] == [("b", 1)]
    assert is_free(azsession_provider) is False


def test_a_task_runs_in_a_worker(app: Celery, run_tasks: RunTasks, azsession_provider: ServiceBusProvider) -> None:
    seen = Seen()
    task = make(app, seen)
    send(azsession_provider, "a", "123")
    result = task.delay("a")
    run_tasks()
    assert result.get(timeout=30) == 3
    assert seen.all == ["a1", "a2", "a3"]
    assert is_free(azsession_provider)


def test_a_task_ends_without_an_error_if_another_client_holds_the_session(
    app: Celery, azsession_provider: ServiceBusProvider
) -> None:
    seen = Seen()
    send(azsession_provider, "a", "12")
    with azsession_provider.create_session_client(QUEUE, "a") as holder:
        assert holder.receive_message(0) is not None
        assert make(app, seen).apply(("a",)).get() == 0
    assert seen.all == []


def test_a_task_for_an_empty_session_handles_no_message(app: Celery) -> None:
    assert make(app, Seen())("a") == 0


def test_a_failure_costs_the_messages_that_were_fetched_with_it_no_delivery(
    app: Celery, run_tasks: RunTasks, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.delivery_count == 1:
            raise OSError("not now")

    azsession_server.create_queue(QUEUE, max_delivery_count=2)
    seen = Seen(fail_once)
    task = make(app, seen)
    send(azsession_provider, "a", "1234")
    task.delay("a")
    run_tasks()
    eventually(lambda: left(azsession_provider) == 0, seconds=60)
    assert seen.all == [f"a{number}" for number in "11223344"]
    assert azsession_provider.dead_letters(QUEUE) == []


def test_dead_letter_moves_one_message_and_the_session_goes_on(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    def judge(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            raise DeadLetter("bad")

    send(azsession_provider, "a", "123")
    assert make(app, judge)("a") == 2
    assert [dead.text() for dead in azsession_provider.dead_letters(QUEUE)] == ["2"]


def test_dead_letter_session_moves_all_remaining_messages(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    def judge(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            raise DeadLetterSession("bad")

    send(azsession_provider, "a", "123")
    assert make(app, judge)("a") == 1
    assert [dead.text() for dead in azsession_provider.dead_letters(QUEUE)] == ["2", "3"]


def test_a_failed_message_is_redelivered_before_later_messages(
    app: Celery, run_tasks: RunTasks, azsession_provider: ServiceBusProvider
) -> None:
    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2" and message.delivery_count == 1:
            raise OSError("not now")

    seen = Seen(fail_once)
    task = make(app, seen)
    send(azsession_provider, "a", "123")
    result = task.delay("a")
    run_tasks()
    # The second run counts only its own messages.
    assert result.get(timeout=30) == 2
    assert seen.all == ["a1", "a2", "a2", "a3"]
    assert is_free(azsession_provider)


def test_a_message_that_always_fails_is_dead_lettered_by_its_queue(
    app: Celery, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    def fail(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            raise OSError("never")

    azsession_server.create_queue(QUEUE, max_delivery_count=3)
    seen = Seen(fail)
    send(azsession_provider, "a", "123")
    make(app, seen).apply(("a",)).get()
    assert seen.all == ["a1", "a2", "a2", "a2", "a3"]
    assert [dead.text() for dead in azsession_provider.dead_letters(QUEUE)] == ["2"]


def test_max_retries_ends_the_task_with_the_error_of_its_message(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    def fail(message: ReceivedMessage, session: SessionClient) -> None:
        raise OSError("never")

    send(azsession_provider, "a", "1")
    with pytest.raises(OSError, match="never"):
        make(app, fail, max_retries=1).apply(("a",)).get()
    assert left(azsession_provider) == 1


def test_another_task_handles_a_message_that_came_after_the_last_receive(
    app: Celery, run_tasks: RunTasks, azsession_provider: ServiceBusProvider
) -> None:
    def send_another(message: ReceivedMessage, session: SessionClient) -> None:
        # The receive returned fewer messages than it asked for, so the task receives no more.
        if message.text() == "1":
            send(azsession_provider, "a", "2")
            assert make_another("a") == 0

    make_another = session_task(QUEUE, app=app, name="another", shared=False)(Seen())
    seen = Seen(send_another)
    task = make(app, seen)
    send(azsession_provider, "a", "1")
    task.delay("a")
    run_tasks()
    assert left(azsession_provider) == 0
    assert seen.all == ["a1", "a2"]


def test_max_messages_lets_other_sessions_have_their_turn(
    app: Celery, run_tasks: RunTasks, azsession_provider: ServiceBusProvider
) -> None:
    seen = Seen()
    task = make(app, seen, max_messages=2)
    send(azsession_provider, "a", "123456")
    send(azsession_provider, "b", "1")
    task.delay("a")
    task.delay("b")
    run_tasks()
    assert left(azsession_provider) == 0
    assert sorted(seen.all) == ["a1", "a2", "a3", "a4", "a5", "a6", "b1"]
    assert [each for each in seen.all if each[0] == "a"] == ["a1", "a2", "a3", "a4", "a5", "a6"]
    assert seen.all.index("b1") < 6


def test_a_task_that_is_called_as_a_function_empties_its_session(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "a", "12345")
    assert make(app, Seen(), max_messages=2)("a") == 5


def test_a_task_that_is_called_as_a_function_stops_when_the_worker_ends(
    app: Celery, azsession_provider: ServiceBusProvider
) -> None:
    def end(message: ReceivedMessage, session: SessionClient) -> None:
        signals.worker_shutting_down.send(sender="worker")

    send(azsession_provider, "a", "123")
    try:
        assert make(app, end)("a") == 1
    finally:
        signals.worker_init.send(sender=None)
    assert left(azsession_provider) == 2


def test_a_message_whose_lock_was_lost_is_not_counted_and_is_redelivered(
    app: Celery, run_tasks: RunTasks, azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    lost = threading.Event()

    def outlive_the_lock(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "1" and message.delivery_count == 1:
            lengthen_locks(azsession_server)
            eventually(lambda: session.is_lock_lost)
            # The client considers the lock lost a little before the server does.
            eventually(lambda: azsession_provider.list_sessions(QUEUE)[0].locked_until is None)
            lost.set()

    azsession_server.create_queue(QUEUE, lock_duration=2)
    seen = Seen(outlive_the_lock)
    task = make(app, seen, max_renewal=0, prefetch=1)
    send(azsession_provider, "a", "12")
    result = task.delay("a")
    run_tasks()
    assert result.get(timeout=30) == 0
    assert lost.is_set()
    assert left(azsession_provider) == 0
    assert seen.all == ["a1", "a1", "a2"]


def test_a_bound_body_can_use_the_retry_of_its_task(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    runs: list[int] = []

    def body(task: Any, message: ReceivedMessage, session: SessionClient) -> None:
        runs.append(task.request.retries)
        if task.request.retries == 0:
            raise task.retry(countdown=0)

    send(azsession_provider, "a", "1")
    make(app, body, bind=True).apply(("a",)).get()
    assert runs == [0, 1]
    assert left(azsession_provider) == 0


def test_ignore_abandons_the_message_and_ends_the_task(app: Celery, azsession_provider: ServiceBusProvider) -> None:
    def ignore(message: ReceivedMessage, session: SessionClient) -> None:
        raise Ignore

    send(azsession_provider, "a", "12")
    assert make(app, ignore).apply(("a",)).state == "IGNORED"
    assert left(azsession_provider) == 2
    assert azsession_provider.list_sessions(QUEUE)[0].locked_until is None


def test_a_permanent_error_is_not_retried(app: Celery) -> None:
    with pytest.raises(ValidationError):
        make(app, Seen()).apply(("s" * 129,)).get()


def test_a_worker_retries_a_task_if_the_server_cannot_be_reached(app: Celery) -> None:
    app.conf.azsession = {"connection_string": "Endpoint=sb://127.0.0.1:9/;SharedAccessKeyName=k;SharedAccessKey=s"}
    app.conf.azsession |= {"gateway_url": "http://127.0.0.1:9", "retry_attempts": 1}
    task = make(app, Seen())
    with pytest.raises(ConnectionFailedError):
        task.apply(("a",)).get()
    task.push_request(called_directly=False, retries=3, args=("a",), kwargs={}, id="1")
    try:
        with pytest.raises(Exception, match="Retry in") as caught:
            task.run("a")
    finally:
        task.pop_request()
    assert isinstance(caught.value.__cause__, ConnectionFailedError)
    assert caught.value.when > 1  # type: ignore[attr-defined]


def test_a_task_can_settle_in_the_background(
    app: Celery, azsession_provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "4" and message.delivery_count == 1:
            raise OSError("not now")

    threads: set[str] = set()
    together = settling.complete_together

    def noted(*arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        return together(*arguments)

    monkeypatch.setattr(settling, "complete_together", noted)
    seen = Seen(judge)
    send(azsession_provider, "a", "123456")
    task = make(app, seen, settle_in_background=2)
    with pytest.raises(OSError, match="not now"):
        task("a")
    assert left(azsession_provider) == 3
    assert task("a") == 3
    assert seen.all == [f"a{number}" for number in "1234456"]
    assert threads == {"azsession-processor-settler"}
    with pytest.raises(ValidationError, match="settle_in_background"):
        make(app, seen, settle_in_background=-1)


def test_a_task_has_its_body_as_an_attribute(app: Celery) -> None:
    seen = Seen()
    assert make(app, seen).body is seen


def test_a_wrong_option_or_a_missing_queue_is_refused_at_once(app: Celery) -> None:
    with pytest.raises(ValidationError, match="max_messages"):
        make(app, Seen(), max_messages=0)
    with pytest.raises(ValidationError, match="name of a queue"):
        session_task(Seen())  # type: ignore[arg-type]
