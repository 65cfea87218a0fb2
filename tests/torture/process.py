"""A process of a scene: started, told things, paused, killed, ended."""

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

#: Seconds after which a process that should end is taken to hang.
PATIENCE = 60.0


class Process:
    """A process of the scene, told to end by the end of its input, or by SIGTERM."""

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

    def tell(self, **told: Any) -> None:
        """Write a line of JSON to its input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(told).encode() + b"\n")
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

    def go_on(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def end(self, *, by_signal: bool = False) -> int:
        """Ask it to end, and wait for that; return its status."""
        if by_signal:
            self.popen.terminate()
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.close()
        try:
            return self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # A dump of its threads, where it has one, goes to the log.
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
