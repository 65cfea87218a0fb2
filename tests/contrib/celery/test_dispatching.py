"""`Dispatcher`: the tasks that it sends."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from kombu.transport.virtual import Channel

from azsession import ConfigurationError, Message, ServiceBusProvider
from azsession.contrib.celery import Dispatcher, session_task

from .conftest import RunTasks
from .workers import QUEUE, send


@pytest.fixture
def task(app: Celery) -> Any:
    return session_task(QUEUE, app=app, name="handle", shared=False)(lambda message, session: None)


def test_the_dispatcher_sends_one_task_for_each_session_until_its_first_message_changes(
    app: Celery, task: Any, azsession_provider: ServiceBusProvider
) -> None:
    for session_id in "abc":
        send(azsession_provider, session_id, "123")
    dispatcher = Dispatcher(app, [QUEUE])
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [3, 0]
    task("a")
    send(azsession_provider, "a", "4")
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [1, 0]


def test_a_task_that_the_dispatcher_sends_drains_its_session(
    app: Celery, task: Any, run_tasks: RunTasks, azsession_provider: ServiceBusProvider
) -> None:
    send(azsession_provider, "a", "123")
    dispatcher = Dispatcher(app)
    assert dispatcher.queue_names == [QUEUE]

    def sleep(pause: float) -> bool:
        run_tasks()
        return not azsession_provider.list_sessions(QUEUE)

    assert dispatcher.run(sleep) == 1


def test_a_task_is_sent_again_after_the_remembered_time(
    app: Celery, task: Any, azsession_provider: ServiceBusProvider
) -> None:
    send(azsession_provider, "a", "1")
    dispatcher = Dispatcher(app, [QUEUE], remember=timedelta(0))
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [1, 1]


def test_no_task_is_sent_for_a_session_that_is_locked_or_has_nothing_to_receive(
    app: Celery, task: Any, azsession_provider: ServiceBusProvider
) -> None:
    dispatcher = Dispatcher(app, [QUEUE])
    send(azsession_provider, "held", "12")
    send(azsession_provider, "deferred", "1")
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    azsession_provider.send_message(QUEUE, Message("1", session_id="scheduled", scheduled_enqueue_time=later))
    with azsession_provider.create_session_client(QUEUE, "deferred") as session:
        message = session.receive_message(0)
        assert message is not None
        session.defer_message(message)
        session.set_session_state(b"state")
    with azsession_provider.create_session_client(QUEUE, "held") as session:
        assert session.receive_message(0) is not None
        assert dispatcher.dispatch() == 0
    assert dispatcher.dispatch() == 1


def test_a_queue_without_a_task_or_with_two_is_an_error(app: Celery, task: Any) -> None:
    with pytest.raises(ConfigurationError, match="no session task for the queue 'other'"):
        Dispatcher(app, ["other"])
    session_task(QUEUE, app=app, name="second", shared=False)(lambda message, session: None)
    with pytest.raises(ConfigurationError, match="two session tasks, "):
        Dispatcher(app, [QUEUE])


def test_an_app_without_session_tasks_is_an_error(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="has no session task"):
        Dispatcher(app)


def test_the_task_for_celerys_beat_dispatches_once(app: Celery, task: Any, azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, "a", "1")
    beats = app.tasks["azsession.dispatch"]
    assert [beats.apply((QUEUE,)).get(), beats.apply((QUEUE,)).get()] == [1, 0]


def test_the_dispatcher_goes_on_after_an_outage(
    app: Celery, task: Any, azsession_provider: ServiceBusProvider, caplog: pytest.LogCaptureFixture
) -> None:
    reachable = app.conf.azsession
    app.conf.azsession = {"gateway_url": "http://127.0.0.1:9", **reachable, "retry_attempts": 1}
    dispatcher = Dispatcher(app, [QUEUE])
    send(azsession_provider, "a", "1")
    pauses: list[float] = []

    def sleep(pause: float) -> bool:
        from azsession.contrib.celery import close_provider

        pauses.append(pause)
        close_provider(app)
        app.conf.azsession = reachable
        return len(pauses) == 2

    with caplog.at_level(logging.WARNING, "azsession.contrib.celery"):
        assert dispatcher.run(sleep, 0.05) == 1
    assert [record.getMessage().split(":")[0] for record in caplog.records if "dispatcher" in record.getMessage()] == [
        "the dispatcher cannot list sessions or send tasks, and tries again",
        "the dispatcher works again",
    ]
    assert pauses[0] > pauses[1] == 0.05


@pytest.mark.parametrize("error", [AttributeError("'NoneType' object has no attribute 'client'"), OSError("no route")])
def test_the_dispatcher_goes_on_after_celerys_broker_refused_a_task(
    error: Exception, app: Celery, task: Any, azsession_provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, failed = Channel.basic_publish, []

    def break_once(channel: Any, *args: Any, **options: Any) -> Any:
        if not failed:
            failed.append(error)
            raise error
        return publish(channel, *args, **options)

    monkeypatch.setattr(Channel, "basic_publish", break_once)
    send(azsession_provider, "a", "1")
    pauses: list[float] = []
    assert Dispatcher(app, [QUEUE]).run(lambda pause: pauses.append(pause) or len(pauses) == 2, 0.05) == 1
    assert pauses[0] > pauses[1]
