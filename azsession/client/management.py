"""How a provider lists sessions, peeks at messages, and manages dead letters and queues. Called by `ServiceBusProvider`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..errors import ProviderError, QueueError, ValidationError, revised
from ..messages import PeekedMessage, SessionInfo
from ..protocol.error_codes import MESSAGE_NOT_FOUND
from ..queues import QueueInfo, QueueSettings, QueueStatistics
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, as_list, check_count, check_queue_name, check_session_id
from . import operations, queue_operations, schedule_operations
from .call import Call
from .provider_core import ProviderCore

_MANAGE_QUEUES = "manage queues"


def list_sessions(core: ProviderCore, queue_name: str) -> list[SessionInfo]:
    """Return the sessions of a queue that have messages or a state, by id. Fetch them page by page."""
    check_queue_name(queue_name)
    return list({session.session_id: session for session in each_session(core, queue_name)}.values())


def each_session(core: ProviderCore, queue_name: str) -> Iterator[SessionInfo]:
    """Yield the sessions of a queue that have messages or a state, by id. Keeps one page of them in memory."""
    after: str | None = None
    while True:
        page = core.send(operations.list_sessions(queue_name, after, MAX_BATCH), "list sessions")
        yield from page
        if len(page) < MAX_BATCH:
            return
        last = page[-1].session_id
        if last == after:
            raise ProviderError(f"{core.transport.url} lists the same sessions again and again")
        after = last


def peek_messages(
    core: ProviderCore, queue_name: str, session_id: str | None, max_message_count: int, from_sequence_number: int
) -> list[PeekedMessage]:
    """Return messages of a session, or of all sessions, without receiving them."""
    check_queue_name(queue_name)
    if session_id is not None:
        check_session_id(session_id)
    _check_range(max_message_count, from_sequence_number)
    call = operations.peek(queue_name, session_id, from_sequence_number, max_message_count)
    with core.telemetry.receive("peek", queue_name, session_id, is_batch=True) as operation:
        messages = core.send(call, "peek at messages")
        operation.messages(messages)
    return messages


def dead_letters(
    core: ProviderCore, queue_name: str, max_message_count: int, from_sequence_number: int, session_id: str | None = None
) -> list[PeekedMessage]:
    """Return dead letters of a queue, or of one session."""
    check_queue_name(queue_name)
    if session_id is not None:
        check_session_id(session_id)
    _check_range(max_message_count, from_sequence_number)
    call = operations.dead_letters(queue_name, from_sequence_number, max_message_count, session_id)
    return core.send(call, "look at dead letters")


def _check_range(max_message_count: int, from_sequence_number: int) -> None:
    check_count(max_message_count, "max_message_count")
    check_count(from_sequence_number, "from_sequence_number", MAX_SEQUENCE_NUMBER, lowest=0)


def resubmit(core: ProviderCore, queue_name: str, sequence_number: int) -> None:
    """Send a dead letter again."""
    _on_dead_letter(core, operations.resubmit, queue_name, sequence_number)


def resubmit_session(core: ProviderCore, queue_name: str, session_id: str) -> int:
    """Send the dead letters of a session again, in their order. Return how many."""
    check_session_id(session_id)
    numbers: list[int] = []
    # List them first: a resubmitted message may be dead-lettered again while this runs.
    while page := dead_letters(core, queue_name, MAX_BATCH, numbers[-1] + 1 if numbers else 0, session_id):
        numbers += [message.sequence_number for message in page]
    count = 0
    try:
        for number in numbers:
            count += _resubmit_if_there(core, queue_name, number)
    except QueueError as error:
        text = f"{error} ({count} of {len(numbers)} dead letters of session {session_id!r} were resubmitted before)"
        raise revised(error, text, accepted=count) from error.__cause__
    return count


def _resubmit_if_there(core: ProviderCore, queue_name: str, sequence_number: int) -> bool:
    """Send a dead letter again, unless another process handled it first. Return whether it was there."""
    try:
        resubmit(core, queue_name, sequence_number)
    except QueueError as error:
        if error.code != MESSAGE_NOT_FOUND:
            raise
        return False
    return True


def delete_dead_letter(core: ProviderCore, queue_name: str, sequence_number: int) -> None:
    """Delete a dead letter."""
    _on_dead_letter(core, operations.delete_dead_letter, queue_name, sequence_number)


def _on_dead_letter(
    core: ProviderCore, operation: Callable[[str, int], Call[None]], queue_name: str, sequence_number: int
) -> None:
    check_queue_name(queue_name)
    check_count(sequence_number, "sequence_number", MAX_SEQUENCE_NUMBER)
    core.send(operation(queue_name, sequence_number), "manage dead letters")


def cancel_scheduled_messages(core: ProviderCore, queue_name: str, sequence_numbers: Iterable[int]) -> None:
    """Cancel scheduled messages, `MAX_BATCH` in one request."""
    check_queue_name(queue_name)
    given = as_list(sequence_numbers, "sequence_numbers")
    # A number that is given twice would be missing the second time.
    numbers = list(dict.fromkeys(check_count(number, "a sequence number", MAX_SEQUENCE_NUMBER) for number in given))
    for start in range(0, len(numbers), MAX_BATCH):
        call = schedule_operations.cancel_scheduled(queue_name, numbers[start : start + MAX_BATCH])
        core.send(call, "cancel scheduled messages")


def purge(core: ProviderCore, queue_name: str, session_id: str | None) -> int:
    """Delete the messages of a session, or of a queue. Return their number."""
    check_queue_name(queue_name)
    if session_id is not None:
        check_session_id(session_id)
    return core.send(schedule_operations.purge(queue_name, session_id), "purge")


def create_queue(core: ProviderCore, queue_name: str, settings: QueueSettings | None) -> bool:
    """Create a queue. Return whether it is new."""
    check_queue_name(queue_name)
    if settings is not None and not isinstance(settings, QueueSettings):
        raise ValidationError(f"settings must be QueueSettings, not {type(settings).__name__}")
    return core.send(queue_operations.create_queue(queue_name, settings or QueueSettings()), _MANAGE_QUEUES)


def get_queue(core: ProviderCore, queue_name: str) -> QueueInfo:
    """Return a queue with its settings and counts."""
    check_queue_name(queue_name)
    return core.send(queue_operations.get_queue(queue_name), _MANAGE_QUEUES)


def queue_statistics(core: ProviderCore, queue_name: str) -> QueueStatistics:
    """Return the numbers of messages and sessions of a queue."""
    check_queue_name(queue_name)
    return core.send(queue_operations.queue_statistics(queue_name), "count messages and sessions")


def list_queues(core: ProviderCore) -> list[QueueInfo]:
    """Return all queues, by name."""
    return core.send(queue_operations.list_queues(), _MANAGE_QUEUES)


def delete_queue(core: ProviderCore, queue_name: str) -> None:
    """Delete a queue."""
    check_queue_name(queue_name)
    core.send(queue_operations.delete_queue(queue_name), _MANAGE_QUEUES)
