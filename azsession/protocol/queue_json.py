"""Durations in ISO 8601, and the settings of a queue as the protocol's JSON has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ValidationError
from ..queues import QueueInfo, QueueSettings

_DURATION = re.compile(
    r"P(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?\Z"
)
_UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}

#: The wire's name of each setting, and ours. Durations are ISO 8601 text on the wire.
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
_NAME, _ACTIVE, _DEAD = "QueueName", "MessageCount", "DeadLetterMessageCount"
#: True in every queue of azsession, as it is for sessions in Azure: accepted, and answered.
_REQUIRES_SESSION = "RequiresSession"


def format_duration(seconds: float) -> str:
    """Return seconds in ISO 8601: ``PT30S``, ``PT0.5S``."""
    return f"PT{seconds:.6f}".rstrip("0").rstrip(".") + "S"


def parse_duration(text: object, what: str) -> float:
    """Return the seconds of an ISO 8601 duration of days, hours, minutes and seconds."""
    match = _DURATION.match(text) if isinstance(text, str) and len(text) < 64 else None
    parts = {} if match is None else {unit: value for unit, value in match.groupdict().items() if value is not None}
    if not parts:
        raise ValidationError(f"{what} is a duration in ISO 8601, such as 'PT30S' or 'P1D'")
    return sum(float(value) * _UNITS[unit] for unit, value in parts.items())


def encode_queue(settings: QueueSettings) -> dict[str, Any]:
    """Return a queue's settings as the protocol's JSON object."""
    encoded: dict[str, Any] = {}
    for wire_name, name in _DURATIONS.items():
        value = getattr(settings, name)
        if value is not None:
            encoded[wire_name] = format_duration(value)
    for wire_name, name in _PLAIN.items():
        encoded[wire_name] = getattr(settings, name)
    encoded[_REQUIRES_SESSION] = True
    return encoded


def decode_queue(data: Mapping[str, Any]) -> QueueSettings:
    """Return the settings that a JSON object describes; what is absent has its default.

    Raises:
        ValidationError: An unknown name, or a value out of its range.
    """
    if data.get(_REQUIRES_SESSION, True) is not True:
        raise ValidationError("RequiresSession is true for every queue here: azsession is for sessions")
    values: dict[str, Any] = {}
    for wire_name, value in data.items():
        if value is None or wire_name in (_REQUIRES_SESSION, _NAME, _ACTIVE, _DEAD):
            continue
        if wire_name in _DURATIONS:
            values[_DURATIONS[wire_name]] = parse_duration(value, wire_name)
        elif wire_name in _PLAIN:
            values[_PLAIN[wire_name]] = value
        else:
            known = ", ".join([*_DURATIONS, *_PLAIN])
            raise ValidationError(f"{wire_name[:60]!r} is no setting of a queue; these are: {known}")
    return QueueSettings(**values)


def encode_queue_info(queue: QueueInfo) -> dict[str, Any]:
    """Return a queue as the protocol shows it."""
    counts = {_ACTIVE: queue.active_count, _DEAD: queue.dead_letter_count}
    known = {name: count for name, count in counts.items() if count is not None}
    return {_NAME: queue.name, **encode_queue(queue.settings), **known}


def decode_queue_info(data: Mapping[str, Any]) -> QueueInfo:
    """Return the queue that the protocol's JSON object shows.

    Raises:
        ValidationError: It shows none.
    """
    name, counts = data.get(_NAME), [data.get(_ACTIVE), data.get(_DEAD)]
    if not isinstance(name, str) or not all(count is None or isinstance(count, int) for count in counts):
        raise ValidationError("a queue has a QueueName, and counts that are whole numbers")
    return QueueInfo(name, decode_queue(data), *counts)
