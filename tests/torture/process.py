"""Starts, pauses, kills and ends the processes of a torture run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from ..support.paths import ROOT

#: Seconds that a process gets to end. After them, it counts as hanging.
PATIENCE = 60.0


class Process:
    """A Python process. It ends at the end of its standard input, or at SIGTERM."""

    def __init__(self, command: list[str], name: str, log: IO[bytes], environment: Mapping[str, str]) -> None:
        self.name = name
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
        )

    def send_json(self, **values: Any) -> None:
        """Write a line of JSON to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(values).encode() + b"\n")
        self.popen.stdin.flush()

    def first_line(self) -> bytes:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._close_pipes()

    def pause(self) -> None:
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def end(self, *, by_signal: bool = False) -> int:
        """End the process, wait for it and return its exit status."""
        if by_signal:
            self.popen.terminate()
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.close()
        try:
            return self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # SIGABRT makes a process with faulthandler write its stacks to the log.
            self.popen.send_signal(signal.SIGABRT)
            self.popen.wait()
            raise
        finally:
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
