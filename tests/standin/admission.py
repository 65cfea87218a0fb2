"""The rules by which an entity accepts messages: sizes, session ids, partition keys, and duplicate detection."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from tests.standin.boxes import Options
from tests.standin.refusal import Refusal
from tests.standin.wire import Content

#: How many partitions a partitioned entity has. The top 16 bits of its sequence numbers are the partition.
PARTITIONS, _PARTITION_SHIFT = 16, 48
_SESSION_ID_MAX = 128


class Admission:
    """Checks the messages for one queue or topic, knows which it has seen, and numbers them."""

    def __init__(self, options: Options, now: Callable[[], float], *, sessions: bool) -> None:
        self._options, self._now, self._sessions = options, now, sessions
        self._numbers = count(1)
        self._turn = count()
        #: The time and sequence number of each message id of the duplicate detection's window, the oldest first.
        self._seen: OrderedDict[Any, tuple[float, int]] = OrderedDict()

    def check(self, contents: Sequence[Content], envelope: Content | None = None) -> None:
        """Check messages that are sent together. `envelope` has the sections of the batch itself, if they are a batch.

        Raises:
            Refusal: The entity does not accept a message, or not in this batch.
        """
        for content in contents:
            self._check_one(content)
        if self._options.partitioned:
            self._check_partitions([*contents, *([] if envelope is None else [envelope])])

    def _check_one(self, content: Content) -> None:
        if content.size > self._options.max_message_size:
            raise Refusal("amqp:link:message-size-exceeded", "The message is larger than the allowed size.")
        session_id, key = content.session_id, content.partition_key
        if self._sessions and session_id is None:
            text = "The SessionId was not set on a message, and it cannot be sent to the entity."
            raise Refusal(
                "amqp:not-allowed",
                f"{text} Entities that have session support enabled can only receive messages with a session id.",
            )
        if session_id is not None and len(session_id) > _SESSION_ID_MAX:
            raise Refusal("amqp:not-allowed", f"The SessionId has more than {_SESSION_ID_MAX} characters.")
        if self._options.partitioned and None not in (session_id, key) and session_id != key:
            raise Refusal("amqp:not-allowed", f"The PartitionKey '{key}' is not the SessionId '{session_id}'.")

    def _check_partitions(self, contents: Sequence[Content]) -> None:
        duplicates = self._options.duplicate_detection is not None
        keys = [self._partition_key(content) for content in contents]
        if duplicates and None in keys:
            text = "A message to a partitioned entity with duplicate detection enabled must have either PartitionKey or"
            raise Refusal("amqp:not-allowed", f"{text} MessageId.")
        if len(set(keys)) > 1:
            names = "SessionId, PartitionKey, or MessageId" if duplicates else "SessionId or PartitionKey"
            enabled = "partitioning and duplicate detection" if duplicates else "partitioning"
            text = f"Batching messages with distinct {names} is not supported for an entity with {enabled} enabled."
            raise Refusal("amqp:not-allowed", text)

    def _partition_key(self, content: Content) -> Any:
        """Return the value that decides the partition of a message: its message id only with duplicate detection."""
        for key in (content.session_id, content.partition_key):
            if key is not None:
                return key
        return content.message_id if self._options.duplicate_detection is not None else None

    def duplicate_of(self, content: Content) -> int | None:
        """Return the sequence number of an earlier message with the same id in the duplicate detection's window."""
        window, now = self._options.duplicate_detection, self._now()
        if window is None or content.message_id is None:
            return None
        while self._seen and next(iter(self._seen.values()))[0] <= now - window:
            self._seen.popitem(last=False)
        earlier = self._seen.get(self._identity(content))
        return None if earlier is None else earlier[1]

    def number(self, content: Content) -> int:
        """Return the next sequence number, and remember the message for the duplicate detection."""
        number = self.next_number(content)
        if self._options.duplicate_detection is not None and content.message_id is not None:
            self._seen[self._identity(content)] = (self._now(), number)
        return number

    def next_number(self, content: Content) -> int:
        """Return the next sequence number of the message's partition."""
        if not self._options.partitioned:
            return next(self._numbers)
        key = self._partition_key(content)
        partition = next(self._turn) if key is None else zlib.crc32(str(key).encode())
        return (partition % PARTITIONS << _PARTITION_SHIFT) + next(self._numbers)

    def _identity(self, content: Content) -> Any:
        # Of a partitioned entity, the partition key and the message id together decide.
        key = self._partition_key(content) if self._options.partitioned else None
        return key, content.message_id
