"""The settings of a queue, as the brokers keep them and `ServiceBusProvider` passes them."""

from __future__ import annotations

import math
from typing import Any

import attrs

from .errors import ValidationError
from .validation import as_seconds, seconds


def _duration(lowest: float, highest: float) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is not None and not lowest <= seconds(value, field.name, highest=math.inf) <= highest:
            raise ValidationError(f"{field.name} is {lowest:g} to {highest:g} seconds, not {value!r}")

    return check


def _flag(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValidationError(f"{field.name} is true or false, not {value!r}")


@attrs.frozen(kw_only=True)
class QueueSettings:
    """What a queue does with its messages. The ranges are Azure Service Bus's.

    Args:
        lock_duration: Seconds (or a timedelta) that a session's lock lasts, 1 to 300.
        max_delivery_count: Deliveries after which a message that fails again is dead-lettered, 1 to 2000.
        default_time_to_live: Seconds that a message is kept which says nothing of it; `None` is for ever.
        dead_letter_on_expiration: Whether an expired message is dead-lettered, rather than dropped.
        requires_duplicate_detection: Whether a message id that was seen in the window is accepted, but not kept again.
        duplicate_detection_window: Seconds that message ids are remembered, 20 to 604800 (7 days).

    Raises:
        ValidationError: A value is out of its range.
    """

    lock_duration: float = attrs.field(default=60.0, converter=as_seconds, validator=_duration(1, 300))
    max_delivery_count: int = attrs.field(default=10)
    default_time_to_live: float | None = attrs.field(default=None, converter=as_seconds, validator=_duration(0.001, 1e12))
    dead_letter_on_expiration: bool = attrs.field(default=False, validator=_flag)
    requires_duplicate_detection: bool = attrs.field(default=False, validator=_flag)
    duplicate_detection_window: float = attrs.field(default=600.0, converter=as_seconds, validator=_duration(20, 604800))

    @max_delivery_count.validator
    def _check_count(self, _: Any, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2000:
            raise ValidationError(f"max_delivery_count is a whole number from 1 to 2000, not {value!r}")

    @lock_duration.validator
    def _check_lock_duration(self, _: Any, value: Any) -> None:
        if value is None:
            raise ValidationError("lock_duration is 1 to 300 seconds, not None")


@attrs.frozen
class QueueInfo:
    """A queue: its name, its settings, and how many messages it has, where that was asked for."""

    name: str
    settings: QueueSettings
    active_count: int | None = None
    dead_letter_count: int | None = None
