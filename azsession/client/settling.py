"""How a session client settles messages. `SessionClient` calls these functions with its holder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from .. import interrupts
from ..errors import InvalidReceiptError
from ..logs import SessionLogger, get_logger
from ..messages import ReceiptHandle, ReceivedMessage
from ..protocol.error_codes import CONFLICT, SESSION_LOCK_LOST, not_settled
from ..telemetry import Operation
from ..validation import MAX_BATCH, MAX_REASON_LENGTH, as_list, check_text, seconds
from . import background, combining, operations
from .call import Call, SessionTarget
from .fetched_ahead import give_back, settle_many
from .holder import Holder
from .receiving import receive_plain
from .redacted import Redacted
from .settlement import COMPLETE, DEFER, Settlement, dead_lettering

logger: SessionLogger = get_logger(__name__)

#: Identifies a message to settle: the message, its receipt, or the text of its receipt.
Receipt = ReceivedMessage | ReceiptHandle | str


def settle(holder: Holder, receipt: Receipt, settlement: Settlement = COMPLETE) -> None:
    """Settle one message. In a `messages` loop, this can fetch the next messages ahead in the same request."""
    with _operation(holder, settlement.name, receipt):
        holder.check(settling=True)
        token = holder.lock.resolve(receipt)
        count = combining.next_count(holder, token)
        if count:
            _settled(holder, token, lambda: combining.settle_and_receive(holder, token, settlement, count))
        else:
            _settle_token(holder, token, settlement.call)


def settle_and_close(holder: Holder, receipt: Receipt, settlement: Settlement = COMPLETE) -> None:
    """Settle one message and close the session, in one request if the server can. The session is closed in any case.

    Raises:
        QueueError: The same errors as `settle`.
    """
    try:
        with _operation(holder, settlement.name, receipt):
            holder.check(settling=True)
            token = holder.lock.resolve(receipt)
            if holder.combines:
                _settled(holder, token, lambda: combining.settle_and_release(holder, token, settlement))
            else:
                _settle_token(holder, token, settlement.call)
    finally:
        holder.close()


def _operation(holder: Holder, name: str, receipt: Receipt) -> Operation:
    return holder.telemetry.settle(name, holder.queue_name, holder.session_id, [receipt])


def abandon(holder: Holder, receipt: Receipt, delay: float | timedelta | None = None) -> None:
    """Abandon one message, for later if there is a delay, and give back the messages that were fetched ahead.

    Otherwise they would overtake the abandoned message.
    """
    later = 0.0 if delay is None else seconds(delay, "delay")
    with _operation(holder, "abandon", receipt):
        _abandon(holder, receipt, later)


def _abandon(holder: Holder, receipt: Receipt, later: float) -> None:
    holder.check(settling=True)
    token = holder.lock.resolve(receipt)
    if later:
        holder.transport.require_v1("delay an abandoned message")
    if not holder.transport.fetches_ahead:
        _abandon_ahead(holder)
    elif later:
        give_back(holder)
    elif holder.lock.ahead_count:
        code = give_back(holder, abandoned=token)
        if code == SESSION_LOCK_LOST:
            holder.found_lost(code)
        if code is not None:
            raise not_settled(code)
        return
    _settle_token(holder, token, lambda target, each: operations.abandon(target, each, later))


def _abandon_ahead(holder: Holder) -> None:
    """Abandon the messages that were fetched ahead, the last one first, on a server that can only abandon."""
    ahead: list[ReceivedMessage] = []
    try:
        holder.lock.take_all_ahead(ahead)
        _abandon_last_first(holder, ahead)
    except BaseException:
        holder.lock.put_ahead(ahead)
        raise


def _abandon_last_first(holder: Holder, ahead: list[ReceivedMessage]) -> None:
    # A function of its own because of its loop, see `interrupts`.
    while ahead:
        _settle_token(holder, Redacted(ahead[-1].receipt.handle), operations.abandon)
        ahead.pop()


def defer(holder: Holder, receipt: Receipt) -> None:
    """Defer one message."""
    holder.check(settling=True)
    holder.lock.resolve(receipt)
    holder.transport.require_v1("defer a message")
    settle(holder, receipt, DEFER)


def dead_letter(holder: Holder, receipt: Receipt, reason: str, description: str | None) -> None:
    """Dead-letter one message."""
    _check_reason(reason, description)
    settle(holder, receipt, dead_lettering(reason, description))
    number = receipt.sequence_number if isinstance(receipt, ReceivedMessage) else None
    logger.info("dead-lettered a message of %s: %s", holder.lock.name, reason, sequence_number=number, **holder.about)


def complete_many(holder: Holder, receipts: Iterable[Receipt]) -> None:
    """Complete messages, `MAX_BATCH` in one request."""
    each = as_list(receipts, "receipts")
    if each:
        with holder.telemetry.settle("complete", holder.queue_name, holder.session_id, each, is_batch=True):
            _complete_many(holder, each)
    else:
        holder.check(settling=True)


def _complete_many(holder: Holder, receipts: Sequence[Receipt]) -> None:
    holder.check(settling=True)
    tokens = [holder.lock.resolve(receipt) for receipt in receipts]
    if not holder.transport.speaks_v1:
        for token in tokens:
            _settle_token(holder, token, operations.complete)
        return
    failed: dict[str, str] = {}
    for start in range(0, len(tokens), MAX_BATCH):
        failed.update(settle_many(holder, {"complete": tokens[start : start + MAX_BATCH]}))
    if failed:
        if SESSION_LOCK_LOST in failed.values():
            holder.found_lost(SESSION_LOCK_LOST)
        raise InvalidReceiptError(
            f"{len(failed)} of {len(tokens)} messages could not be completed: their lock is lost, or they are settled",
            code=next(iter(failed.values())),
        )


def complete_together(holder: Holder, messages: Sequence[ReceivedMessage]) -> dict[str, str]:
    """Complete up to `MAX_BATCH` messages in one request. The server must speak version 1 of the protocol.

    Returns:
        The error codes of the messages that could not be completed, by lock token.

    Raises:
        InvalidReceiptError: The only message could not be completed, or one of the messages was settled here before.
    """
    is_batch = len(messages) > 1
    with holder.telemetry.settle("complete", holder.queue_name, holder.session_id, messages, is_batch=is_batch):
        holder.check(settling=True)
        tokens = [holder.lock.resolve(message) for message in messages]
        if not is_batch:
            _settle_token(holder, tokens[0], operations.complete)
            return {}
        failed = settle_many(holder, {"complete": tokens})
        if SESSION_LOCK_LOST in failed.values():
            holder.found_lost(SESSION_LOCK_LOST)
        return failed


def dead_letter_session(holder: Holder, reason: str, description: str | None) -> int:
    """Dead-letter all messages of the session. Return how many there were."""
    _check_reason(reason, description)
    with holder.telemetry.settle("dead_letter", holder.queue_name, holder.session_id, [], is_batch=True) as operation:
        count = _dead_letter_session(holder, reason, description)
        operation.count(count)
    logger.info("dead-lettered %d messages of %s: %s", count, holder.lock.name, reason, **holder.about)
    return count


def _dead_letter_session(holder: Holder, reason: str, description: str | None) -> int:
    background.finish(holder.lock.background)
    holder.check()
    ahead: list[ReceivedMessage] = []
    try:
        holder.lock.take_all_ahead(ahead)
        if not holder.transport.speaks_v1:
            return _dead_letter_session_plain(holder, reason, description)
        holder.require_lock("dead-letter a session")
        # Read the tokens before the request: a message that another thread receives after it is not dead-lettered.
        tokens = holder.lock.tokens()
        count = holder.send(operations.dead_letter_session(holder.target(), reason, description))
    except BaseException:
        holder.lock.put_ahead(ahead)
        raise
    for token in tokens:
        holder.lock.forget(token)
    return count


def _dead_letter_session_plain(holder: Holder, reason: str, description: str | None) -> int:
    count, dead_letter = 0, dead_lettering(reason, description)
    while True:
        for token in holder.lock.tokens():
            _settle_token(holder, token, dead_letter.call)
            count += 1
        if not receive_plain(holder, 0.0):
            return count


def _check_reason(reason: str, description: str | None) -> None:
    check_text(reason, "a dead-letter reason", MAX_REASON_LENGTH)
    if description is not None:
        check_text(description, "a dead-letter description", MAX_REASON_LENGTH)


def _settle_token(holder: Holder, token: str, settle: Callable[[SessionTarget, str], Call[None]]) -> None:
    _settled(holder, token, lambda: holder.transport.send(settle(holder.target(), token)))


def _settled(holder: Holder, token: str, send: Callable[[], None]) -> None:
    """Send a request that settles a message, and forget its receipt."""
    try:
        send()
    except InvalidReceiptError as error:
        if interrupts.raised_by_handler(error):
            raise
        holder.lock.forget(token)
        if error.code == SESSION_LOCK_LOST:
            holder.found_lost(error.code)
        elif error.code != CONFLICT and not holder.transport.speaks_v1:
            # A plain server does not remember settlements. This can be its answer to a retry of ours.
            raise InvalidReceiptError(
                f"{error} (the message may have been settled by an earlier attempt whose answer was lost)", code=error.code
            ) from error
        raise
    holder.lock.forget(token)
