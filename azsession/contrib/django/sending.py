"""`send_on_commit`: sends messages when a transaction is committed, and not if it is rolled back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

from django.db import transaction

from ...client.sending import with_id
from ...errors import QueueError
from ...logs import SessionLogger, get_logger
from ...messages import Message
from ...validation import check_queue_name
from .provider import get_provider

logger: SessionLogger = get_logger(__name__)


@overload
def send_on_commit(queue_name: str, message: Message, using: str | None = None, robust: bool = False) -> str: ...


@overload
def send_on_commit(
    queue_name: str, message: Iterable[Message], using: str | None = None, robust: bool = False
) -> list[str]: ...


def send_on_commit(
    queue_name: str, message: Message | Iterable[Message], using: str | None = None, robust: bool = False
) -> str | list[str]:
    """Send one message, or several in one request, when the open transaction is committed.

    If the transaction, or a savepoint around this call, is rolled back, nothing is sent. Without a transaction, the messages
    are sent at once. The messages of several calls are sent in the order of the calls. Sending comes after the commit: if the
    process dies between the two, the messages are not sent. The call itself makes no request while a transaction is open. The
    commit blocks until the messages are sent.

    Args:
        queue_name: The queue, or the name of a topic.
        message: A message with a ``session_id``, or several.
        using: The database of the transaction. By default the default database.
        robust: Only log a failure, like ``transaction.on_commit(..., robust=True)``. By default a failure is logged and
            raised from the commit, although the transaction *is* committed, and functions registered later do not run.

    Returns:
        The message's id, or a list of ids. They are known before the commit, so they can be stored in the transaction.

    Raises:
        ValidationError: The queue name is wrong, or a message is not a `Message` or has no ``session_id``. Raised by the
            call.
        ConfigurationError: The setting ``AZSESSION`` is wrong. Raised by the call.
        QueueError: The messages could not be sent. Raised by the commit, or by the call if there is no transaction.
    """
    check_queue_name(queue_name)
    get_provider()  # Reports a wrong setting while the transaction can still be rolled back.
    messages = [with_id(each) for each in ([message] if isinstance(message, Message) else message)]
    ids = [str(each.message_id) for each in messages]

    def send() -> None:
        _send(queue_name, messages)

    if messages:
        transaction.on_commit(send, using=using, robust=robust)
    return ids[0] if isinstance(message, Message) else ids


def _send(queue_name: str, messages: Sequence[Message]) -> None:
    try:
        get_provider().send_messages(queue_name, messages)
    except QueueError as error:
        unsent = messages[error.accepted :]
        ids = ", ".join(f"{message.message_id} of session {message.session_id!r}" for message in unsent)
        logger.error(
            "the transaction is committed, but these messages were not sent to %r: %s: %s",
            queue_name,
            ids,
            error,
            queue=queue_name,
        )
        raise
