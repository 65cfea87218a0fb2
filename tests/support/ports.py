"""Ports for servers that a test starts on a port which it knows before."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The lowest port, and the file with the lowest one that Linux itself chooses: for connections, and for the port 0.
_LOWEST, _RANGE = 10_000, Path("/proc/sys/net/ipv4/ip_local_port_range")
#: The processes that run tests at the same time choose different ports.
_PROCESSES = 16


def _ports() -> Iterator[int]:
    process = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _PROCESSES
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    mine = list(range(_LOWEST // _PROCESSES * _PROCESSES + _PROCESSES + process, end, _PROCESSES))
    while True:
        # pytest-randomly gives the usual generator the same seed in all processes.
        random.SystemRandom().shuffle(mine)
        yield from mine


_next_ports = _ports()


def free_port() -> int:
    """Return a port of loopback that is free, and that nobody takes before the caller's server does.

    A port that the system has chosen for the port 0 can be taken by any connection of any process until then.
    """
    for port in _next_ports:
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there are always further ports")
