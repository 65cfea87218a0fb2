"""Opens a burst of connections to `azsession serve` while orders are sent and consumed, and checks that nothing is lost.

``python -m tests.load.burst --connections 10000`` opens the connections as fast as possible, from several
processes. A third of the connections stays silent, a third starts a request and never ends it, a third makes a request. The
exit status is 1 if an order was lost, repeated or out of order, or if threads or files did not return to their number before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from azsession import Message, ServiceBusProvider
from azsession.errors import QueueError

from .ledger import Ledger

QUEUE = "orders"
SESSIONS = 8
#: Seconds that a process of the burst waits for answers and holds its connections.
HOLD = 3.0


def burst(url: str, count: int, hold: float = HOLD, opened: Callable[[], object] = lambda: None) -> Counter[str]:
    """Open `count` connections, call `opened`, and hold them. Return their outcomes."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 0))
    asked = f"GET /healthz HTTP/1.1\r\nHost: {address[0]}\r\n"
    sayings = [b"", asked.encode(), f"{asked}\r\n".encode()]
    outcomes: Counter[str] = Counter()
    selector = selectors.DefaultSelector()
    socks: list[socket.socket] = []
    for number in range(count):
        said = sayings[number % 3]
        try:
            sock = socket.create_connection(address, timeout=30)
            socks.append(sock)
            sock.sendall(said)
        except OSError as error:
            outcomes[f"not connected: {type(error).__name__}"] += 1
            continue
        outcomes["connected"] += 1
        if said.endswith(b"\r\n\r\n"):
            outcomes["asked"] += 1
        selector.register(sock, selectors.EVENT_READ)
    opened()
    until = time.monotonic() + hold
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            assert isinstance(key.fileobj, socket.socket)
            try:
                answer = key.fileobj.recv(4096)
            except OSError:
                answer = b""
            outcomes[f"answered {answer[9:12].decode()}" if answer else "closed"] += 1
            selector.unregister(key.fileobj)
    for sock in socks:
        sock.close()
    return outcomes


def _burst_in_process(url: str, count: int, all_opened: Any, results: Any) -> None:
    allow_open_files()
    results.put(burst(url, count, HOLD, lambda: all_opened.wait(300)))


def allow_open_files() -> None:
    """Raise the file limit of this process to the hard limit."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Orders:
    """Sends and consumes orders all the time, and checks that each is received once and in order."""

    def __init__(self, connection_string: str) -> None:
        self.ledger = Ledger()
        self._provider = ServiceBusProvider.from_connection_string(connection_string, retry_attempts=20, retry_deadline=60)
        self._no_more, self._ended = threading.Event(), threading.Event()
        self._threads = [self._begin(self._send)]
        self._threads += [self._begin(lambda n=number: self._consume(f"s-{n}")) for number in range(SESSIONS)]  # type: ignore[misc]

    def _begin(self, job: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                job()
            except BaseException as error:
                self.ledger.complain(f"a thread failed: {error!r}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _send(self) -> None:
        while not self._no_more.wait(0.02):
            number = self.ledger.new("order")
            try:
                self._provider.send_message(QUEUE, Message(json.dumps(number), session_id=f"s-{number % SESSIONS}"))
            except QueueError as error:
                self.ledger.not_sent(number)
                self.ledger.complain(f"a send failed: {error!r}")

    def _consume(self, session_id: str) -> None:
        with self._provider.create_session_client(QUEUE, session_id) as session:
            while not self._ended.is_set():
                message = session.receive_message(timeout=1)
                if message is not None:
                    number = json.loads(message.body)
                    if message.delivery_count != 1:
                        self.ledger.complain(f"order {number} came again")
                    session.complete_message(message)
                    self.ledger.in_order(session_id, message.sequence_number, number)
                    self.ledger.done(number)

    def end(self, patience: float = 60.0) -> list[str]:
        """Stop sending, wait for the rest to arrive, and return all errors."""
        self._no_more.set()
        until = time.monotonic() + patience
        while self.ledger.under_way and time.monotonic() < until:
            time.sleep(0.05)
        lost = [f"order {number} was lost" for number in self.ledger.under_way]
        self._ended.set()
        for thread in self._threads:
            thread.join(30)
        self._provider.close()
        return lost + self.ledger.wrong


class Watch:
    """The peak of a process's threads and files, sampled ten times a second until `end`."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.before = self.now()
        self.most = list(self.before)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self) -> tuple[int, int]:
        """Return the numbers of threads and files."""
        return self._process.num_threads(), self._process.num_fds()

    def is_back(self) -> bool:
        """Return whether there are no more threads and files than before."""
        return all(now <= before for now, before in zip(self.now(), self.before, strict=True))

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.most = [max(pair) for pair in zip(self.most, self.now(), strict=True)]

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def run(connections: int, processes: int, rounds: int) -> int:
    """Run the burst, and return the exit status."""
    allow_open_files()
    with tempfile.TemporaryDirectory(prefix="azsession-burst-") as folder:
        data = Path(folder) / "data.db"
        command = [sys.executable, "-m", "azsession", "serve", "--port", "0", "--data", str(data), "--queue", QUEUE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                line = process.stdout.readline().strip()
                status = _against(line, psutil.Process(process.pid), connections, processes, rounds)
            finally:
                process.terminate()
                said = process.stderr.read()
    if "Traceback" in said:
        print(f"the gateway wrote: {said[-3000:]}")
        return 1
    return status


def _against(connection_string: str, process: psutil.Process, connections: int, processes: int, rounds: int) -> int:
    url = connection_string.split(";")[0].partition("=")[2].rstrip("/")
    orders = Orders(connection_string)
    time.sleep(2.0)
    watch = Watch(process)
    print(f"$ python -m tests.load.burst {' '.join(sys.argv[1:])}".rstrip())
    for _ in range(rounds):
        started = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        results, all_opened = spawn.Queue(), spawn.Barrier(processes)
        share = connections // processes
        told = (url, share, all_opened, results)
        workers = [spawn.Process(target=_burst_in_process, args=told) for _ in range(processes)]
        for worker in workers:
            worker.start()
        outcomes: Counter[str] = sum((results.get(timeout=300) for _ in workers), Counter())
        for worker in workers:
            worker.join()
        print(f"{share * processes} connections in {time.monotonic() - started:.1f} s: {dict(outcomes)}")
    wrong = orders.end()
    until = time.monotonic() + 60
    while not watch.is_back() and time.monotonic() < until:
        time.sleep(0.2)
    watch.end()
    now, back = watch.now(), watch.is_back()
    sent, settled = orders.ledger.counts["sent"], orders.ledger.counts["settled for good"]
    print(f"orders sent meanwhile {sent}, received once {settled}, wrong {len(wrong)}")
    for what in wrong[:10]:
        print(f"  {what}")
    for name, before, most, after in zip(("threads", "files"), watch.before, watch.most, now, strict=True):
        print(f"{name}: {before} before, {most} at most, {after} after")
    with ServiceBusProvider.from_connection_string(connection_string) as provider:
        serves = [queue.name for queue in provider.list_queues()] == [QUEUE]
    return 0 if back and serves and not wrong else 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load.burst", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000, help="connections at once (default 10000)")
    parser.add_argument("--processes", type=int, default=4, help="processes that open them (default 4)")
    parser.add_argument("--rounds", type=int, default=1, help="bursts one after another (default 1)")
    given = parser.parse_args()
    sys.exit(run(given.connections, given.processes, given.rounds))


if __name__ == "__main__":
    main()
