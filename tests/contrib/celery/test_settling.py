"""`settle_on_success`: a task settles a message that another process received."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from azsession import InvalidReceiptError, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.contrib.celery import settle_on_success

from .conftest import RunTasks
from .workers import QUEUE, left, send


@pytest.fixture
def session(azsession_provider: ServiceBusProvider) -> Iterator[SessionClient]:
    send(azsession_provider, "a", ["fine", "next"])
    with azsession_provider.create_session_client(QUEUE, "a") as client:
        yield client


def receive(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(0)
    assert message is not None
    return message


def make(app: Celery, *, errors: list[Exception], **options: Any) -> Any:
    """Return a task that raises these errors, one in each run, and then succeeds."""

    def work(receipt: str) -> None:
        with settle_on_success(receipt):
            if errors:
                raise errors.pop(0)

    return app.task(name="work", shared=False, **options)(work)


def test_a_message_is_completed_when_the_task_succeeds(
    app: Celery, run_tasks: RunTasks, session: SessionClient, azsession_provider: ServiceBusProvider
) -> None:
    result = make(app, errors=[]).delay(str(receive(session).receipt))
    run_tasks()
    result.get(timeout=30)
    assert left(azsession_provider) == 1
    assert receive(session).text() == "next"


def test_a_message_is_abandoned_when_the_task_fails_for_good(
    app: Celery, run_tasks: RunTasks, session: SessionClient
) -> None:
    result = make(app, errors=[ValueError("no")]).delay(str(receive(session).receipt))
    run_tasks()
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=30)
    again = receive(session)
    assert (again.text(), again.delivery_count) == ("fine", 2)


def test_a_message_stays_locked_while_the_task_is_retried(
    app: Celery, run_tasks: RunTasks, session: SessionClient, azsession_provider: ServiceBusProvider
) -> None:
    task = make(app, errors=[OSError("1"), OSError("2")], autoretry_for=(OSError,), default_retry_delay=0)
    first = receive(session)
    result = task.delay(str(first.receipt))
    run_tasks()
    result.get(timeout=30)
    # An abandoned message would come before the next one.
    assert left(azsession_provider) == 1
    assert receive(session).text() == "next"


def test_a_message_is_abandoned_after_the_last_retry(app: Celery, run_tasks: RunTasks, session: SessionClient) -> None:
    errors: list[Exception] = [OSError("1"), OSError("2")]
    task = make(app, errors=errors, autoretry_for=(OSError,), default_retry_delay=0, max_retries=1)
    result = task.delay(str(receive(session).receipt))
    run_tasks()
    with pytest.raises(OSError, match="2"):
        result.get(timeout=30)
    assert errors == []
    assert receive(session).text() == "fine"


def test_a_task_that_runs_twice_completes_its_message_once(
    app: Celery, run_tasks: RunTasks, session: SessionClient, azsession_provider: ServiceBusProvider
) -> None:
    task = make(app, errors=[], acks_late=True)
    receipt = str(receive(session).receipt)
    results = [task.delay(receipt), task.delay(receipt)]
    run_tasks()
    for result in results:
        result.get(timeout=30)
    assert left(azsession_provider) == 1


def test_a_task_fails_if_its_message_was_released_before(app: Celery, run_tasks: RunTasks, session: SessionClient) -> None:
    receipt = str(receive(session).receipt)
    session.close()
    result = make(app, errors=[]).delay(receipt)
    run_tasks()
    with pytest.raises(InvalidReceiptError):
        result.get(timeout=30)


@pytest.mark.parametrize(("errors", "next_one"), [([], "next"), ([ValueError("no")], "fine")])
def test_without_a_with_block_the_message_is_settled_at_the_end_of_the_task(
    app: Celery, run_tasks: RunTasks, session: SessionClient, errors: list[Exception], next_one: str
) -> None:
    def work(receipt: str) -> None:
        settle_on_success(receipt)
        if errors:
            raise errors[0]

    result = app.task(name="work", shared=False)(work).delay(str(receive(session).receipt))
    run_tasks()
    result.get(timeout=30, propagate=False)
    assert receive(session).text() == next_one


@pytest.mark.parametrize(("errors", "next_one"), [([], "next"), ([ValueError("no")], "fine")])
def test_a_task_that_is_called_as_a_function_settles_its_message(
    app: Celery, session: SessionClient, errors: list[Exception], next_one: str
) -> None:
    task = make(app, errors=list(errors))
    receipt = str(receive(session).receipt)
    if errors:
        with pytest.raises(ValueError, match="no"):
            task(receipt)
    else:
        task(receipt)
    assert receive(session).text() == next_one


def test_a_text_that_is_not_a_receipt_is_refused_at_once(app: Celery) -> None:
    with pytest.raises(InvalidReceiptError):
        make(app, errors=[])("azs1.nothing")
