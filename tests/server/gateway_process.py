"""A gateway with a data file, in a process of its own.

``python -m tests.server.gateway_process FILE PORT KEY LOCK_DURATION`` writes its connection string when it
serves, and ends when its input ends.
"""

from __future__ import annotations

import sys

from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayService

QUEUE = "webhooks"


def main(path: str, port: str, key: str, lock_duration: str) -> None:
    broker = EmbeddedBroker(path)
    broker.create_queue(QUEUE, QueueSettings(lock_duration=float(lock_duration)))
    with GatewayService(broker, [AccessKey("root", key)], port=int(port), max_waiting=64) as service:
        print(service.connection_string(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
