"""The cost of 1,000 session locks: processor time while no renewal is due, and whether all locks are renewed in time.

The peer is azure-servicebus's `AutoLockRenewer` with as many sessions and the same lock duration.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from azsession import ServiceBusProvider, SessionClient

from .common import QUEUE, Figure, arguments, show

#: Seconds that the slow server takes for a renewal, and the duration of its locks.
SLOW, SHORT = 0.05, 5.0
#: The duration in seconds of locks that need no renewal during the benchmark.
LONG = 300.0


class _Server(ThreadingHTTPServer):
    """Grants every lock, renews it in `SLOW` seconds, and counts the locks that expired before their renewal."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, lasts: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lasts = lasts
        self.lock = threading.Lock()  # Guards the fields below.
        self.ends: dict[str, float] = {}
        self.renewed = 0
        self.lost = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        server = self.server
        session = self.path.rpartition("/")[0]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/release"):
            with server.lock:
                server.lost += server.ends.pop(session) < time.monotonic()
            self._answer()
            return
        time.sleep(SLOW)
        now = time.monotonic()
        with server.lock:
            # A renewal that arrives after the release is neither in time nor late.
            end = server.ends.get(session)
            if end is not None:
                server.lost += end < now
                server.renewed += end >= now
                server.ends[session] = now + server.lasts
        self._answer(204 if end is not None and end >= now else 410)

    def do_DELETE(self) -> None:
        with self.server.lock:
            self.server.ends[self.path.rpartition("/messages/")[0]] = time.monotonic() + self.server.lasts
        self._answer()

    def _answer(self, status: int = 204) -> None:
        head = f"HTTP/1.1 {status} -\r\nAzsession-Protocol: 1\r\nAzsession-Lock-Expires-In: {self.server.lasts}\r\n"
        self.wfile.write(f"{head}Content-Length: 0\r\n\r\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        return


def _serve(lasts: float) -> None:
    """Serve until standard input has a line. Then print the number of renewals and of expired locks."""
    server = _Server(lasts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.readline()
    with server.lock:
        print(server.renewed, server.lost, flush=True)


class _Slow:
    """A slow server in its own process."""

    def __init__(self, lasts: float) -> None:
        code = f"from benchmarks.renewal import _serve; _serve({lasts})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> tuple[int, int]:
        """Stop the server; return the number of renewals in time, and of expired locks."""
        renewed, lost = self._process.communicate("\n")[0].split()
        return int(renewed), int(lost)


def _hold(provider: ServiceBusProvider, count: int) -> tuple[list[SessionClient], list[str]]:
    """Return clients that hold their locks, and a list to which the ids of lost sessions are added."""
    lost: list[str] = []
    clients = [
        provider.create_session_client(QUEUE, f"s-{number}", on_lock_lost=lambda client, _: lost.append(client.session_id))
        for number in range(count)
    ]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda client: client.receive_message(0), clients))
    return clients, lost


def _provider(port: int) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(
        f"Endpoint=http://127.0.0.1:{port}/;SharedAccessKeyName=k;SharedAccessKey=a2V5"
    )


def _cpu_of_sleep(seconds: float) -> float:
    began = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - began) / seconds


def _idle_ours(options: argparse.Namespace) -> float:
    server = _Slow(LONG)
    with _provider(server.port) as provider:
        clients, lost = _hold(provider, options.clients)
        time.sleep(1.0)
        share = _cpu_of_sleep(options.seconds)
        assert len(clients) == options.clients
        assert not lost
    server.stop()
    return share


class _Receiver:
    """The part of a receiver that `AutoLockRenewer` uses."""

    _running = True


def _idle_peer(options: argparse.Namespace) -> float:
    from azure.servicebus import AutoLockRenewer, ServiceBusSession

    renewer = AutoLockRenewer(max_lock_renewal_duration=LONG)
    receiver: Any = _Receiver()
    sessions = []
    for number in range(options.clients):
        session = ServiceBusSession(f"s-{number}", receiver)
        session._session_start = datetime.now(timezone.utc)  # type: ignore[assignment]
        session._locked_until_utc = datetime.now(timezone.utc) + timedelta(seconds=LONG)
        renewer.register(receiver, session)
        sessions.append(session)
    time.sleep(1.0)
    share = _cpu_of_sleep(options.seconds)
    # A renewal that failed would cost nothing, and is reported here only.
    assert not any(session.auto_renew_error for session in sessions)
    renewer.close(wait=False)
    return share


def _busy(options: argparse.Namespace) -> tuple[int, int, float]:
    server = _Slow(SHORT)
    with _provider(server.port) as provider:
        clients, lost = _hold(provider, options.clients)
        share = _cpu_of_sleep(options.busy_seconds)
        assert len(clients) == options.clients
        known = len(lost)
    renewed, ended = server.stop()
    return renewed, max(known, ended), share


def main() -> None:
    """Measure and print the result."""
    options = arguments("renewal", __doc__ or "", clients=1000, seconds=20, busy_seconds=20)
    ours = _idle_ours(options)
    renewed, missing, busy = _busy(options)
    peer = _idle_peer(options)
    show(
        "renewal",
        [
            Figure(
                f"processor time with {options.clients} locks and nothing due, for {options.seconds} s",
                f"{peer:.2%} of a core   azure.servicebus.AutoLockRenewer",
                f"{ours:.3%} of a core",
                ours / peer,
                "under 1 % of a core",
                ours < 0.01,
            ),
            Figure(
                f"{options.clients} locks of {SHORT:.0f} s, {SLOW * 1e3:.0f} ms for each renewal, {options.busy_seconds} s",
                "",
                f"{renewed} renewals, {missing} locks lost, {busy:.0%} of a core in the client",
                None,
                "none lost",
                missing == 0,
            ),
        ],
    )


if __name__ == "__main__":
    main()
