"""Checks of names, ids, durations and attributes, in one place so that client, gateway and brokers apply the same rules.

The client checks its caller's arguments with these functions. The gateway and the brokers check received values. Each
function returns the valid value or raises `ValidationError`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import TypeVar
from uuid import UUID

from .errors import ValidationError
from .forks import import_lock

# Quotas of Azure Service Bus: https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
#: The most characters in a session id.
MAX_SESSION_ID_LENGTH = 128
#: The most characters in a message id.
MAX_MESSAGE_ID_LENGTH = 128
#: The most characters in the path of a queue or subscription.
MAX_QUEUE_NAME_LENGTH = 260
#: The most characters in a dead-letter reason or description.
MAX_REASON_LENGTH = 4096
#: The most characters in the name of a host (RFC 1035, 2.3.4).
MAX_HOST_NAME_LENGTH = 253
#: The highest sequence number (64 bits; partitioned entities use the first 16 bits for the partition).
MAX_SEQUENCE_NUMBER = 2**63 - 1

#: The most messages in one request to receive, settle or send.
MAX_BATCH = 1000
#: The longest timeout in seconds, about thirty years. The clocks and locks of the operating system can still count it.
MAX_SECONDS = 1e9
#: The most characters in a lock token. The gateway's own lock tokens are GUIDs.
MAX_LOCK_TOKEN_LENGTH = 256
#: The most characters in the name of an attribute.
MAX_ATTRIBUTE_NAME_LENGTH = 128
#: Characters in the names and values of a message's attributes at most, as in Azure Service Bus.
MAX_ATTRIBUTES_SIZE = 65536

#: The value of an attribute of a message.
AttributeValue = str | int | float | bool | bytes | datetime | UUID | None

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., object])

#: The most characters of a wrong value in an error message.
MAX_SHOWN = 100
_INFINITIES = (math.inf, -math.inf)
_CONTROL = r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]"
_SEGMENT = r"[A-Za-z0-9._-]+\Z"


def check_session_id(session_id: object) -> str:
    """Return a session id: 0 to 128 characters of any kind, as in Azure Service Bus."""
    return check_text(session_id, "a session id", MAX_SESSION_ID_LENGTH)


def check_queue_name(name: object) -> str:
    """Return the name of an entity: a queue such as ``orders`` or ``site1/orders``, or ``topic/subscriptions/name``."""
    if not isinstance(name, str):
        raise ValidationError(f"a queue name must be a str, not {type(name).__name__}")
    if not 1 <= len(name) <= MAX_QUEUE_NAME_LENGTH:
        raise ValidationError(f"a queue name must have 1 to {MAX_QUEUE_NAME_LENGTH} characters, this one has {len(name)}")
    parts = name.split("/")
    if not all(re.match(_SEGMENT, part) and part not in (".", "..") for part in parts):
        raise ValidationError(
            f"{name[:80]!r} is not a queue name: it has letters, digits, '.', '-' and '_', and '/' between such parts, for "
            "example site1/orders"
        )
    if any(part.lower() == "subscriptions" and at not in (0, len(parts) - 2) for at, part in enumerate(parts)):
        raise ValidationError(
            f"{name[:80]!r} is not a queue name: 'subscriptions' stands between a topic and its subscription, for example "
            "site1/events/subscriptions/audit"
        )
    return name


def check_host_name(name: object) -> str:
    """Return the name of a host, or its IP address without brackets."""
    if isinstance(name, str):
        with suppress(ValueError):
            ip_address(name)
            return name
        if len(name) <= MAX_HOST_NAME_LENGTH and all(re.match(_SEGMENT, part) for part in name.removesuffix(".").split(".")):
            return name
    raise ValidationError(
        f"{shown(name)} is not the name of a host: it is for example sessions.example.com or an IP address, without http://, "
        "brackets, port and path"
    )


def check_lock_token(token: object) -> str:
    """Return a lock token: 1 to 256 characters, and a path segment that cannot mean another operation.

    For example, ``DELETE ../messages/head`` receives a message. A completion with the lock token ``head`` would receive and
    lose one.
    """
    token = check_text(token, "a lock token", MAX_LOCK_TOKEN_LENGTH)
    if token in ("", ".", "..", "head"):
        raise ValidationError("a lock token cannot be empty, '.', '..' or 'head'")
    return token


def check_text(value: object, name: str, limit: int | None = None) -> str:
    """Return a str that UTF-8 can encode and that has at most `limit` characters. Errors call the value `name`."""
    if not isinstance(value, str):
        raise ValidationError(f"{name} must be a str, not {type(value).__name__}")
    if limit is not None and len(value) > limit:
        raise ValidationError(f"{name} must have at most {limit} characters, this one has {len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"{name} has a lone surrogate, which UTF-8 cannot encode") from None
    return value


def fitted(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters that UTF-8 can encode: cut, and with lone surrogates replaced."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.encode(errors="replace").decode()


def check_count(value: object, name: str, highest: int = MAX_BATCH, *, lowest: int = 1) -> int:
    """Return an int from `lowest` to `highest`. Errors call the value `name`."""
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ValidationError(f"{name} must be a whole number from {lowest} to {highest}, not {shown(value)}")
    return value


def check_flag(value: object, name: str) -> bool:
    """Return a bool. Errors call the value `name`. Text is refused, because ``"false"`` would count as true."""
    if not isinstance(value, bool):
        raise ValidationError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_function(value: Function | None, name: str) -> Function | None:
    """Return a function or `None`. Errors call the value `name`."""
    if value is not None and not callable(value):
        raise ValidationError(f"{name} must be callable, not {type(value).__name__}")
    return value


def check_state(value: object) -> bytes | None:
    """Return the state of a session: bytes, also for text, or `None` for no state."""
    if isinstance(value, str):
        return check_text(value, "a session's state").encode()
    if value is not None and not isinstance(value, bytes):
        raise ValidationError(f"a session's state must be bytes, str or None, not {type(value).__name__}")
    return value


def as_list(values: Iterable[T], name: str) -> list[T]:
    """Return the values of an iterable. Text is not a list of its characters. Errors call it `name`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValidationError(f"{name} must be a list, not {type(values).__name__}")
    return list(values)


