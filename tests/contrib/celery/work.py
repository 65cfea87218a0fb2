"""The Celery app of the workers in the tests. Its tasks write notes to files, and wait until a test lets them go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery
from kombu.transport.sqlalchemy import Transport

from azsession import DeadLetter, ReceivedMessage, SessionClient
from azsession.contrib.celery import current_provider, session_task

# The pause between two looks for tasks. The transport has no option for it, and its default is one second.
Transport.polling_interval = 0.02

PLACE = Path(os.environ.get("WORK_PLACE", "/nonexistent"))


def make_app(place: Path, connection_string: str) -> Celery:
    """Return an app whose broker is a database file in a folder."""
    made = Celery("work", broker=f"sqla+sqlite:///{place / 'broker.db'}", set_as_current=False)
    made.conf.update(
        azsession={"connection_string": connection_string},
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_lost_wait=0.5,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
    )
    session_task("orders", app=made, name="work.handle", shared=False, max_messages=20)(handle)
    return made


def note(text: str) -> None:
    """Append a line to the notes. Safe from many processes."""
    with (PLACE / "done").open("ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    """Note a message. If its text begins with "wait", first write down this process's id and wait for the file ``go``."""
    # A forked process has a provider of its own.
    assert (current_provider(app) is FIRST) == (os.getpid() == FIRST_PROCESS)
    text = message.text()
    if text.startswith("bad"):
        raise DeadLetter("bad")
    if text.startswith("wait") and not (PLACE / "go").exists():
        (PLACE / "waiting").write_text(str(os.getpid()))
        while not (PLACE / "go").exists():
            time.sleep(0.01)
    note(f"{session.session_id}\t{text}\t{os.getpid()}")


if "WORK_PLACE" in os.environ:
    app = make_app(PLACE, os.environ["SERVICEBUS_CONNECTION_STRING"])
    FIRST, FIRST_PROCESS = current_provider(app), os.getpid()
