"""What names, ids and durations may look like, checked before anything happens.

The client checks its arguments with these, the gateway and the brokers check what reached them, so that the rules
cannot drift apart. A failed check raises `ValidationError` with what was wrong and what would be right.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from .errors import ValidationError

#: Characters in a session id, as in Azure Service Bus.
MAX_SESSION_ID_LENGTH = 128
#: Characters in a message id, as in Azure Service Bus.
MAX_MESSAGE_ID_LENGTH = 128
#: Characters in the path of a queue, as in Azure Service Bus.
MAX_QUEUE_NAME_LENGTH = 260
#: Messages in one receive, settle or send request.
MAX_BATCH = 1000
#: Seconds that a timeout or the like may be: some thirty years, which clocks and threads can still count.
MAX_SECONDS = 1e9
#: The highest sequence number: 64 bits, of which Azure's partitioned entities use the first 16 for the partition.
MAX_SEQUENCE_NUMBER = 2**63 - 1
#: Characters in a lock token; a gateway's are GUIDs.
MAX_LOCK_TOKEN_LENGTH = 256
#: Characters in a dead-letter reason or description, as in Azure Service Bus.
MAX_REASON_LENGTH = 4096

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z")


def check_session_id(session_id: object) -> str:
    """Return the session id: 1 to 128 characters, no control characters, not ``.`` or ``..`` (URLs cannot carry these)."""
    if not isinstance(session_id, str):
        raise ValidationError(f"a session id is a str, not {type(session_id).__name__}")
    if not 1 <= len(session_id) <= MAX_SESSION_ID_LENGTH:
        raise ValidationError(f"a session id has 1 to {MAX_SESSION_ID_LENGTH} characters, this one has {len(session_id)}")
    if _CONTROL.search(session_id):
        raise ValidationError("a session id has no control characters and no lone surrogates")
    if session_id in (".", ".."):
        raise ValidationError("a session id is not '.' or '..': a URL cannot carry these")
    return session_id


def check_queue_name(name: object) -> str:
    """Return the entity: a queue's name, or ``topic/subscriptions/name``."""
    if not isinstance(name, str):
        raise ValidationError(f"a queue name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= MAX_QUEUE_NAME_LENGTH:
        raise ValidationError(f"a queue name has 1 to {MAX_QUEUE_NAME_LENGTH} characters, this one has {len(name)}")
    parts = name.split("/")
    plain = len(parts) == 1 or (len(parts) == 3 and parts[1].lower() == "subscriptions")
    if not plain or not all(_SEGMENT.match(part) and part not in (".", "..") for part in parts):
        raise ValidationError(
            f"{name[:80]!r} is no queue name: letters, digits, '.', '-' and '_', or topic/subscriptions/name"
        )
    return name


def check_lock_token(token: object) -> str:
    """Return the lock token: 1 to 256 characters, and nothing that is another thing where a path has a token.

    ``DELETE ../messages/head`` receives: with such a token, to complete would be to take another message.
    """
    token = check_text(token, "a lock token", MAX_LOCK_TOKEN_LENGTH)
    if token in ("", ".", "..", "head"):
        raise ValidationError("a lock token is not empty, '.', '..' or 'head'")
    return token


def check_text(value: object, what: str, limit: int | None = None) -> str:
    """Return `value` where it is a str that UTF-8 can carry, of at most `limit` characters."""
    if not isinstance(value, str):
        raise ValidationError(f"{what} is a str, not {type(value).__name__}")
    if limit is not None and len(value) > limit:
        raise ValidationError(f"{what} has at most {limit} characters, this one has {len(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"{what} holds a lone surrogate, which UTF-8 cannot carry") from None
    return value


def check_count(value: object, what: str, highest: int = MAX_BATCH, *, lowest: int = 1) -> int:
    """Return `value` where it is a whole number from `lowest` to `highest`."""
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise ValidationError(f"{what} is a whole number from {lowest} to {highest}, not {value!r}")
    return value


def as_seconds(value: Any) -> Any:
    """Return a `timedelta` as seconds, and anything else as it is, to be checked yet."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def seconds(value: Any, what: str, *, positive: bool = False, highest: float = MAX_SECONDS) -> float:
    """Return a duration, given as seconds or a `timedelta`, as seconds: not negative, and no more than `highest`."""
    value = as_seconds(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValidationError(f"{what} is a number of seconds or a timedelta, not {value!r}")
    if value < 0 or (positive and value == 0):
        raise ValidationError(f"{what} is {'more than 0' if positive else '0 or more'} seconds, not {value!r}")
    if value > highest:
        raise ValidationError(f"{what} is at most {highest:g} seconds, not {value!r}")
    return float(value)


def check_instant(value: object, what: str) -> datetime:
    """Return `value` where it is a timezone-aware datetime."""
    if not isinstance(value, datetime):
        raise ValidationError(f"{what} is a timezone-aware datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValidationError(f"{what} needs a time zone, such as datetime.now(timezone.utc)")
    return value


def check_attributes(attributes: object) -> dict[str, str | int | float | bool]:
    """Return a copy of a message's attributes: names to str, int (64 bits), finite float or bool."""
    if not isinstance(attributes, dict):
        raise ValidationError(f"attributes are a dict, not {type(attributes).__name__}")
    for name, value in attributes.items():
        if not isinstance(name, str) or not name or len(name) > 128 or _CONTROL.search(name):
            raise ValidationError("an attribute's name is a str of 1 to 128 characters without control characters")
        if isinstance(value, str):
            check_text(value, f"the attribute {name!r}")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValidationError(f"the attribute {name!r} is not a finite number")
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise ValidationError(f"the attribute {name!r} does not fit into 64 bits")
        else:
            raise ValidationError(f"the attribute {name!r} is a {type(value).__name__}, not str, int, float or bool")
    return dict(attributes)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the unknown `name`, quoted, and the known name that looks most like it, or all known names.

    For example ``'sesion_timeout'; did you mean 'session_timeout'?``. Error messages end with it.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    shown = f"{name[:80]!r}"
    return f"{shown}; did you mean {near[0]!r}?" if near else f"{shown}; there are {', '.join(names)}"
