"""Shared code of the benchmarks: a gateway in its own process, medians of interleaved rounds, and the output."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import psutil

from azsession import Message, ServiceBusProvider

#: The program of the gateway's process. It serves until its standard input ends, and answers each line with its commits.
_GATEWAY = """
import sys
from azsession import QueueSettings
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService

path, lock_duration = sys.argv[1], float(sys.argv[2])
broker = EmbeddedBroker(path or None)
if "bench" not in {queue.name for queue in broker.list_queues().result()}:
    broker.create_queue("bench", QueueSettings(lock_duration=lock_duration)).result()
with GatewayService(broker, [AccessKey.generate()]) as service:
    print(service.connection_string(), flush=True)
    for _ in sys.stdin:
        print(broker.durable_commits, flush=True)
"""

#: The queue of every benchmark.
QUEUE = "bench"


def processor_time(process: psutil.Process) -> float:
    """Return the processor time that a process has used, in seconds."""
    if sys.platform == "linux":
        # The clock that clock_getcpuclockid(3) returns. It counts nanoseconds, the times in /proc count 10 milliseconds.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


@attrs.frozen
class Gateway:
    """A gateway with the embedded broker in its own process."""

    connection_string: str
    process: psutil.Process
    _pipes: subprocess.Popen[str]

    @property
    def url(self) -> str:
        """The base URL of the routes."""
        return self.connection_string.split(";")[0].partition("=")[2].rstrip("/")

    def provider(self) -> ServiceBusProvider:
        """Return a new provider. The caller closes it."""
        return ServiceBusProvider.from_connection_string(self.connection_string)

    def cpu(self) -> float:
        """Return the processor time of the process, in seconds."""
        return processor_time(self.process)

    def commits(self) -> int:
        """Return how often the gateway has put changes on its disk."""
        assert self._pipes.stdin is not None
        assert self._pipes.stdout is not None
        print(file=self._pipes.stdin, flush=True)
        return int(self._pipes.stdout.readline())

    def peak_memory(self) -> int:
        """Return the peak memory of the process in bytes, or its present memory if the system is not Linux."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return int(self.process.memory_info().rss)
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@contextmanager
def gateway(path: Path | str = "", *, lock_duration: float = 300.0) -> Iterator[Gateway]:
    """Serve a data file from another process until the ``with`` block ends. An empty `path` keeps messages in memory."""
    command = [sys.executable, "-c", _GATEWAY, str(path), str(lock_duration)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit("the gateway did not start")
        try:
            yield Gateway(line, psutil.Process(process.pid), process)
        finally:
            process.stdin.close()


@contextmanager
def data_file() -> Iterator[Path]:
    """Give the path of a new data file in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="azsession-bench-") as folder:
        yield Path(folder) / "data.db"


def fill(provider: ServiceBusProvider, session_id: str, count: int, size: int = 256) -> None:
    """Send `count` messages of `size` bytes into a session."""
    body = b"x" * size
    for start in range(0, count, 1000):
        provider.send_messages(QUEUE, [Message(body, session_id=session_id) for _ in range(min(1000, count - start))])


def interleaved(rounds: int, **measures: Callable[[], float]) -> dict[str, float]:
    """Take each measure `rounds` times in turn, and return their medians. Disturbances affect all measures alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        # Each measure is the first one equally often.
        for name in sorted(measures, key=list(measures).index, reverse=bool(number % 2)):
            gc.collect()
            found[name].append(measures[name]())
    return {name: statistics.median(values) for name, values in found.items()}


def arguments(name: str, what: str, **options: int | tuple[str, ...]) -> argparse.Namespace:
    """Parse the command line: one option for each of `options`.

    Args:
        name: The name of the benchmark.
        what: What it measures.
        **options: The default of an option with a whole number, or the choices of an option. The first choice is the default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=what)
    for option, default in options.items():
        flag = f"--{option.replace('_', '-')}"
        if isinstance(default, tuple):
            parser.add_argument(flag, choices=default, default=default[0], help=f"default {default[0]}")
        else:
            parser.add_argument(flag, type=int, default=default, help=f"default {default}")
    return parser.parse_args()


@attrs.frozen
class Figure:
    """One result: the work, the figures of the peer and of azsession, their ratio, and the target."""

    work: str
    peer: str
    ours: str
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def show(name: str, figures: Sequence[Figure]) -> None:
    """Print the command, the machine and the figures."""
    print(f"$ python -m benchmarks.{name} {' '.join(sys.argv[1:])}".rstrip())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}")
    for figure in figures:
        print(f"\n{figure.work}")
        if figure.peer:
            print(f"  peer    {figure.peer}")
        print(f"  ours    {figure.ours}")
        if figure.ratio is not None:
            print(f"  ratio   {figure.ratio:.3g}")
        if figure.target:
            met = "" if figure.met is None else ": met" if figure.met else ": MISSED"
            print(f"  target  {figure.target}{met}")
