"""What the bodies and headers of requests say, for `handlers`: settlements, reasons, and a message's headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..broker.base import Disposition, Settlement
from ..errors import MessageTooLargeError, ValidationError
from ..protocol.wire import BROKER_PROPERTIES
from ..validation import MAX_BATCH, MAX_LOCK_TOKEN_LENGTH, MAX_REASON_LENGTH, check_text


def reason_of(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the reason and the description of a dead-lettering."""
    reason, description = data.get("DeadLetterReason"), data.get("DeadLetterErrorDescription")
    if reason is not None:
        check_text(reason, "DeadLetterReason", MAX_REASON_LENGTH)
    if description is not None:
        check_text(description, "DeadLetterErrorDescription", MAX_REASON_LENGTH)
    return reason, description


def settlements_of(data: Mapping[str, Any]) -> list[Settlement]:
    """Return what is settled, and how; too many are counted before anything is made of them."""
    items: list[tuple[Any, Disposition]] = []
    for name, value in data.items():
        try:
            disposition = Disposition(name)
        except ValueError:
            raise ValidationError(f"{name[:40]!r} is none of complete, abandon, defer and deadletter") from None
        if not isinstance(value, list):
            raise ValidationError(f"{name} is a list")
        check_batch(len(items) + len(value), "settled")
        items += [(item, disposition) for item in value]
    if not items:
        raise ValidationError(f"1 to {MAX_BATCH} messages are settled at once, not 0")
    return [_settlement_of(item, disposition) for item, disposition in items]


def check_batch(size: int, what: str) -> None:
    """Raise `MessageTooLargeError` where more is asked for at once than may be."""
    if size > MAX_BATCH:
        raise MessageTooLargeError(f"at most {MAX_BATCH} messages are {what} at once, not {size}")


def _settlement_of(item: Any, disposition: Disposition) -> Settlement:
    if disposition is Disposition.DEAD_LETTER:
        if not isinstance(item, dict):
            raise ValidationError('deadletter is a list of objects with "LockToken"')
        token = check_text(item.get("LockToken"), "LockToken", MAX_LOCK_TOKEN_LENGTH)
        return Settlement(token, disposition, *reason_of(item))
    return Settlement(check_text(item, "a lock token", MAX_LOCK_TOKEN_LENGTH), disposition)


def message_headers(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a request's headers, with names as WSGI left them: without case, ``_`` turned into ``-``."""
    headers = []
    for name, value in environ.items():
        if name == "CONTENT_TYPE":
            headers.append(("Content-Type", value))
        elif name == "HTTP_BROKERPROPERTIES":
            headers.append((BROKER_PROPERTIES, value))
        elif name.startswith("HTTP_"):
            headers.append((name[5:].replace("_", "-").title(), value))
    return headers
