"""Runs Celery workers and the dispatcher as processes of their own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import psutil

from azsession import Message, ServiceBusProvider
from azsession.testing import AzsessionServer

from ...conftest import eventually, whole_lines
from ...support.paths import ROOT
from ...support.processes import FORKS_IGNORED, PATIENCE, environment

APP = "tests.contrib.celery.work"
QUEUE = "orders"
#: How a warning begins that Kombu's transport makes SQLAlchemy give.
KOMBUS = "The ``noload`` loader strategy"
#: Warnings that processes show: all but those, what Celery says to root, and what Python says of forks, and from 3.13 on of
#: connections that Kombu leaves to the process's end.
WARNINGS = f"default,ignore:{KOMBUS},ignore:You're running the worker with superuser,{FORKS_IGNORED},ignore:unclosed database"

_MAKE_QUEUE = f"""
from {APP} import app
with app.connection_for_write() as connection:
    app.amqp.queues["celery"](connection.default_channel).declare()
"""


class Place:
    """A folder that has the app's broker, and what its tasks note."""

    def __init__(self, folder: Path, server: AzsessionServer) -> None:
        self.folder = folder
        self._environment = environment(
            server.connection_string,
            WORK_PLACE=str(folder),
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS=WARNINGS,
            PYTHONDONTWRITEBYTECODE="1",
        )
        # Two processes that make Kombu's tables and queue at the same time are in each other's way.
        subprocess.run([sys.executable, "-c", _MAKE_QUEUE], env=self._environment, cwd=folder, timeout=PATIENCE, check=True)

    def worker(self, *options: str) -> Running:
        """Start a worker."""
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")
        return self._start("celery", "-A", APP, "worker", *quiet, *options)

    def dispatcher(self, *options: str) -> Running:
        """Start the dispatcher."""
        return self._start("azsession", "celery-dispatch", "-A", APP, "--interval", "0.1", *options)

    def _start(self, module: str, *arguments: str) -> Running:
        return Running([sys.executable, "-m", module, *arguments], self._environment, self.folder)

    def go(self) -> None:
        """Let those go on that wait."""
        (self.folder / "go").touch()

    def waiting(self) -> int:
        """Return the process in which a message waits, once one does."""
        path = self.folder / "waiting"
        eventually(lambda: path.exists() and path.read_text(), seconds=PATIENCE)
        return int(path.read_text())

    def lines(self) -> list[list[str]]:
        """Return what was done: session, text and process."""
        return [line.split("\t") for line in whole_lines(self.folder / "done")]

    def done(self) -> dict[str, list[str]]:
        """Return what was done in each session, in its order."""
        by_session: dict[str, list[str]] = defaultdict(list)
        for session_id, text, _ in self.lines():
            by_session[session_id].append(text)
        return dict(by_session)

    def done_by(self) -> set[int]:
        """Return the processes that did something."""
        return {int(process) for _, _, process in self.lines()}


class Running:
    """A process that runs until it is told to end, with its log in a file.

    Attributes:
        process: The process.
        family: All processes of it that were seen.
    """

    def __init__(self, arguments: list[str], environ: dict[str, str], folder: Path) -> None:
        self._log = folder / f"log-{len(list(folder.iterdir()))}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.family: set[psutil.Process] = set()

    @property
    def log(self) -> str:
        """What it logged or printed."""
        return self._log.read_text(encoding="utf-8")

    def says(self, pattern: str) -> None:
        """Wait until its log has `pattern`."""
        eventually(
            lambda: re.search(pattern, self.log) or self.process.poll() is not None, lambda: self.log, seconds=PATIENCE
        )
        assert re.search(pattern, self.log), self.log

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; its log is why it does not."""
        eventually(lambda: condition() or self.process.poll() is not None, lambda: self.log, seconds=PATIENCE)
        assert self.process.poll() is None, self.log

    def see(self) -> set[psutil.Process]:
        """Return its children, and remember them."""
        children = set(psutil.Process(self.process.pid).children(recursive=True))
        self.family |= children
        return children

    def tell_to_end(self) -> None:
        """Send SIGTERM."""
        self.see()
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        for process in self.see():
            process.kill()
        self.process.kill()
        self.process.wait()

    def end(self, complaint: str | None = None) -> None:
        """Tell it to end; it does so well, and no process that it started is left. `complaint` may be in its log."""
        if self.process.poll() is None:
            self.tell_to_end()
        assert self.process.wait(PATIENCE) == 0, self.log
        _, left = psutil.wait_procs(self.family, timeout=PATIENCE)
        assert not left
        assert complaint is None or complaint in self.log
        unwanted = ("Warning", "never closed", *(["Traceback"] if complaint is None else []))
        assert not [word for word in unwanted if word in self.log], self.log

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.see()
            self.process.kill()
        for each in self.family:
            if each.is_running():
                each.kill()
        self.process.wait()


def send(provider: ServiceBusProvider, session_id: str, texts: Iterable[str], queue: str = QUEUE) -> None:
    """Send messages of a session."""
    provider.send_messages(queue, [Message(text, session_id=session_id) for text in texts])


def left(provider: ServiceBusProvider, queue: str = QUEUE) -> int:
    """Return how many messages are not done."""
    return sum(session.message_count or 0 for session in provider.list_sessions(queue))


def is_free(provider: ServiceBusProvider, queue: str = QUEUE) -> bool:
    """Tell whether nothing is left, and no session held."""
    return all(session.locked_until is None and session.message_count == 0 for session in provider.list_sessions(queue))
