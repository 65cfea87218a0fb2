"""Runs `azsession` as users do: a process of its own, with pipes for its streams."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from azsession.cli import group

COMMAND = [sys.executable, "-m", "azsession"]
#: Seconds after which a process is taken to hang.
PATIENCE = 60

#: Leaves out what Python says from 3.12 on of every fork of a process with threads: that it may go wrong.
FORKS_IGNORED = "ignore:This process:DeprecationWarning"


def environment(connection_string: str | None = None, **more: str) -> dict[str, str]:
    """Return this process's environment without what would change how the command behaves."""
    ours = ("SERVICEBUS_", "AZSESSION_", "FORCE_COLOR", "NO_COLOR", "TTY_", "COLUMNS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept |= {"COLUMNS": "120", **more}
    if connection_string is not None:
        kept["SERVICEBUS_CONNECTION_STRING"] = connection_string
    return kept


def run(
    *arguments: str | Path, connection_string: str | None = None, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return its status and what it printed."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(connection_string, **more),
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def run_here(
    *arguments: str | Path, connection_string: str | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command as `run` does, but in this process, which is faster: for what a process of its own does not matter to."""
    names = ("stdin", "stdout", "stderr")
    streams = [io.TextIOWrapper(io.BytesIO(data), encoding="utf-8") for data in (stdin, b"", b"")]
    kept = [getattr(sys, name) for name in names], dict(os.environ)
    try:
        for name, stream in zip(names, streams, strict=True):
            setattr(sys, name, stream)
        os.environ.clear()
        os.environ.update(environment(connection_string))
        status = group.run([str(argument) for argument in arguments])
    finally:
        for name, stream in zip(names, kept[0], strict=True):
            setattr(sys, name, stream)
        os.environ.clear()
        os.environ.update(kept[1])
    for stream in streams[1:]:
        stream.flush()
        stream.seek(0)
    return subprocess.CompletedProcess(list(arguments), status, streams[1].read(), streams[2].read())


def start(
    *arguments: str | Path, connection_string: str | None = None, env: dict[str, str] | None = None, **popen: Any
) -> subprocess.Popen[str]:
    """Start a command, with `env` in its environment besides the usual; the caller ends it."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    environ = environment(connection_string, **(env or {}))
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, env=environ, **streams)


class Served:
    """`azsession serve` on a free port, until the end of the with block.

    Attributes:
        line: The first line that it printed: by default the connection string.
    """

    def __init__(self, *arguments: str | Path, **popen: Any) -> None:
        self.process = start("serve", "--port", "0", *arguments, **popen)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().rstrip("\n")
        self.ended: tuple[int, str, str] | None = None
        if not self.line:
            raise AssertionError(f"serve did not start: {self.end()}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Ask it to end; return its status, and what else it printed to stdout and stderr."""
        if self.ended is None:
            self.process.send_signal(number)
            self.ended = self.wait()
        return self.ended

    def wait(self) -> tuple[int, str, str]:
        """Wait for its end; return its status, and what else it printed to stdout and stderr."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        self.ended = (self.process.returncode, out, err)
        return self.ended

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def assert_one_line(ended: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """Check that a command failed as it should: this status, one line on stderr that has these words, no traceback."""
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith("azsession: ")
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr
