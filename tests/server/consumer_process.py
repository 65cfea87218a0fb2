"""A consumer of the webhooks with four threads: ``python -m tests.server.consumer_process REPORT NAME DELAY``.

The process writes ``ready``, and then reads the connection string from the first line of its input. Threads consume session
by session until the input ends. All consumers append to one report, one line for each received and each completed message:
the kind of line, the name of the consumer, the session, the position and the delivery count. A ``completed`` line is written
after the broker confirmed the completion, and before the session is released, so the lines of a session are in order.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from urllib.parse import quote

from azsession import ServiceBusProvider
from azsession.errors import (
    InvalidReceiptError,
    NoSessionAvailableError,
    QueueError,
    SessionLockedError,
    SessionNotFoundError,
)

from .gateway_process import QUEUE

THREADS = 4
PREFETCH = 3


def consume(provider: ServiceBusProvider, report: int, name: str, delay: float, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            with provider.create_session_client(QUEUE, accept_timeout=0.5) as session:
                for message in session.messages(timeout=0, prefetch=PREFETCH):
                    event = json.loads(message.body)
                    session_id = quote(event["session_id"], safe="")
                    line = f"{name} {session_id} {event['position']} {message.delivery_count}\n".encode()
                    os.write(report, b"received " + line)
                    ended.wait(delay)
                    session.complete_message(message)
                    os.write(report, b"completed " + line)
                    if ended.is_set():
                        break
        except NoSessionAvailableError:
            continue
        except (SessionNotFoundError, SessionLockedError, InvalidReceiptError):
            # The gateway was restarted: the consumer that comes first takes the session.
            continue
        except QueueError as error:
            if not error.is_transient:
                raise
            time.sleep(0.02)


def main(path: str, name: str, delay: str) -> None:
    print("ready", flush=True)
    connection_string = sys.stdin.readline().strip()
    report = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ended = threading.Event()
    with ServiceBusProvider.from_connection_string(connection_string) as provider:
        threads = [
            threading.Thread(target=consume, args=(provider, report, name, float(delay), ended)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        ended.set()
        for thread in threads:
            thread.join()
    os.close(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
