"""Runs the `azsession` command as a process with pipes, or in this process."""

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

from .paths import ROOT

COMMAND = [sys.executable, "-m", "azsession"]
#: Seconds that a process gets to end. After them, it counts as hanging.
PATIENCE = 60

#: Ignores the warning of Python 3.12 and later about a fork in a process with threads.
FORKS_IGNORED = "ignore:This process:DeprecationWarning"


def environment(connection_string: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment of this process without variables that change the behaviour of the command."""
    ours = ("SERVICEBUS_", "AZSESSION_", "FORCE_COLOR", "NO_COLOR", "TTY_", "COLUMNS", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept |= {"COLUMNS": "120", **more}
    if connection_string is not None:
        kept["SERVICEBUS_CONNECTION_STRING"] = connection_string
    return kept


def run(
    *arguments: str | Path, connection_string: str | None = None, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Return its exit status and its output."""
    ended = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(connection_string, **more),
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def run_python(
    *arguments: str | Path, environ: dict[str, str], cwd: Path = ROOT, is_quiet: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, by default in the repository's root.

    Args:
        arguments: Python's arguments.
        environ: The whole environment, for example from `environment`.
        cwd: The current directory.
        is_quiet: Check that it ends with status 0 and writes nothing to stderr.
    """
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environ,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if is_quiet:
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    return ended


def run_here(
    *arguments: str | Path, connection_string: str | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command like `run`, but in this process, which is faster."""
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
    """Start a command, with the additional variables of `env`. The caller ends it."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    environ = environment(connection_string, **(env or {}))
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, env=environ, **streams)


class Served:
    """`azsession serve` on a free port, until the end of the ``with`` block.

    Attributes:
        line: The first line of its output, which is the connection string by default.
    """

    def __init__(self, *arguments: str | Path, **popen: Any) -> None:
        self.process = start("serve", "--port", "0", *arguments, **popen)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().rstrip("\n")
        self.ended: tuple[int, str, str] | None = None
        if not self.line:
            raise AssertionError(f"serve did not start: {self.end()}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal and wait for the end. Return the exit status and the rest of stdout and of stderr."""
        if self.ended is None:
            self.process.send_signal(number)
            self.ended = self.wait()
        return self.ended

    def wait(self) -> tuple[int, str, str]:
        """Wait for the end. Return the exit status and the rest of stdout and of stderr."""
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
    """Check that a command failed with this exit status and one line on stderr that contains `words`."""
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.startswith("azsession: ")
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr
