"""Runs a long-lived process, such as a worker or a web server, with its output in files."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from ..conftest import eventually
from ..support.processes import PATIENCE


class Running:
    """A process that runs until a test ends it.

    Args:
        arguments: The command.
        environ: The process's environment.
        folder: Where the output is kept.
        cwd: The process's current directory.
        merge: Write stderr to the same file as stdout.

    Attributes:
        process: The process.
        family: All child processes that were seen.
    """

    def __init__(
        self, arguments: list[str], environ: dict[str, str], folder: Path, *, cwd: Path, merge: bool = False
    ) -> None:
        count = len(list(folder.iterdir()))
        self._out = folder / f"out-{count}"
        self._err = self._out if merge else folder / f"err-{count}"
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self.process = subprocess.Popen(arguments, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.family: set[psutil.Process] = set()

    @property
    def out(self) -> str:
        """Its stdout."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Its stderr, where logs go."""
        return self._err.read_text(encoding="utf-8")

    def see(self) -> set[psutil.Process]:
        """Return its child processes, and remember them."""
        children = set(psutil.Process(self.process.pid).children(recursive=True))
        self.family |= children
        return children

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until stderr has `pattern`, and return the match. Fails if the process ends before."""
        self._wait_for(lambda: re.search(pattern, self.err))
        match = re.search(pattern, self.err)
        assert match is not None, self.err
        return match

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. Fails if the process ends before."""
        self._wait_for(condition)
        assert self.process.poll() is None, self.err

    def _wait_for(self, condition: Callable[[], object]) -> None:
        eventually(lambda: condition() or self.process.poll() is not None, lambda: self.err, seconds=PATIENCE)

    def send(self, number: int) -> None:
        """Send the process a signal, and remember its children."""
        self.see()
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal if the process still runs; return its exit status, as `wait` does."""
        if self.process.poll() is None:
            self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Return its exit status, once the process and all its children have ended."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # Python's fault handler prints the stack of each thread.
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"the process does not end: {self.err}") from None
        _, left = psutil.wait_procs(self.family, timeout=PATIENCE)
        assert not left
        return status

    def kill(self) -> None:
        """Kill the process and all its children."""
        if self.process.poll() is None:
            self.see()
            self.process.kill()
        for each in self.family:
            if each.is_running():
                each.kill()
        self.process.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
