"""Runs a stand-in as a process: `python -m tests.standin --queue NAME`. It prints one line of JSON and ends at SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import threading

from tests.standin.server import StandIn


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--queue", action="append", default=[], help="a queue with sessions to create; repeatable")
    parser.add_argument("--plain-queue", action="append", default=[], help="a queue without sessions to create; repeatable")
    parser.add_argument("--lock-duration", type=float, default=60.0, help="in seconds")
    parser.add_argument("--max-delivery-count", type=int, default=10)
    parser.add_argument("--duplicate-detection", type=float, help="the window in seconds; without it there is none")
    parser.add_argument("--handle-max", type=int, default=255)
    asked = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with StandIn(handle_max=asked.handle_max) as namespace:
        for sessions, names in ((True, asked.queue), (False, asked.plain_queue)):
            for name in names:
                namespace.create_queue(
                    name,
                    requires_session=sessions,
                    lock_duration=asked.lock_duration,
                    max_delivery_count=asked.max_delivery_count,
                    duplicate_detection=asked.duplicate_detection,
                )
        print(json.dumps({"connection_string": namespace.connection_string, "port": namespace.port}), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
