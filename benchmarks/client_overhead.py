"""Processor time of receive + complete with `SessionClient`, compared with plain requests.

Both make the same two requests to the same server. The server runs in another process, whose time does not count. It is a
gateway, and then a server that answers at once, so that the client hardly waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from azsession import ServiceBusProvider, SessionClient
from azsession.protocol.sas import generate_sas_token

from .common import QUEUE, Figure, arguments, fill, gateway, interleaved, show

#: The program of the server that answers at once. Its answers are a gateway's. It serves until its standard input ends.
_INSTANT = rb"""
import socket, sys, threading

COMMON = b"date: Mon, 30 Nov 2026 04:00:00 GMT\r\nazsession-protocol: 1\r\nazsession-extensions: fetch-ahead\r\n"
ID = b"0f0e3ab0-0000-4000-8000-000000000001"
PROPERTIES = (
    b'{"MessageId":"%s","SessionId":"ours","SequenceNumber":12,"DeliveryCount":1,"LockToken":"%s",'
    b'"EnqueuedTimeUtc":"Mon, 30 Nov 2026 04:00:00 GMT","LockedUntilUtc":"Mon, 30 Nov 2026 04:05:00 GMT"}' % (ID, ID)
)
RECEIVED = (
    b"HTTP/1.1 201 Created\r\n" + COMMON + b"brokerproperties: " + PROPERTIES + b"\r\nazsession-lock-expires-in: 300\r\n"
    b"azsession-waited: 0\r\ncontent-type: application/octet-stream\r\ncontent-length: 256\r\n\r\n" + b"x" * 256
)
COMPLETED = b"HTTP/1.1 204 No Content\r\n" + COMMON + b"\r\n"

def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    while data := sock.recv(65536):
        *heads, waiting = (waiting + data).split(b"\r\n\r\n")
        for head in heads:
            sock.sendall(RECEIVED if b"/messages/head" in head else COMPLETED)

def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
sys.stdin.read()
"""


@contextmanager
def instant() -> Iterator[str]:
    """Yield the connection string of a server that answers at once."""
    command = [sys.executable, "-c", _INSTANT.decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        try:
            yield f"Endpoint=http://127.0.0.1:{port}/;SharedAccessKeyName=app;SharedAccessKey=a2V5a2V5a2V5a2V5"
        finally:
            process.stdin.close()


def plain_work(http: requests.Session, connection_string: str, count: int) -> Callable[[], float]:
    """Return a function that receives and completes `count` messages with requests, and returns the time for each."""
    fields = dict(part.split("=", 1) for part in connection_string.split(";"))
    url = fields["Endpoint"].rstrip("/")
    expires_on = int(time.time()) + 3600
    token = generate_sas_token(url, fields["SharedAccessKeyName"], fields["SharedAccessKey"], expires_on)
    base = f"{url}/{QUEUE}/sessions/plain/messages"
    headers = {"Authorization": token, "Azsession-Lock-Id": str(uuid.uuid4())}

    def work() -> float:
        began = time.process_time()
        for _ in range(count):
            received = http.delete(f"{base}/head?timeout=30", headers=headers)
            lock_token = json.loads(received.headers["BrokerProperties"])["LockToken"]
            assert http.delete(f"{base}/{lock_token}", headers=headers).status_code == 204
        return (time.process_time() - began) / float(count)

    return work


def our_work(session: SessionClient, count: int) -> Callable[[], float]:
    """Return a function that receives and completes `count` messages, and returns the time for each."""

    def work() -> float:
        began = time.process_time()
        for _ in range(count):
            message = session.receive_message(30)
            assert message is not None
            session.complete_message(message)
        return (time.process_time() - began) / float(count)

    return work


def compare(
    provider: ServiceBusProvider, connection_string: str, rounds: int, count: int, server_time: Callable[[], float]
) -> tuple[dict[str, float], float]:
    """Return the medians of both, and the processor time of the server for each message."""
    with requests.Session() as http, provider.create_session_client(QUEUE, "ours") as session:
        plain, ours = plain_work(http, connection_string, count), our_work(session, count)
        plain()
        ours()
        before = server_time()
        found = interleaved(rounds, plain=plain, ours=ours)
        return found, (server_time() - before) / (2 * rounds * count)


def figure(work: str, found: dict[str, float], limit: float | None) -> Figure:
    """Return the figure of a comparison."""
    ratio = found["ours"] / found["plain"]
    return Figure(
        work,
        f"{found['plain'] * 1e6:.0f} us   requests.Session().delete(url, headers=...), twice",
        f"{found['ours'] * 1e6:.0f} us   receive_message + complete_message",
        ratio,
        "" if limit is None else f"at most {limit}",
        None if limit is None else ratio <= limit,
    )


def main() -> None:
    """Measure and print the result."""
    options = arguments("client_overhead", __doc__ or "", rounds=60, messages=50)
    rounds, count = options.rounds, options.messages
    with gateway() as server, server.provider() as provider:
        for session_id in ("plain", "ours"):
            fill(provider, session_id, (rounds + 1) * count)
        with_gateway, spent = compare(provider, server.connection_string, rounds, count, server.cpu)
    with instant() as text, ServiceBusProvider.from_connection_string(text) as provider:
        at_once, _ = compare(provider, text, rounds, count, lambda: 0.0)
    work = f"processor time of receive + complete, in the client ({rounds} rounds of {count})"
    show(
        "client_overhead",
        [
            figure(work, with_gateway, 0.45),
            Figure("the same, in the gateway", "", f"{spent * 1e6:.0f} us"),
            figure("processor time in the client, with a server that answers at once", at_once, None),
        ],
    )


if __name__ == "__main__":
    main()
