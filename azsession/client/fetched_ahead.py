"""Messages that a client has fetched ahead: they are handed out, or given back. `receiving` and `settling` call it.

Fetching ahead saves requests, and changes nothing else. The server counts the delivery of such a message when its holder uses
it. The server knows that the holder uses the first message when those before it are settled. Otherwise the client says so.
Messages that are given back keep their delivery counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from .. import interrupts
from ..errors import InvalidReceiptError
from ..messages import ReceivedMessage
from ..protocol.error_codes import SESSION_LOCK_LOST
from ..validation import MAX_BATCH
from . import operations
from .holder import Holder
from .redacted import Redacted


def batch_size(holder: Holder, prefetch: int) -> int:
    """Return how many messages to fetch in one request: one, if the server would count the messages fetched ahead."""
    return prefetch if holder.transport.fetches_ahead else 1


def take(holder: Holder, count: int) -> list[ReceivedMessage]:
    """Return up to `count` messages that were fetched ahead. The caller uses them. None are left if one has expired."""
    lock = holder.lock
    if has_expired(lock.first_ahead):
        # The server must decide: it would not have delivered the message now.
        give_back(holder)
        return []
    messages, others_in_use = lock.take_ahead(count)
    if not messages or not holder.transport.fetches_ahead or (len(messages) == 1 and not others_in_use):
        return messages
    try:
        failed = settle_many(holder, {"take": _tokens(messages)})
    except BaseException:
        lock.put_ahead(messages)
        raise
    if failed:
        for token in failed:
            lock.forget(token)
        if SESSION_LOCK_LOST in failed.values():
            holder.found_lost(SESSION_LOCK_LOST)
        holder.check()
    return [message for message in messages if message.receipt.handle not in failed]


def has_expired(message: ReceivedMessage | None) -> bool:
    """Return whether a message's time to live has ended, by the clock of this machine."""
    expires_at = None if message is None else message.expires_at
    return expires_at is not None and expires_at <= datetime.now(timezone.utc)


def give_back(holder: Holder, *, abandoned: str | None = None) -> str | None:
    """Give back all messages that were fetched ahead. They come again in order, and count no delivery.

    Args:
        holder: The session's holder.
        abandoned: The lock token of a message to abandon with them, in the same request if there is a message to give back.

    Returns:
        The error code of the abandoned message, or `None` if it was abandoned.
    """
    messages: list[ReceivedMessage] = []
    abandon = [] if abandoned is None else [abandoned]
    try:
        holder.lock.take_all_ahead(messages)
        failed = _release(holder, messages, abandon)
    except BaseException:
        holder.lock.put_ahead(messages)
        raise
    return None if abandoned is None else failed.get(abandoned)


def _release(holder: Holder, messages: list[ReceivedMessage], abandon: Sequence[str]) -> dict[str, str]:
    """Release messages, and abandon those with the tokens in `abandon`. Return the error codes of the last request.

    `messages` keeps the messages that are not known to be released. This is a function of its own because of its loops, see
    `interrupts`.
    """
    while len(messages) + len(abandon) > MAX_BATCH:
        # The last ones first, so that none overtakes another.
        settle_many(holder, {"release": _tokens(messages[-MAX_BATCH:])})
        del messages[-MAX_BATCH:]
    dispositions = {"release": _tokens(messages), "abandon": abandon}
    wanted = {name: tokens for name, tokens in dispositions.items() if tokens}
    return settle_many(holder, wanted) if wanted else {}


def _tokens(messages: Sequence[ReceivedMessage]) -> list[str]:
    return [Redacted(message.receipt.handle) for message in messages]


def settle_many(holder: Holder, dispositions: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Settle messages in one request. Return the error codes of those that failed, by lock token."""
    try:
        failed = holder.transport.send(operations.settle(holder.target(), dispositions))
    except InvalidReceiptError as error:
        if error.code == SESSION_LOCK_LOST and not interrupts.raised_by_handler(error):
            holder.found_lost(error.code)
        raise
    for name, tokens in dispositions.items():
        for token in tokens if name != "take" else ():
            holder.lock.forget(token)
    return failed
