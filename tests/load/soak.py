"""A soak: mixed work in many sessions for minutes or hours, with a check that nothing is lost and nothing keeps growing.

``python -m tests.load.soak --minutes N`` serves a gateway in a process of its own, works against it, and prints the
figures of both processes and of the data file. The exit status is 1 if a message was lost or misordered, or a figure is not
flat.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from azsession import Message, ServiceBusProvider

from .figures import HEADER, MB, figures_of, lines_of, sizes_of
from .ledger import Ledger
from .work import Work

#: Seconds to wait at the end for messages in flight. The broker delivers a dropped message again after its lock expires.
PATIENCE = 120
#: Bytes of each message in the peak that the run starts with.
PEAK_SIZE = 4096


@contextmanager
def served(data: Path, period: float) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a data file, and yield the connection string and the process."""
    command = [sys.executable, "-m", "tests.load.served", str(period), "--data", str(data), "--port", "0", "--auto-create"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line:
                raise SystemExit("the gateway did not start")
            yield line, psutil.Process(process.pid)
        finally:
            process.terminate()


def make_peak(connection_string: str, data: Path, count: int) -> float:
    """Send many messages, receive them again, and return the largest size of the file."""
    with ServiceBusProvider.from_connection_string(connection_string) as provider:
        for start in range(0, count, 1000):
            batch = [Message(b"x" * PEAK_SIZE, session_id="peak") for _ in range(min(1000, count - start))]
            provider.send_messages("peak", batch)
        top = sizes_of(data)["file size"] + sizes_of(data)["file WAL"]
        with provider.create_session_client("peak", "peak") as session:
            while received := session.receive_messages(1000, timeout=0):
                session.complete_messages(received)
        provider.delete_queue("peak")
    return top


def run(minutes: float, sessions: int, waits: int, rate: float, period: float, peak: int) -> int:
    """Run the soak, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="azsession-soak-") as folder:
        data = Path(folder) / "data.db"
        with served(data, period) as (connection_string, process):
            top = make_peak(connection_string, data, peak) if peak else 0.0
            ledger = Ledger()
            work = Work(connection_string, ledger, sessions=sessions, rate=rate, waits=waits)
            work.start()
            samples = _sample(process, data, minutes * 60, ledger)
            work.stop_sending()
            until = time.monotonic() + PATIENCE
            while ledger.under_way and time.monotonic() < until:
                time.sleep(0.2)
            lost = ledger.under_way
            work.stop()
        alone = sizes_of(data)["file size"]
    return _report(samples, ledger, lost, top, alone)


def _sample(process: psutil.Process, data: Path, seconds: float, ledger: Ledger) -> list[dict[str, float]]:
    here = psutil.Process()
    samples = []
    pause = max(0.5, min(10.0, seconds / 90))
    end = time.monotonic() + seconds
    told = time.monotonic()
    while time.monotonic() < end:
        time.sleep(pause)
        samples.append({**figures_of("gateway", process), **figures_of("client", here), **sizes_of(data)})
        if time.monotonic() > told + 60:
            told = time.monotonic()
            rss = {name: f"{value / MB:.0f} MB" for name, value in samples[-1].items() if name.endswith("RSS")}
            print(f"{end - told:.0f} s left, {ledger.counts['settled for good']} settled, {rss}", file=sys.stderr, flush=True)
    return samples


def _report(samples: Sequence[dict[str, float]], ledger: Ledger, lost: dict[int, str], top: float, alone: float) -> int:
    print(f"$ python -m tests.load.soak {' '.join(sys.argv[1:])}".rstrip())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}\n")
    lines = lines_of(samples)
    print("\n".join([HEADER, *map(str, lines)]))
    if top:
        print(f"\nfile at its peak, before: {top / MB:.1f} MB; after the end: {alone / MB:.1f} MB")
    print()
    for what, count in sorted(ledger.counts.items()):
        print(f"{what}: {count}")
    print(f"lost: {len(lost)} {sorted(lost.items())[:10] if lost else ''}".rstrip())
    print(f"wrong: {len(ledger.wrong)}")
    for what in ledger.wrong[:10]:
        print(f"  {what}")
    growing = [line.name for line in lines if not line.flat]
    if growing:
        print(f"not flat: {', '.join(growing)}")
    return 1 if lost or ledger.wrong or growing else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--sessions", type=int, default=1000, help="sessions (default 1000)")
    parser.add_argument("--waits", type=int, default=500, help="of them, with a receive that waits (default 500)")
    parser.add_argument("--rate", type=float, default=30.0, help="messages sent a second (default 30)")
    parser.add_argument(
        "--period", type=float, default=30.0, help="seconds for which settlements are remembered (default 30)"
    )
    parser.add_argument("--peak", type=int, default=20_000, help="messages of 4 KB that the file takes first (default 20000)")
    given = parser.parse_args()
    sys.exit(run(given.minutes, given.sessions, given.waits, given.rate, given.period, given.peak))


if __name__ == "__main__":
    main()
