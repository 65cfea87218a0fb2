"""Runs Celery workers and the dispatcher as separate processes, and looks at the queue that they work on."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ...conftest import eventually, whole_lines
from ...support.paths import ROOT
from ...support.processes import FORKS_IGNORED, PATIENCE, environment
from ..running import Running

APP = "tests.contrib.celery.work"
QUEUE = "orders"
#: The start of a warning of SQLAlchemy that Kombu's transport causes.
KOMBUS = "The ``noload`` loader strategy"
#: The processes show all warnings except Kombu's, Celery's about root, Python's about forks, and, since Python 3.13, Python's
#: about database connections that Kombu leaves open.
WARNINGS = f"default,ignore:{KOMBUS},ignore:You're running the worker with superuser,{FORKS_IGNORED},ignore:unclosed database"

_MAKE_QUEUE = f"""
from {APP} import app
with app.connection_for_write() as connection:
    app.amqp.queues["celery"](connection.default_channel).declare()
"""


class Place:
    """A folder with the app's broker and the notes of its tasks."""

    def __init__(self, folder: Path, server: AzsessionServer) -> None:
        self.folder = folder
        self._environment = environment(
            server.connection_string,
            WORK_PLACE=str(folder),
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS=WARNINGS,
            PYTHONDONTWRITEBYTECODE="1",
        )
        # Create Kombu's tables and queue here: two processes cannot create them at the same time.
        subprocess.run([sys.executable, "-c", _MAKE_QUEUE], env=self._environment, cwd=folder, timeout=PATIENCE, check=True)

    def worker(self, *options: str) -> Worker:
        """Start a worker."""
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")
        return self._start("celery", "-A", APP, "worker", *quiet, *options)

    def dispatcher(self, *options: str) -> Worker:
        """Start the dispatcher."""
        return self._start("azsession", "celery-dispatch", "-A", APP, "--interval", "0.1", *options)

    def _start(self, module: str, *arguments: str) -> Worker:
        command = [sys.executable, "-m", module, *arguments]
        return Worker(command, self._environment, self.folder, cwd=self.folder, merge=True)

    def go(self) -> None:
        """Let all waiting tasks go on."""
        (self.folder / "go").touch()

    def waiting(self) -> int:
        """Wait until a task waits, and return the id of its process."""
        path = self.folder / "waiting"
        eventually(lambda: path.exists() and path.read_text(), seconds=PATIENCE)
        return int(path.read_text())

    def lines(self) -> list[list[str]]:
        """Return the notes: session, text and process id of each message."""
        return [line.split("\t") for line in whole_lines(self.folder / "done")]

    def done(self) -> dict[str, list[str]]:
        """Return the texts of each session, in the order in which they were handled."""
        by_session: dict[str, list[str]] = defaultdict(list)
        for session_id, text, _ in self.lines():
            by_session[session_id].append(text)
        return dict(by_session)

    def done_by(self) -> set[int]:
        """Return the ids of the processes that handled messages."""
        return {int(process) for _, _, process in self.lines()}


class Worker(Running):
    """A Celery worker or the dispatcher. `err` has its whole output."""

    def finish(self, complaint: str | None = None) -> None:
        """End the process. It must end well, without a warning, and with no traceback unless `complaint` is in its log."""
        assert self.end() == 0, self.err
        assert complaint is None or complaint in self.err
        unwanted = ("Warning", "never closed", *(["Traceback"] if complaint is None else []))
        assert not [word for word in unwanted if word in self.err], self.err


def send(provider: ServiceBusProvider, session_id: str, texts: Iterable[str], queue: str = QUEUE) -> None:
    """Send messages of a session."""
    provider.send_messages(queue, [Message(text, session_id=session_id) for text in texts])


def left(provider: ServiceBusProvider, queue: str = QUEUE) -> int:
    """Return the number of messages that are not completed."""
    return sum(session.message_count or 0 for session in provider.list_sessions(queue))


def is_free(provider: ServiceBusProvider, queue: str = QUEUE) -> bool:
    """Tell whether no message is left and no session is locked."""
    return all(session.locked_until is None and session.message_count == 0 for session in provider.list_sessions(queue))
