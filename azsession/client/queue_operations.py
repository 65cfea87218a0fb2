"""The operations of the protocol on whole queues. See `operations`."""

from __future__ import annotations

import sys

from ..protocol.queue_json import encode_queue
from ..protocol.routes import BACKUP_PATH
from ..queues import QueueInfo, QueueSettings, QueueStatistics
from .call import Call
from .operations import queue_call
from .response_sink import ResponseSink
from .responses import read_created, read_nothing, read_queue, read_queues, read_statistics

#: Seconds for a server to make a backup before it responds.
BACKUP_PATIENCE = 3600.0


def create_queue(entity: str, settings: QueueSettings) -> Call[bool]:
    """Return the call that creates a queue. Its result says whether the queue is new."""
    return queue_call("PUT", entity, read_created, body=encode_queue(settings))


def get_queue(entity: str) -> Call[QueueInfo]:
    """Return the call that describes a queue."""
    return queue_call("GET", entity, read_queue)


def queue_statistics(entity: str) -> Call[QueueStatistics]:
    """Return the call that counts the messages and sessions of a queue."""
    return queue_call("GET", entity, read_statistics, path="/$statistics")


def list_queues() -> Call[list[QueueInfo]]:
    """Return the call that lists all queues."""
    return queue_call("GET", "", read_queues)


def delete_queue(entity: str) -> Call[None]:
    """Return the call that deletes a queue."""
    call = queue_call("DELETE", entity, read_nothing)
    call.missing_is_success = True
    return call


def backup(sink: ResponseSink) -> Call[None]:
    """Return the call that writes a backup of all queues into a sink."""
    return Call(
        method="GET",
        path=BACKUP_PATH,
        entity="",
        read=read_nothing,
        wait=BACKUP_PATIENCE,
        max_response_size=sys.maxsize,
        sink=sink,
    )
