"""Settle a message and take the caller's next step in the same request. `settling` calls these functions.

The next step of a `messages` loop is a receive, and that of a processor can be the release of the session. If the request
fails, the next step was not taken, and the caller takes it itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..protocol.error_codes import SESSION_LOCK_LOST, not_settled
from . import combined_operations
from .fetched_ahead import batch_size
from .holder import Holder
from .settlement import Settlement


def next_count(holder: Holder, token: str) -> int:
    """Return how many messages to receive with the settlement of this message. 0: settle only.

    A receive must be the caller's next step: this thread runs a `messages` loop that yielded the message last, and no other
    message is unsettled or fetched ahead.
    """
    count = holder.lock.fetch_after(token)
    return batch_size(holder, count) if count and holder.combines else 0


def settle_and_receive(holder: Holder, token: str, settlement: Settlement, count: int) -> None:
    """Settle a message, and fetch up to `count` messages ahead, unless another thread does. Do not wait for them.

    Raises:
        InvalidReceiptError: The message could not be settled. Nothing was received.
    """
    lock = holder.lock
    running = lock.begin_receive(is_prompt=True)
    try:
        try:
            if lock.fetches.begin(running.turn) is None:
                _settle_and_receive(holder, token, settlement, count)
            else:
                holder.transport.send(settlement.call(holder.target(), token))
        finally:
            lock.fetches.end(running.turn)
    except BaseException:
        lock.undo_receive(running)
        raise


def _settle_and_receive(holder: Holder, token: str, settlement: Settlement, count: int) -> None:
    lock, lasts = holder.lock, holder.options.session_timeout
    # If the answer is lost, the next receive has the same id, and gets the same messages.
    request_id, _ = lock.request_id()
    call = combined_operations.settle_and_receive(holder.target(), settlement.dispositions(token), count, lasts, request_id)
    failed, grant = holder.transport.send(call)
    if grant is None:
        lock.forget_request(request_id)
        _check(failed, token)
        return
    lock.register(grant.messages, request_id)
    lock.put_ahead(grant.messages)
    holder.refresh(grant)


def settle_and_release(holder: Holder, token: str, settlement: Settlement) -> None:
    """Settle a message and release the session's lock. The lock is renewed until the server answers.

    Raises:
        InvalidReceiptError: The message could not be settled. The lock is released nevertheless.
    """
    # First: a renewal that is refused can have come after the release.
    holder.is_releasing = True
    holder.stop_waiting()
    call = combined_operations.settle_and_release(holder.target(), settlement.dispositions(token))
    failed = holder.transport.send(call)
    holder.released()
    holder.is_releasing = failed.get(token) != SESSION_LOCK_LOST
    _check(failed, token)


def _check(failed: Mapping[str, str], token: str) -> None:
    code = failed.get(token)
    if code is not None:
        raise not_settled(code)
