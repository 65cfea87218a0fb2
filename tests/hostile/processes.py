"""Real processes of a gateway and of clients, each with a wall clock that a test can set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azsession import ServiceBusProvider, SessionLockedError

from ..conftest import eventually
from ..torture import clockshim

KEY = "c3RlcHBlZC1rZXk="
QUEUE = "webhooks"
#: Seconds after which a process counts as hanging.
PATIENCE = 60


class Process:
    """A process that reads and writes lines. A test can set its wall clock if `offset_file` is given."""

    def __init__(self, offset_file: Path | None, module: str, *arguments: str) -> None:
        self.offset_file = offset_file
        self._popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **({} if offset_file is None else clockshim.environment(offset_file))},
        )
        self.pid = self._popen.pid

    def step(self, seconds: float) -> None:
        """Set the wall clock of the process ahead by so many seconds."""
        assert self.offset_file is not None
        clockshim.set_offset(self.offset_file, seconds)

    def write(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def read(self) -> str:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, f"the process ended: {self._popen.wait(PATIENCE)}"
        return line.rstrip("\n")

    def stop(self) -> None:
        """Stop the whole process until `go_on`."""
        self._popen.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def go_on(self) -> None:
        """Continue the process if it is stopped."""
        self._popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._popen.communicate(timeout=PATIENCE)


class ClientProcess(Process):
    """A client that obeys commands, see `client_process`."""

    def tell(self, command: str, *arguments: object) -> None:
        self.write(json.dumps([command, *arguments]))

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.read())
        return answer

    def ask(self, command: str, *arguments: object) -> Any:
        """Return the result of a command."""
        self.tell(command, *arguments)
        answer = self.answer()
        assert "error" not in answer, answer
        return answer["result"]

    def fail(self, command: str, *arguments: object) -> dict[str, Any]:
        """Return the error of a command."""
        self.tell(command, *arguments)
        answer = self.answer()
        assert "error" in answer, answer
        return answer


@contextmanager
def gateway_process(folder: Path, *, lock_duration: float, steps: bool = True) -> Iterator[tuple[Process, str]]:
    """Start a gateway with a data file in a folder; give it and its connection string."""
    offset_file = folder / "gateway-clock" if steps else None
    arguments = (str(folder / "data.db"), "0", KEY, str(lock_duration))
    process = Process(offset_file, "tests.server.gateway_process", *arguments)
    try:
        yield process, process.read()
    finally:
        process.end()


@contextmanager
def client_process(
    connection_string: str, session_id: str, offset_file: Path | None = None, queue: str = QUEUE
) -> Iterator[ClientProcess]:
    """Start a client of one session."""
    process = ClientProcess(offset_file, "tests.hostile.client_process", queue, session_id)
    try:
        process.write(connection_string)
        assert process.read() == "ready"
        yield process
    finally:
        process.go_on()
        process.end()


def take_over(provider: ServiceBusProvider, session_id: str, queue: str = QUEUE) -> list[str]:
    """Take a session when its lock has expired, complete all its messages, and return their bodies."""
    done: list[str] = []
    with provider.create_session_client(queue, session_id, auto_renew=False) as session:

        def taken() -> bool:
            try:
                found = session.receive_message(timeout=0)
            except SessionLockedError:
                return False
            assert found is not None
            session.complete_message(found)
            done.append(found.text())
            return True

        eventually(taken, "the session's lock does not end")
        for message in session.messages(timeout=0):
            session.complete_message(message)
            done.append(message.text())
    return done
