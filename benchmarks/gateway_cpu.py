"""Processor time of receive + complete in the gateway, compared with a trivial ASGI application on the same server.

The peer answers two requests for each message, as a server must whose clients cannot combine them. The gateway is measured in
two ways: with azsession's client, whose loop receives and completes in one request for each message, and with plain requests,
a receive and a complete for each message. The broker of the gateway keeps its messages in memory.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import requests

from .common import QUEUE, Figure, arguments, fill, gateway, interleaved, processor_time, show
from .plain_requests import PlainSession, headers

TARGET = 3.5

#: The peer's program. It answers every request with 256 bytes, until its standard input ends.
_TRIVIAL = """
import socket, sys, threading
import uvicorn

async def application(scope, receive, send):
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"256")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 256})

listener = socket.create_server(("127.0.0.1", 0))
config = uvicorn.Config(application, http="httptools", lifespan="off", ws="none", log_config=None, access_log=False)
threading.Thread(target=uvicorn.Server(config).run, args=([listener],), daemon=True).start()
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
sys.stdin.read()
"""


@contextmanager
def _trivial() -> Iterator[tuple[str, psutil.Process]]:
    with subprocess.Popen(
        [sys.executable, "-c", _TRIVIAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.stdin.close()


def main() -> None:
    """Measure and print the result."""
    options = arguments("gateway_cpu", __doc__ or "", rounds=10, messages=500)
    with gateway() as server, server.provider() as provider, _trivial() as (url, peer), requests.Session() as http:
        fill(provider, "plain", (options.rounds + 1) * options.messages)
        plain_session, same_headers = PlainSession(server, http, "plain"), headers(server)
        session = provider.create_session_client(QUEUE, "loop")

        def trivial() -> float:
            before = processor_time(peer)
            for _ in range(options.messages):
                for _ in range(2):
                    assert http.delete(url, headers=same_headers).status_code == 200
            return (processor_time(peer) - before) / float(options.messages)

        def loop() -> float:
            fill(provider, "loop", options.messages)
            before, done = server.cpu(), 0
            for message in session.messages(timeout=0):
                session.complete_message(message)
                done += 1
            assert done == options.messages
            return (server.cpu() - before) / done

        def plain() -> float:
            before = server.cpu()
            for _ in range(options.messages):
                plain_session.complete(plain_session.receive())
            return (server.cpu() - before) / float(options.messages)

        for measure in (trivial, loop, plain):
            measure()
        found = interleaved(options.rounds, trivial=trivial, loop=loop, plain=plain)
        session.close()
    rounds = f"({options.rounds} rounds of {options.messages})"
    peer_text = f"{found['trivial'] * 1e6:.0f} us   two requests to a trivial ASGI application on uvicorn and httptools"
    combined, separate = found["loop"] / found["trivial"], found["plain"] / found["trivial"]
    show(
        "gateway_cpu",
        [
            Figure(
                f"processor time of receive + complete in the gateway, for each message of azsession's client {rounds}",
                peer_text,
                f"{found['loop'] * 1e6:.0f} us   for message in session.messages(): session.complete_message(message)",
                combined,
                f"at most {TARGET:g}",
                combined <= TARGET,
            ),
            Figure(
                f"the same, for a client that cannot combine requests: a receive and a complete for each message {rounds}",
                peer_text,
                f"{found['plain'] * 1e6:.0f} us   requests.Session().delete(url, headers=...), twice for each message",
                separate,
            ),
        ],
    )


if __name__ == "__main__":
    main()
