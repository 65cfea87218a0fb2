"""The outcomes of deliveries (AMQP 1.0 §3.4) as settlements of the broker, as Azure reads them."""

from __future__ import annotations

from typing import Any

from ... import amqp
from ...amqp import Described, Disposition
from ...amqp.message_mapping import attributes_of, text_of
from ...broker.calls import Disposition as Settles
from ...broker.calls import Settlement
from ...errors import ValidationError
from ...messages import AttributeValue
from ...validation import check_attributes
from .conditions import ARGUMENT_ERROR, RefusedError

#: Characters of a dead-letter reason or description that are kept, as on Azure.
MAX_TEXT = 4096
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"


def settlement_of(lock_token: str, disposition: Disposition) -> Settlement:
    """Return the settlement for an outcome. A delivery that is settled without an outcome is released (§2.6.12).

    Raises:
        RefusedError: The outcome changes properties in a way that messages cannot have.
    """
    if disposition.state == "accepted":
        return Settlement(lock_token, Settles.COMPLETE)
    if disposition.state == "modified":
        is_deferred = disposition.modified is not None and disposition.modified.undeliverable_here
        changes = {} if disposition.modified is None else disposition.modified.annotations
        settles = Settles.DEFER if is_deferred else Settles.ABANDON
        return Settlement(lock_token, settles, attributes=changed_attributes(changes))
    if disposition.state == "rejected":
        info = {} if disposition.error is None else disposition.error.info
        reason, description = short(info.get(_REASON)), short(info.get(_DESCRIPTION))
        changes = {name: value for name, value in info.items() if name not in (_REASON, _DESCRIPTION)}
        return Settlement(lock_token, Settles.DEAD_LETTER, reason, description, attributes=changed_attributes(changes))
    return Settlement(lock_token, Settles.RELEASE)


def outcome_of(disposition: Disposition) -> bytes:
    """Return the outcome that confirms a settlement: the client's own. A rejection has no error: that would be a failure."""
    if disposition.state == "accepted":
        return amqp.ACCEPTED
    if disposition.state == "modified" and disposition.modified is not None:
        return amqp.modified(disposition.modified.delivery_failed, disposition.modified.undeliverable_here)
    return amqp.rejected(None) if disposition.state == "rejected" else amqp.RELEASED


def changed_attributes(changes: Any) -> dict[str, AttributeValue] | None:
    """Return the attributes for a client's "properties to modify".

    Raises:
        RefusedError: They are not such as messages can have.
    """
    if not changes:
        return None
    try:
        if not isinstance(changes, dict) or any(isinstance(value, list | dict | Described) for value in changes.values()):
            raise ValidationError("the properties to modify must be a map of simple values")
        return check_attributes(attributes_of(changes))
    except ValidationError as error:
        raise RefusedError(ARGUMENT_ERROR, str(error)) from error


def short(value: Any) -> str | None:
    """Return a reason or a description as text that a message can keep."""
    text = text_of(value)
    return None if text is None else text[:MAX_TEXT]
