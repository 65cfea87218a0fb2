"""The settings of a `SessionProcessor`, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import attrs

from ..client.session import SessionClient
from ..errors import ValidationError
from ..messages import ReceivedMessage
from ..validation import check_count, check_queue_name, check_session_id, seconds

#: What is called for each message; what it returns is not looked at.
Handler = Callable[[ReceivedMessage, SessionClient], object]
#: What is called with an error, and with the session and the message that it is about, where it is about one.
OnError = Callable[[BaseException, "SessionClient | None", "ReceivedMessage | None"], object]
#: What is called with a session.
OnSession = Callable[[SessionClient], object]

#: Slots at the most.
MAX_SLOTS = 1000


def _callable(value: Any, what: str) -> Any:
    if not callable(value):
        raise ValidationError(f"{what} is something to call, not {type(value).__name__}")
    return value


def _session_ids(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValidationError("session_ids is a list of session ids, not one text")
    ids = tuple(dict.fromkeys(check_session_id(each) for each in value))
    if not ids:
        raise ValidationError("session_ids names no session; None takes whatever has messages")
    return ids


@attrs.frozen(kw_only=True, eq=False)
class ProcessorOptions:
    """What a processor was told; see `SessionProcessor`."""

    queue_name: str
    handler: Handler
    max_concurrent_sessions: int
    session_ids: tuple[str, ...] | None
    max_messages_per_session: int | None
    session_idle_timeout: float
    prefetch: int
    on_error: OnError | None
    max_renewal: float | None
    on_session_opened: OnSession | None
    on_session_closed: OnSession | None
    grace_period: float


def check_options(
    queue_name: str,
    handler: Handler,
    max_concurrent_sessions: int,
    session_ids: Iterable[str] | None,
    max_messages_per_session: int | None,
    session_idle_timeout: float | timedelta,
    prefetch: int,
    max_renewal: float | timedelta | None,
    grace_period: float | timedelta,
    **hooks: Any,
) -> ProcessorOptions:
    """Return settings that are right.

    Raises:
        ValidationError: One is not; says which.
    """
    most = max_messages_per_session
    return ProcessorOptions(
        queue_name=check_queue_name(queue_name),
        handler=_callable(handler, "handler"),
        max_concurrent_sessions=check_count(max_concurrent_sessions, "max_concurrent_sessions", MAX_SLOTS),
        session_ids=None if session_ids is None else _session_ids(session_ids),
        max_messages_per_session=None if most is None else check_count(most, "max_messages_per_session", 2**40),
        session_idle_timeout=seconds(session_idle_timeout, "session_idle_timeout"),
        prefetch=check_count(prefetch, "prefetch"),
        max_renewal=None if max_renewal is None else seconds(max_renewal, "max_renewal"),
        grace_period=seconds(grace_period, "grace_period"),
        **{name: None if hook is None else _callable(hook, name) for name, hook in hooks.items()},
    )
