"""The checked options of a `SessionProcessor` and of a Celery session task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypedDict, TypeVar

import attrs

from ..client.session import SessionClient
from ..errors import ValidationError
from ..messages import ReceivedMessage
from ..validation import MAX_BATCH, as_list, check_count, check_flag, check_queue_name, check_session_id, seconds

#: Called for each message. Its return value is ignored.
Handler = Callable[[ReceivedMessage, SessionClient], object]
#: Called with an error, and with the session and the message that it concerns; `None` if it concerns none.
OnError = Callable[[BaseException, "SessionClient | None", "ReceivedMessage | None"], object]
#: Called with a session.
OnSession = Callable[[SessionClient], object]

#: Largest number of sessions that one processor handles at once.
MAX_SLOTS = 1000
#: Largest value of `max_messages_per_session`.
MAX_SHARE = 2**40

_Function = TypeVar("_Function", bound="Callable[..., object]")


def _check_callable(value: _Function, name: str) -> _Function:
    if not callable(value):
        raise ValidationError(f"{name} must be callable, not {type(value).__name__}")
    return value


def _handler(value: Handler) -> Handler:
    return _check_callable(value, "handler")


def _on_error(value: OnError | None) -> OnError | None:
    return None if value is None else _check_callable(value, "on_error")


def _on_session_opened(value: OnSession | None) -> OnSession | None:
    return None if value is None else _check_callable(value, "on_session_opened")


def _on_session_closed(value: OnSession | None) -> OnSession | None:
    return None if value is None else _check_callable(value, "on_session_closed")


def _slots(value: int) -> int:
    return check_count(value, "max_concurrent_sessions", MAX_SLOTS)


def _session_ids(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    ids = tuple(dict.fromkeys(check_session_id(each) for each in as_list(value, "session_ids")))
    if not ids:
        raise ValidationError("session_ids is empty: name at least one session, or use None for all sessions")
    return ids


def _share(value: int | None) -> int | None:
    return None if value is None else check_count(value, "max_messages_per_session", MAX_SHARE)


def _idle_timeout(value: float | timedelta) -> float:
    return seconds(value, "session_idle_timeout")


def _prefetch(value: int) -> int:
    return check_count(value, "prefetch")


def _settle_in_background(value: int | None) -> int:
    return 0 if value is None else check_count(value, "settle_in_background", MAX_BATCH, lowest=0)


def _max_renewal(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "max_renewal")


def _until_empty(value: bool) -> bool:
    return check_flag(value, "until_empty")


def _grace_period(value: float | timedelta) -> float:
    return seconds(value, "grace_period")


class ProcessorArguments(TypedDict, total=False):
    """The keyword arguments of `SessionProcessor`, for functions that pass them on."""

    max_concurrent_sessions: int
    session_ids: Iterable[str] | None
    max_messages_per_session: int | None
    session_idle_timeout: float | timedelta
    prefetch: int
    on_error: OnError | None
    max_renewal: float | timedelta | None
    on_session_opened: OnSession | None
    on_session_closed: OnSession | None
    grace_period: float | timedelta
    until_empty: bool
    settle_in_background: int | None


@attrs.frozen(kw_only=True, eq=False)
class ProcessorOptions:
    """The options of a processor. `SessionProcessor` describes each of them. All durations are in seconds.

    Raises:
        ValidationError: An option is out of range; the error names it.
    """

    queue_name: str = attrs.field(converter=check_queue_name)
    handler: Handler = attrs.field(converter=_handler)
    max_concurrent_sessions: int = attrs.field(default=8, converter=_slots)
    session_ids: tuple[str, ...] | None = attrs.field(default=None, converter=_session_ids)
    max_messages_per_session: int | None = attrs.field(default=None, converter=_share)
    session_idle_timeout: float = attrs.field(default=0.0, converter=_idle_timeout)
    prefetch: int = attrs.field(default=10, converter=_prefetch)
    on_error: OnError | None = attrs.field(default=None, converter=_on_error)
    max_renewal: float | None = attrs.field(default=None, converter=_max_renewal)
    on_session_opened: OnSession | None = attrs.field(default=None, converter=_on_session_opened)
    on_session_closed: OnSession | None = attrs.field(default=None, converter=_on_session_closed)
    grace_period: float = attrs.field(default=30.0, converter=_grace_period)
    until_empty: bool = attrs.field(default=False, converter=_until_empty)
    settle_in_background: int = attrs.field(default=0, converter=_settle_in_background)

    def batch(self, used: int = 0) -> int:
        """Return how many messages to fetch in one request from a session of which `used` were handled in its turn."""
        share = self.max_messages_per_session
        return self.prefetch if share is None else min(self.prefetch, share - used)
