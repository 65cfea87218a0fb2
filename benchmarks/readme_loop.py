"""Messages per second of README's loop, compared with plain requests to the same gateway, which has a data file.

The loop is ``for message in session.messages(): session.complete_message(message)`` in one thread. The plain requests are a
receive and a complete for each message, on one connection. Both settle each message durably before they go on.
"""

from __future__ import annotations

import time

import requests

from .common import QUEUE, Figure, arguments, data_file, fill, gateway, interleaved, show
from .plain_requests import PlainSession

#: The size of a message body in bytes.
SIZE = 256
TARGET = 3.0


def main() -> None:
    """Measure and print the result."""
    options = arguments("readme_loop", __doc__ or "", rounds=7, messages=300)
    with data_file() as path, gateway(path) as server, server.provider() as provider, requests.Session() as http:
        session = provider.create_session_client(QUEUE, "ours")
        plain_session = PlainSession(server, http, "plain")

        def ours() -> float:
            fill(provider, "ours", options.messages, SIZE)
            began, done = time.perf_counter(), 0
            for message in session.messages(timeout=0):
                session.complete_message(message)
                done += 1
            assert done == options.messages
            return done / (time.perf_counter() - began)

        def plain() -> float:
            fill(provider, "plain", options.messages, SIZE)
            began = time.perf_counter()
            for _ in range(options.messages):
                plain_session.complete(plain_session.receive())
            return float(options.messages) / (time.perf_counter() - began)

        plain()
        ours()
        found = interleaved(options.rounds, plain=plain, ours=ours)
        session.close()
    ratio = found["ours"] / found["plain"]
    show(
        "readme_loop",
        [
            Figure(
                f"messages of {SIZE} bytes a second, one thread ({options.rounds} rounds of {options.messages})",
                f"{found['plain']:.0f}/s   requests.Session().delete(url, headers=...), twice for each message",
                f"{found['ours']:.0f}/s   for message in session.messages(): session.complete_message(message)",
                ratio,
                f"at least {TARGET:g}",
                ratio >= TARGET,
            )
        ],
    )


if __name__ == "__main__":
    main()
