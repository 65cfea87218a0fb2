"""The time from the answer to a send until a waiting receive returns, alone and with hundreds of other waiting receives.

The gateway, the other receivers and the measured clients are three processes. The measured process has one thread that
receives and one that sends. The floor is the same with a minimal HTTP server: one request waits for a semaphore, and another
one releases it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from azsession import Message, ServiceBusProvider

from .common import QUEUE, Figure, Gateway, arguments, gateway, interleaved, show

_WAITERS = """
import sys, threading, time
from azsession import ServiceBusProvider
provider = ServiceBusProvider.from_connection_string(sys.argv[1], pool_connections=2048)
def wait(number):
    with provider.create_session_client("bench", f"waiting-{number}", auto_renew=False) as session:
        session.receive_message(3600)
for number in range(int(sys.argv[2])):
    threading.Thread(target=wait, args=(number,), daemon=True).start()
sys.stdin.readline()
import os
os._exit(0)
"""


class _Bare(BaseHTTPRequestHandler):
    """The minimal server: a GET waits for a POST."""

    protocol_version = "HTTP/1.1"
    wanted = threading.Semaphore(0)
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.wanted.acquire()
        self._answer()

    def do_POST(self) -> None:
        self.wanted.release()
        self._answer()

    def _answer(self) -> None:
        self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def _serve_bare() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bare)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


class HandOver:
    """Measures the time from the answer to a send until the wait of another thread ends.

    Args:
        wait: Waits. Returns a function to call after the time was taken, for example to settle the message.
        send: Ends the wait. Returns when the server has answered.
    """

    def __init__(self, wait: Callable[[], Callable[[], object]], send: Callable[[], object]) -> None:
        self._wait, self._send = wait, send
        self._go = threading.Semaphore(0)
        self._returned = threading.Semaphore(0)
        self._at = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            settle = self._wait()
            self._at = time.perf_counter()
            settle()
            self._returned.release()

    def once(self) -> float:
        """Return the seconds of one hand-over. They are negative if the receive returned before the send."""
        self._go.release()
        time.sleep(0.02)
        self._send()
        answered = time.perf_counter()
        self._returned.acquire()
        return self._at - answered


def _ours(provider: ServiceBusProvider, name: str) -> HandOver:
    session = provider.create_session_client(QUEUE, name)

    def wait() -> Callable[[], object]:
        message = session.receive_message(60)
        assert message is not None
        return lambda: session.complete_message(message)

    return HandOver(wait, lambda: provider.send_message(QUEUE, Message(b"x" * 256, session_id=name)))


def _bare(url: str) -> HandOver:
    getter, poster = requests.Session(), requests.Session()

    def wait() -> Callable[[], object]:
        getter.get(url)
        return lambda: None

    return HandOver(wait, lambda: poster.post(url))


def _start_waiters(server: Gateway, count: int) -> subprocess.Popen[str]:
    before = len(server.process.net_connections("tcp"))
    command = [sys.executable, "-c", _WAITERS, server.connection_string, str(count)]
    waiters = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    while len(server.process.net_connections("tcp")) < before + count:
        time.sleep(0.1)
    time.sleep(1.0)
    return waiters


def main() -> None:
    """Measure and print the result."""
    options = arguments("wakeup", __doc__ or "", rounds=150, waiting=500)
    bare = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.wakeup import _serve_bare; _serve_bare()"], stdout=subprocess.PIPE, text=True
    )
    assert bare.stdout is not None
    bare_url = f"http://127.0.0.1:{int(bare.stdout.readline())}/"
    with gateway() as quiet, gateway() as busy, quiet.provider() as to_quiet, busy.provider() as to_busy:
        waiters = _start_waiters(busy, options.waiting)
        try:
            floor, alone, crowded = _bare(bare_url), _ours(to_quiet, "a"), _ours(to_busy, "a")
            for one in (floor, alone, crowded):
                one.once()
            found = interleaved(options.rounds, floor=floor.once, alone=alone.once, crowded=crowded.once)
        finally:
            waiters.communicate("\n")
            bare.terminate()
            bare.wait()
    show(
        "wakeup",
        [
            Figure(
                f"from a send's answer to the return of a waiting receive (median of {options.rounds})",
                f"{found['alone'] * 1e3:.2f} ms   nobody else waiting "
                f"(a bare Event behind http.server: {found['floor'] * 1e3:.2f} ms)",
                f"{found['crowded'] * 1e3:.2f} ms   {options.waiting} other receives waiting",
                found["crowded"] / found["alone"],
                "under 5 ms",
                found["crowded"] < 0.005,
            )
        ],
    )


if __name__ == "__main__":
    main()
