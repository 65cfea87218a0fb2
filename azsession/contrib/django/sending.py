"""Messages that go with a transaction: sent when it is committed, and not at all when it is rolled back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import overload

from django.db import transaction

from ...client.provider import with_id
from ...errors import QueueError
from ...messages import Message
from ...validation import check_queue_name
from .provider import get_provider

logger: logging.Logger = logging.getLogger(__name__)


@overload
def send_on_commit(queue_name: str, message: Message, using: str | None = None, robust: bool = False) -> str: ...


@overload
def send_on_commit(
    queue_name: str, message: Iterable[Message], using: str | None = None, robust: bool = False
) -> list[str]: ...


def send_on_commit(
    queue_name: str, message: Message | Iterable[Message], using: str | None = None, robust: bool = False
) -> str | list[str]:
    """Send a message, or several in one request, once the transaction that is open now is committed.

    Where it, or a savepoint around this call, is rolled back, nothing is sent. Without a transaction it is sent at once. What
    is sent in several calls goes in their order. The commit comes first: where the process dies between the two, the message
    is not sent.

    Args:
        queue_name: The queue, or a topic's name.
        message: A message with a ``session_id``, or several.
        using: The database whose transaction it is; the default one by default.
        robust: Have a failure logged only, as Django's `on_commit` has it. By default it is logged and raised to whoever
            committed, although the transaction *is* committed; what was to be done on commit after it, is not done.

    Returns:
        The message's id, or their ids: they are given here, and can be kept in the transaction.

    Raises:
        ValidationError: What is sent is no message, or has no session_id. At once, as the next.
        ConfigurationError: The setting ``AZSESSION`` is wrong.
        QueueError: It could not be sent. Only then, if there is no transaction.
    """
    check_queue_name(queue_name)
    # A wrong setting shall be known while all can be rolled back.
    get_provider()
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
        lost = messages[getattr(error, "accepted", 0) :]
        ids = ", ".join(f"{message.message_id} of session {message.session_id!r}" for message in lost)
        logger.error("committed, but not sent to %r: %s: %s", queue_name, ids, error)
        raise
