"""A Celery app whose broker is in memory, and a function that runs its tasks in this process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import trace_task

from azsession.contrib.celery import close_provider
from azsession.testing import AzsessionServer

RunTasks = Callable[[], None]


@pytest.fixture
def app(azsession_server: AzsessionServer) -> Iterator[Celery]:
    made = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(
        azsession={"connection_string": azsession_server.connection_string},
        # All apps of this process share the memory broker.
        task_default_queue=str(uuid.uuid4()),
    )
    yield made
    close_provider(made)
    made.close()


@pytest.fixture
def run_tasks(app: Celery) -> RunTasks:
    """Return a function that runs all queued tasks, and those that they queue, like a worker. It ignores countdowns."""

    def run(message: Any) -> None:
        args, kwargs, _ = message.decode()
        message.ack()
        request = {**message.headers, "delivery_info": message.delivery_info, "is_eager": False}
        trace_task(app.tasks[message.headers["task"]], message.headers["id"], args, kwargs, request, app=app)

    def run_all() -> None:
        with app.connection_for_read() as connection, connection.SimpleQueue(app.conf.task_default_queue) as tasks:
            while True:
                try:
                    message = tasks.get(block=False)
                except Empty:
                    return
                run(message)

    return run_all
