"""Access keys and their rights. `authorization.Guard` checks requests with them."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from enum import Enum
from hashlib import sha256

import attrs

from ..errors import ConfigurationError, ValidationError
from ..protocol.routes import Operation
from ..validation import check_queue_name


class Right(Enum):
    """A right of an access key.

    Attributes:
        SEND: Send, schedule and cancel messages.
        LISTEN: Receive, settle, peek, list sessions, read statistics, manage dead letters.
        MANAGE: Create, read, list and delete queues, and back up all of them. It includes the other rights.
        METRICS: Read the gateway's metrics, and nothing else. Azure Service Bus does not have this right.
    """

    SEND = "Send"
    LISTEN = "Listen"
    MANAGE = "Manage"
    METRICS = "Metrics"


#: The right that an operation requires, if the right is not Listen.
_RIGHTS = {
    Operation.SEND: Right.SEND,
    Operation.SCHEDULE: Right.SEND,
    Operation.CANCEL_SCHEDULED: Right.SEND,
    Operation.CREATE_QUEUE: Right.MANAGE,
    Operation.GET_QUEUE: Right.MANAGE,
    Operation.DELETE_QUEUE: Right.MANAGE,
    Operation.LIST_QUEUES: Right.MANAGE,
    Operation.BACKUP: Right.MANAGE,
    Operation.METRICS: Right.METRICS,
}


def right_for(operation: Operation) -> Right:
    """Return the right that an operation requires."""
    return _RIGHTS.get(operation, Right.LISTEN)


def _queue_names(queues: object) -> frozenset[str] | None:
    if queues is None:
        return None
    if not isinstance(queues, (frozenset, set, list, tuple)):
        raise ConfigurationError(f"the queues of an access key must be a set of names, not {type(queues).__name__}")
    try:
        return frozenset(check_queue_name(name) for name in queues)
    except ValidationError as error:
        raise ConfigurationError(f"the queues of an access key: {error}") from None


@attrs.frozen
class AccessKey:
    """A shared access key of the gateway. Clients sign their tokens with it.

    Example::

        AccessKey("app", "SECRET", frozenset({Right.SEND, Right.LISTEN}), queues=frozenset({"orders"}))

    Args:
        name: The name of the key. Clients send it in their tokens.
        key: The secret. It is not part of the ``repr``.
        rights: The rights of clients with this key. By default all rights.
        queues: The queues and topics for which the key has its rights, at least one. A topic includes its subscriptions. By
            default all queues. `Right.METRICS` cannot be limited, and a limited `Right.MANAGE` does not include it, because
            metrics are about the whole gateway.

    Raises:
        ConfigurationError: No queue is given, a queue's name is malformed, or the rights cannot be limited to queues.
    """

    name: str
    key: str = attrs.field(repr=False)
    rights: frozenset[Right] = frozenset({Right.MANAGE})
    queues: frozenset[str] | None = attrs.field(default=None, kw_only=True, converter=_queue_names)

    def __attrs_post_init__(self) -> None:
        if self.queues is None:
            return
        if not self.queues:
            raise ConfigurationError("an access key that is limited to queues needs at least one; leave @ out for all queues")
        if Right.METRICS in self.rights:
            raise ConfigurationError(
                "the right Metrics is about the whole gateway: a key with it cannot be limited to queues"
            )

    @classmethod
    def parse(cls, text: str) -> AccessKey:
        """Return the key that a text describes.

        Example::

            AccessKey.parse("app:SECRET:Send,Listen")
            AccessKey.parse("app:SECRET:Send,Listen@orders,payments")

        Args:
            text: Name, secret and rights in the form ``NAME:KEY:RIGHTS``, or ``NAME:KEY:RIGHTS@QUEUES`` for rights on these
                queues alone. The name has 1 to 64 letters, digits, ``.``, ``_`` or ``-``. The secret has no white space and
                no ``;``. The rights are Send, Listen, Manage and Metrics, separated by commas, and so are the queues.

        Raises:
            ConfigurationError: The text has another form. The message does not contain the secret.
        """
        name, _, rest = text.partition(":")
        # Neither rights nor queues have a colon, so the last one ends the secret, whatever the secret contains.
        key, _, granted = rest.rpartition(":")
        names, is_limited, queues = granted.partition("@")
        try:
            rights = frozenset(Right(right.strip().capitalize()) for right in names.split(","))
        except ValueError:
            rights = frozenset()
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or not key or not rights or re.search(r"[;\s\ud800-\udfff]", key):
            # A connection string cannot contain a key with such characters, and UTF-8 cannot encode a lone surrogate.
            raise ConfigurationError(
                "an access key must have the form NAME:KEY:RIGHTS or NAME:KEY:RIGHTS@QUEUES with the rights Send, Listen, "
                "Manage or Metrics, for example app:SECRET:Send,Listen or app:SECRET:Send@orders,payments"
            )
        return cls(name, key, rights, queues=frozenset(queue.strip() for queue in queues.split(",")) if is_limited else None)

    @classmethod
    def generate(
        cls,
        name: str = "RootManageSharedAccessKey",
        rights: frozenset[Right] = frozenset({Right.MANAGE}),
        *,
        queues: frozenset[str] | None = None,
    ) -> AccessKey:
        """Return a new key with a random secret of 256 bits.

        Args:
            name: The name of the key. The default is the name that Azure gives the first key of a namespace.
            rights: The rights; by default all.
            queues: The queues; by default all.

        Raises:
            ConfigurationError: The queues are malformed, or the rights cannot be limited to queues.
        """
        return cls(name, base64.b64encode(secrets.token_bytes(32)).decode(), rights, queues=queues)

    def to_text(self) -> str:
        """Return the text that `parse` reads. It contains the secret."""
        rights = ",".join(right.value for right in Right if right in self.rights)
        limit = "" if self.queues is None else "@" + ",".join(sorted(self.queues))
        return f"{self.name}:{self.key}:{rights}{limit}"

    def has_secret(self, secret: str) -> bool:
        """Return whether a text is the secret. Takes the same time for every text of one length."""
        own, given = (sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (self.key, secret))
        return hmac.compare_digest(own, given)

    def is_same(self, other: AccessKey) -> bool:
        """Return whether another key has the same name, secret, rights and queues."""
        same = (self.name, self.rights, self.queues) == (other.name, other.rights, other.queues)
        return same and self.has_secret(other.key)

    def allows(self, right: Right) -> bool:
        """Return whether the key has a right, itself or through `Right.MANAGE`, on the queues that it `covers`."""
        return right in self.rights or (Right.MANAGE in self.rights and (right is not Right.METRICS or self.queues is None))

    def covers(self, entity: str) -> bool:
        """Return whether the key has its rights on an entity: a queue, a topic, or a subscription of a topic."""
        if self.queues is None or entity in self.queues:
            return True
        topic, separator, _ = entity.rpartition("/")
        topic, _, keyword = topic.rpartition("/")
        return bool(separator) and keyword.lower() == "subscriptions" and topic in self.queues
