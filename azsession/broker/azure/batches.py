"""How messages become transfers: `EncodedMessages` encodes them, and `divide` decides which ones go together.

`MessageSender` calls it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence

import attrs

from ... import amqp
from ...amqp import AmqpMessage, Condition
from ...amqp.message_mapping import to_amqp
from ...errors import MessageTooLargeError, ValidationError, revised
from ...messages import Message
from ...protocol.error_codes import MESSAGE_TOO_LARGE

#: The largest batch in bytes where the link does not say it. See Microsoft's "Service Bus quotas": batches have up to 1 MB,
#: also where the tier allows larger messages.
MAX_BATCH_SIZE = 1024 * 1024
#: The bytes by which a batch is larger than its messages: for each message, and for the batch's own sections at most.
_MESSAGE_OVERHEAD, _BATCH_OVERHEAD = 8, 1200

#: Azure's refusals of a batch for several partitions. For example: "Batching messages with distinct SessionId, PartitionKey,
#: or MessageId is not supported for an entity with partitioning and duplicate detection enabled."
_DISTINCT_KEYS = re.compile(r"\bdistinct\b|\bpartition", re.IGNORECASE)

#: The positions of messages that go together in one transfer.
Chunk = tuple[int, ...]


@attrs.frozen
class EncodedMessages:
    """The messages of one request, encoded.

    Attributes:
        messages: The encoded messages.
        session_ids: Their sessions.
        message_ids: Their ids.
    """

    messages: list[bytes] = attrs.field(repr=False)
    session_ids: list[str | None]
    message_ids: list[str]

    @classmethod
    def of(cls, entity: str, messages: Sequence[Message]) -> EncodedMessages:
        """Encode messages. Any thread may call this: the caller's thread does, because many messages take their time.

        Raises:
            ValidationError: The entity is a subscription, or AMQP cannot carry an attribute.
        """
        topic = topic_of(entity)
        if topic is not None:
            raise ValidationError(f"messages cannot be sent to a subscription: send to its topic {topic!r}")
        encoded, message_ids = [], []
        for number, message in enumerate(messages, 1):
            message_ids.append(message.message_id or str(uuid.uuid4()))
            try:
                encoded.append(to_amqp(message, message_id=message_ids[-1]))
            except ValidationError as error:
                raise revised(error, f"message {number}: {error}") from error.__cause__
        return cls(encoded, [message.session_id for message in messages], message_ids)

    def __len__(self) -> int:
        return len(self.messages)

    def by_session(self) -> list[list[int]]:
        """Return the positions of the messages of each session."""
        groups: dict[str | None, list[int]] = {}
        for at, session_id in enumerate(self.session_ids):
            groups.setdefault(session_id, []).append(at)
        return list(groups.values())

    def payload(self, chunk: Chunk) -> tuple[bytes, int]:
        """Return the payload of a transfer, and its message format.

        The sections of a batch itself carry the first message's id and session, by which Azure finds the partition. The SDK
        for Python does the same since 7.14.3.
        """
        first = chunk[0]
        if len(chunk) == 1:
            return self.messages[first], 0
        envelope = AmqpMessage(message_id=self.message_ids[first], group_id=self.session_ids[first])
        return amqp.encode_batch([self.messages[at] for at in chunk], envelope), amqp.BATCH_FORMAT

    def check_sizes(self, limit: int | None) -> None:
        """Check the size of each message.

        Raises:
            MessageTooLargeError: A message is larger than `limit` bytes.
        """
        if limit is None:
            return
        for number, message in enumerate(self.messages, 1):
            size = len(message)
            if size > limit:
                text = f"message {number} has {size} bytes; the limit is {limit}"
                raise MessageTooLargeError(text, code=MESSAGE_TOO_LARGE, size=size, limit=limit)


def topic_of(entity: str) -> str | None:
    """Return the topic of a subscription, or `None` for the name of a queue or topic. Azure's names have no case."""
    at = entity.lower().find("/subscriptions/")
    return entity[:at] if at > 0 else None


def divide(encoded: EncodedMessages, max_batch_size: int, *, per_session: bool) -> list[list[Chunk]]:
    """Divide messages among transfers of at most `max_batch_size` bytes.

    Args:
        encoded: The messages.
        max_batch_size: The largest batch in bytes. A single message may be larger.
        per_session: A transfer has messages of one session only, as partitioned entities require.

    Returns:
        Groups of transfers. Those of one group are sent one after another, so that no message overtakes an earlier one.
    """
    groups = encoded.by_session() if per_session else [list(range(len(encoded)))]
    limit = max_batch_size - _BATCH_OVERHEAD
    sizes = [len(message) + _MESSAGE_OVERHEAD for message in encoded.messages]
    return [list(chunks_of(group, [sizes[at] for at in group], limit)) for group in groups]


def chunks_of(positions: Sequence[int], sizes: Sequence[int], limit: int, *, most: int | None = None) -> Iterator[Chunk]:
    """Divide positions, in order, into chunks whose messages fit together.

    Args:
        positions: The positions.
        sizes: Their messages' sizes in bytes.
        limit: Bytes of one chunk at most. A single message may be larger.
        most: Messages of one chunk at most. `None`: any number.

    Yields:
        The chunks. None is empty.
    """
    chunk: list[int] = []
    total = 0
    for at, size in zip(positions, sizes, strict=True):
        if chunk and (total + size > limit or len(chunk) == most):
            yield tuple(chunk)
            chunk, total = [], 0
        chunk.append(at)
        total += size
    if chunk:
        yield tuple(chunk)


def needs_sessions_apart(error: Condition | None) -> bool:
    """Return whether Azure refused a batch because the entity is partitioned and the batch has several sessions."""
    return error is not None and error.condition == "amqp:not-allowed" and names_distinct_keys(error.description)


def names_distinct_keys(description: str) -> bool:
    """Return whether the description of a refusal says that messages for different partitions were sent together."""
    return bool(_DISTINCT_KEYS.search(description))
