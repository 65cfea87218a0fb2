"""A Celery app of a test's own, whose broker is in memory, and a worker for it in this process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from azsession.contrib.celery import close_provider
from azsession.testing import AzsessionServer

StartWorker = Callable[[], AbstractContextManager[object]]


@pytest.fixture
def app(azsession_server: AzsessionServer) -> Iterator[Celery]:
    made = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(
        azsession={"connection_string": azsession_server.connection_string},
        broker_transport_options={"polling_interval": 0.01},
        # What is in memory is there for all apps of this process.
        task_default_queue=str(uuid.uuid4()),
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
    )
    yield made
    close_provider(made)
    made.close()


@pytest.fixture
def worker(app: Celery) -> StartWorker:
    """Return what starts a worker, for the length of a with block, that runs the tasks one after another."""

    def start() -> AbstractContextManager[object]:
        return start_worker(app, perform_ping_check=False, loglevel="WARNING", shutdown_timeout=30)

    return start
