"""Runs azsession's AMQP endpoint in the place of Azure as a process: `python -m tests.namespaces --queue NAME`.

The arguments and the line that it prints are those of `python -m tests.standin`. It has no faults.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading

from azsession import QueueSettings
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.namespaces", description=__doc__)
    parser.add_argument("--queue", action="append", default=[], help="a queue to create; repeatable")
    parser.add_argument("--lock-duration", type=float, default=60.0, help="in seconds")
    parser.add_argument("--max-delivery-count", type=int, default=10)
    parser.add_argument("--duplicate-detection", type=float, help="the window in seconds; without it there is none")
    asked = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    broker = EmbeddedBroker()
    with GatewayService(broker, [AccessKey.generate()], amqp_port=0) as service:
        settings = QueueSettings(
            lock_duration=asked.lock_duration,
            max_delivery_count=asked.max_delivery_count,
            requires_duplicate_detection=asked.duplicate_detection is not None,
            duplicate_detection_window=asked.duplicate_detection or 600,
        )
        for name in asked.queue:
            broker.create_queue(name, settings).result()
        print(json.dumps({"connection_string": service.amqp_connection_string(), "port": service.amqp_port}), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