def shown(value: object) -> str:
    """Return a value as error messages show it: its `repr`, but not without bound, and without lone surrogates."""
    try:
        text = repr(value)
    except Exception:  # Python refuses to write an int of more than 4300 digits, and a class can have any __repr__.
        return f"this {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


def as_seconds(value: float | timedelta) -> float:
    """Convert a `timedelta` to seconds. Return any other value unchanged, also one of a wrong type: it is checked later."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def as_optional_seconds(value: float | timedelta | None) -> float | None:
    """Convert a `timedelta` to seconds. Return any other value unchanged, also one of a wrong type: it is checked later."""
    return None if value is None else as_seconds(value)


def seconds(value: object, name: str, *, positive: bool = False, highest: float = MAX_SECONDS) -> float:
    """Return a duration as seconds.

    Args:
        value: A number of seconds or a `timedelta`: finite, not negative.
        name: The name of the value in errors.
        positive: Refuse 0 as well.
        highest: The longest duration, in seconds.

    Raises:
        ValidationError: The value is not such a duration.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or (number != number or number in _INFINITIES):
        raise ValidationError(f"{name} must be a number of seconds or a timedelta, not {shown(value)}")
    if number < 0 or (positive and number == 0):
        raise ValidationError(f"{name} must be {'more than 0' if positive else '0 or more'} seconds, not {shown(value)}")
    # An int can be larger than any float.
    if number > min(highest, sys.float_info.max):
        limit = f"at most {highest:g} seconds" if math.isfinite(highest) else "a number that a float can express"
        raise ValidationError(f"{name} must be {limit}, not {shown(value)}")
    return float(number)


def check_instant(value: object, name: str) -> datetime:
    """Return a timezone-aware datetime, converted to UTC. Errors call the value `name`."""
    if not isinstance(value, datetime):
        raise ValidationError(f"{name} must be a timezone-aware datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValidationError(f"{name} needs a time zone, for example datetime.now(timezone.utc)")
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise ValidationError(f"{name} must be in the years 1 to 9999 of UTC, not {value.isoformat()}") from None


def check_attributes(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Return a copy of a message's attributes.

    A name has 1 to 128 characters, none of them a control character. A value is a str, a signed or unsigned 64-bit int, a
    finite float, a bool, bytes, a timezone-aware datetime, a UUID or `None`. A datetime is converted to UTC.
    """
    if not isinstance(attributes, (dict, Mapping)):
        raise ValidationError(f"attributes must be a dict, not {type(attributes).__name__}")
    return {name: _checked_attribute(name, value) for name, value in attributes.items()}


def attributes_size(attributes: Mapping[str, AttributeValue]) -> int:
    """Return the number of characters in the names and values of a message's attributes, as `MAX_ATTRIBUTES_SIZE` counts."""
    return sum(len(name) + (len(value) if isinstance(value, (str, bytes)) else 8) for name, value in attributes.items())


def _checked_attribute(name: object, value: AttributeValue) -> AttributeValue:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_ATTRIBUTE_NAME_LENGTH or re.search(_CONTROL, name):
        shown = repr(name[:80]) if isinstance(name, str) else type(name).__name__
        raise ValidationError(
            f"an attribute's name must be a str of 1 to {MAX_ATTRIBUTE_NAME_LENGTH} characters without control characters, "
            f"not {shown}"
        )
    if isinstance(value, str):
        check_text(value, f"the attribute {name!r}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValidationError(f"the attribute {name!r} is {value}, which is not a finite number")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValidationError(f"the attribute {name!r} does not fit into 64 bits")
    elif isinstance(value, datetime):
        return check_instant(value, f"the attribute {name!r}")
    elif value is not None and not isinstance(value, (bytes, UUID)):
        kinds = "str, int, float, bool, bytes, datetime, UUID or None"
        raise ValidationError(f"the attribute {name!r} is a {type(value).__name__}, not {kinds}")
    return value


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the unknown `name`, quoted, and the known name that looks most like it, or all known names.

    For example ``'sesion_timeout'; did you mean 'session_timeout'?``. Error messages end with it.
    """
    names, name = list(known), name[:80]
    with import_lock:
        import difflib  # Only for error messages: without it `import azsession` is faster.

    near = difflib.get_close_matches(name, names, 1)
    shown = repr(name)
    return f"{shown}; did you mean {near[0]!r}?" if near else f"{shown}; there are {', '.join(names)}"
