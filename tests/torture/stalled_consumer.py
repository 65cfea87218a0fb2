"""A consumer whose other threads stand still while its lock expires.

``python -m tests.torture.stalled_consumer CONNECTION_STRING FILE``

It receives a message, prints ``received``, and keeps the interpreter to itself until the first byte of FILE is not zero. So
its renewer reports no lost lock before the session is closed, as if the whole process had been paused. Then it prints JSON
with the times of its operations on the monotonic clock.
"""

from __future__ import annotations

import json
import mmap
import sys
import time

from azsession import ServiceBusProvider, SessionClient
from azsession.client.session import holder_of
from azsession.errors import SessionNotFoundError


def main(connection_string: str, file: str) -> None:
    lost: list[float] = []

    def on_lock_lost(client: SessionClient, error: SessionNotFoundError) -> None:
        lost.append(time.monotonic())

    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as shared:
        with ServiceBusProvider.from_connection_string(connection_string) as provider:
            begin = time.monotonic()
            client = provider.create_session_client("orders", accept_timeout=10.0, on_lock_lost=on_lock_lost)
            accepted = time.monotonic()
            messages = client.receive_messages(10, 10.0)
            received = time.monotonic()
            print("received", flush=True)
            sys.setswitchinterval(1000.0)
            while not shared[0]:  # No instruction of this loop lets another thread run.
                pass
            lock_until = holder_of(client).lock.term.deadline
            closed = time.monotonic()
            client.close_session()
            sys.setswitchinterval(0.005)
        numbers = [[message.message_id, message.sequence_number, message.delivery_count] for message in messages]
        times = {"begin": begin, "accepted": accepted, "received": received, "lock_until": lock_until, "closed": closed}
        print(json.dumps({"messages": numbers, "lost": lost, **times}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
