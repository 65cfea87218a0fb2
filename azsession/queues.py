"""The settings of a queue, its description, and its statistics.

`ServiceBusProvider` and the command line create queues with settings; the brokers store them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from .display import html_table, short_repr
from .errors import ValidationError
from .validation import as_optional_seconds, as_seconds, check_count, check_flag, did_you_mean, seconds, shown

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _duration(lowest: float, highest: float) -> Callable[[object, attrs.Attribute[Any], float], None]:
    def check(_: object, field: attrs.Attribute[Any], value: float) -> None:
        if value is None or not lowest <= seconds(value, field.name, highest=math.inf) <= highest:
            raise ValidationError(f"{field.name} must be {lowest:g} to {highest:g} seconds, not {shown(value)}")

    return check


def _flag(_: object, field: attrs.Attribute[Any], value: bool) -> None:
    check_flag(value, field.name)


def _delivery_count(_: object, field: attrs.Attribute[Any], value: int) -> None:
    check_count(value, field.name, 2000)


class QueueFields(TypedDict, total=False):
    """The fields of `QueueSettings`, as keyword arguments."""

    lock_duration: float | timedelta
    max_delivery_count: int
    default_time_to_live: float | timedelta | None
    dead_letter_on_expiration: bool
    requires_duplicate_detection: bool
    duplicate_detection_window: float | timedelta
    sessions_expire_together: bool


@attrs.frozen(kw_only=True, init=False)
class QueueSettings:
    """The settings of a queue. The ranges are those of Azure Service Bus.

    A duration is a number of seconds or a timedelta. The attribute is always seconds.

    Args:
        lock_duration: How long a session's lock lasts, 1 to 300 seconds.
        max_delivery_count: The number of deliveries, 1 to 2000, after which an unsettled message is dead-lettered.
        default_time_to_live: How long a message is kept that has no time to live of its own, 0.001 to 1e12 seconds.
            `None`: forever.
        dead_letter_on_expiration: Dead-letter an expired message. False: delete it.
        requires_duplicate_detection: Accept but do not store a message whose id was seen within the window.
        duplicate_detection_window: How long message ids are remembered, 20 to 604800 seconds (7 days).
        sessions_expire_together: Let messages expire as in Azure Service Bus: only when a client receives from their
            session, and all active messages of the session together as soon as one of them has expired. False: each message
            expires by itself, at its time.

    Raises:
        ValidationError: A setting is unknown, or a value has a wrong type or is out of its range.

    Example:
        >>> from datetime import timedelta
        >>> from azsession import QueueSettings
        >>> QueueSettings(lock_duration=timedelta(minutes=2), max_delivery_count=5).lock_duration
        120.0
    """

    lock_duration: float = attrs.field(default=60.0, converter=as_seconds, validator=_duration(1, 300))
    max_delivery_count: int = attrs.field(default=10, validator=_delivery_count)
    default_time_to_live: float | None = attrs.field(
        default=None, converter=as_optional_seconds, validator=attrs.validators.optional(_duration(0.001, 1e12))
    )
    dead_letter_on_expiration: bool = attrs.field(default=False, validator=_flag)
    requires_duplicate_detection: bool = attrs.field(default=False, validator=_flag)
    duplicate_detection_window: float = attrs.field(default=600.0, converter=as_seconds, validator=_duration(20, 604800))
    sessions_expire_together: bool = attrs.field(default=False, validator=_flag)

    __repr__ = short_repr
    _repr_html_ = html_table

    def __init__(self, **fields: Unpack[QueueFields]) -> None:
        for name in fields:
            if name not in QueueFields.__annotations__:
                raise ValidationError(f"there is no queue setting {did_you_mean(name, QueueFields.__annotations__)}")
        self.__attrs_init__(**fields)


@attrs.frozen
class QueueInfo:
    """A queue that exists.

    Attributes:
        name: The queue's name.
        settings: The queue's settings.
        active_count: The number of active messages, or `None` if it was not asked for.
        dead_letter_count: The number of dead letters, or `None` if it was not asked for.
    """

    name: str
    settings: QueueSettings
    active_count: int | None = None
    dead_letter_count: int | None = None

    __repr__ = short_repr
    _repr_html_ = html_table


@attrs.frozen(kw_only=True)
class QueueStatistics:
    """The numbers of messages and sessions of a queue at one moment, from `ServiceBusProvider.queue_statistics`.

    `None` stands for a number that the server does not know. Azure tells the number of sessions alone.

    Attributes:
        name: The queue's name.
        active_count: Active messages, including those that a holder has received and not settled.
        scheduled_count: Messages that become available later.
        deferred_count: Messages that were deferred.
        dead_letter_count: Dead letters.
        session_count: Sessions with active messages. Each needs a holder, so this number says how many consumers are needed.
        waiting_session_count: Those of them that nobody holds, and that no delay holds back.
        locked_session_count: Sessions that a client holds, with and without messages. On Azure: those that clients of this
            gateway or process hold.
        oldest_enqueued_at: When the oldest active message was enqueued (timezone-aware, UTC). `None` also if there is none.
    """

    name: str
    active_count: int | None = None
    scheduled_count: int | None = None
    deferred_count: int | None = None
    dead_letter_count: int | None = None
    session_count: int | None = None
    waiting_session_count: int | None = None
    locked_session_count: int | None = None
    oldest_enqueued_at: datetime | None = None

    __repr__ = short_repr
    _repr_html_ = html_table
