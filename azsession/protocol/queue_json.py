"""Durations in ISO 8601, and queues and their statistics as JSON of the protocol. Client and gateway use both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ValidationError
from ..queues import QueueInfo, QueueSettings, QueueStatistics
from ..validation import did_you_mean
from .dates import format_date
from .wire import MalformedError, parse_date

_DURATION = (
    r"P(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?\Z"
)
_UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}

#: The settings by their name in JSON. Durations are ISO 8601 text there. The names are those of Azure's management API.
_DURATIONS = {
    "LockDuration": "lock_duration",
    "DefaultMessageTimeToLive": "default_time_to_live",
    "DuplicateDetectionHistoryTimeWindow": "duplicate_detection_window",
}
_PLAIN = {
    "MaxDeliveryCount": "max_delivery_count",
    "DeadLetteringOnMessageExpiration": "dead_letter_on_expiration",
    "RequiresDuplicateDetection": "requires_duplicate_detection",
}
#: Settings that Azure's management API does not have. A server may not know them, so they are left out if they are false.
_ADDED = {"SessionsExpireTogether": "sessions_expire_together"}
_NAME, _ACTIVE, _DEAD = "QueueName", "MessageCount", "DeadLetterMessageCount"
#: The numbers of a queue by their name in JSON.
_COUNTS = {
    "ActiveMessageCount": "active_count",
    "ScheduledMessageCount": "scheduled_count",
    "DeferredMessageCount": "deferred_count",
    _DEAD: "dead_letter_count",
    "SessionCount": "session_count",
    "WaitingSessionCount": "waiting_session_count",
    "LockedSessionCount": "locked_session_count",
}
_OLDEST = "OldestEnqueuedTimeUtc"
#: Always true here: every queue has sessions.
_REQUIRES_SESSION = "RequiresSession"


def format_duration(seconds: float) -> str:
    """Return seconds as an ISO 8601 duration, for example ``PT30S`` or ``PT0.5S``."""
    return f"PT{seconds:.6f}".rstrip("0").rstrip(".") + "S"


def parse_duration(text: object, name: str) -> float:
    """Return the seconds of an ISO 8601 duration of days, hours, minutes and seconds. Errors call it `name`.

    Raises:
        ValidationError: It is not such a duration.
    """
    match = re.match(_DURATION, text) if isinstance(text, str) and len(text) < 64 else None
    parts = {} if match is None else {unit: value for unit, value in match.groupdict().items() if value is not None}
    if not parts:
        shown = repr(text[:80]) if isinstance(text, str) else type(text).__name__
        raise ValidationError(f"{name} must be a duration in ISO 8601, for example 'PT30S' or 'P1D', not {shown}")
    return sum(float(value) * _UNITS[unit] for unit, value in parts.items())


def encode_queue(settings: QueueSettings) -> dict[str, Any]:
    """Return the settings of a queue as a JSON object."""
    encoded: dict[str, Any] = {}
    for wire_name, name in _DURATIONS.items():
        value = getattr(settings, name)
        if value is not None:
            encoded[wire_name] = format_duration(value)
    for wire_name, name in _PLAIN.items():
        encoded[wire_name] = getattr(settings, name)
    for wire_name, name in _ADDED.items():
        if getattr(settings, name):
            encoded[wire_name] = True
    encoded[_REQUIRES_SESSION] = True
    return encoded


def decode_queue(data: Mapping[str, Any]) -> QueueSettings:
    """Return the settings of a queue from a JSON object. Settings that are missing or null have their default.

    Raises:
        ValidationError: A name is unknown, or a value has a wrong type or is out of its range.
    """
    if data.get(_REQUIRES_SESSION, True) is not True:
        raise ValidationError("RequiresSession must be true: every queue of azsession has sessions")
    values: dict[str, Any] = {}
    for wire_name, value in data.items():
        if value is None or wire_name in (_REQUIRES_SESSION, _NAME, _ACTIVE, _DEAD):
            continue
        if wire_name in _DURATIONS:
            values[_DURATIONS[wire_name]] = parse_duration(value, wire_name)
        elif wire_name in _PLAIN or wire_name in _ADDED:
            values[_PLAIN.get(wire_name) or _ADDED[wire_name]] = value
        else:
            raise ValidationError(f"a queue has no setting {did_you_mean(wire_name, [*_DURATIONS, *_PLAIN, *_ADDED])}")
    return QueueSettings(**values)


def encode_queue_info(queue: QueueInfo) -> dict[str, Any]:
    """Return a queue, its settings and the known counts, as a JSON object."""
    counts = {_ACTIVE: queue.active_count, _DEAD: queue.dead_letter_count}
    known = {name: count for name, count in counts.items() if count is not None}
    return {_NAME: queue.name, **encode_queue(queue.settings), **known}


def decode_queue_info(data: Mapping[str, Any]) -> QueueInfo:
    """Return the queue from a JSON object.

    Raises:
        ValidationError: The object does not describe a queue.
    """
    name, counts = data.get(_NAME), [data.get(_ACTIVE), data.get(_DEAD)]
    if not isinstance(name, str) or not all(count is None or isinstance(count, int) for count in counts):
        raise ValidationError("a queue needs a QueueName that is text, and counts that are whole numbers")
    return QueueInfo(name, decode_queue(data), *counts)


def encode_statistics(statistics: QueueStatistics) -> dict[str, Any]:
    """Return the known numbers of a queue as a JSON object."""
    counts = {wire_name: getattr(statistics, name) for wire_name, name in _COUNTS.items()}
    encoded = {_NAME: statistics.name, **{name: count for name, count in counts.items() if count is not None}}
    if statistics.oldest_enqueued_at is not None:
        encoded[_OLDEST] = format_date(statistics.oldest_enqueued_at)
    return encoded


def decode_statistics(data: Mapping[str, Any]) -> QueueStatistics:
    """Return the numbers of a queue from a JSON object.

    Raises:
        MalformedError: The object does not describe statistics.
    """
    name, oldest = data.get(_NAME), data.get(_OLDEST)
    counts = {attribute: data.get(wire_name) for wire_name, attribute in _COUNTS.items()}
    if not isinstance(name, str) or not all(count is None or type(count) is int for count in counts.values()):
        raise MalformedError("statistics need a QueueName that is text, and counts that are whole numbers")
    if not isinstance(oldest, (str, type(None))):
        raise MalformedError(f"{_OLDEST} must be a date")
    return QueueStatistics(name=name, **counts, oldest_enqueued_at=None if oldest is None else parse_date(oldest))
