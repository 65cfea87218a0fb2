"""The outcomes of deliveries (AMQP 1.0 §3.4) as settlements of the broker, as Azure reads them."""

from __future__ import annotations

from typing import Any

from ... import amqp
from ...amqp import Disposition
from ...amqp.message_mapping import text_of
from ...broker.calls import Disposition as Settles
from ...broker.calls import Settlement

#: Characters of a dead-letter reason or description that are kept, as on Azure.
MAX_TEXT = 4096


def settlement_of(lock_token: str, disposition: Disposition) -> Settlement:
    """Return the settlement for an outcome. A delivery that is settled without an outcome is released (§2.6.12)."""
    if disposition.state == "accepted":
        return Settlement(lock_token, Settles.COMPLETE)
    if disposition.state == "modified":
        is_deferred = disposition.modified is not None and disposition.modified.undeliverable_here
        return Settlement(lock_token, Settles.DEFER if is_deferred else Settles.ABANDON)
    if disposition.state == "rejected":
        info = {} if disposition.error is None else disposition.error.info
        reason, description = short(info.get("DeadLetterReason")), short(info.get("DeadLetterErrorDescription"))
        return Settlement(lock_token, Settles.DEAD_LETTER, reason, description)
    return Settlement(lock_token, Settles.RELEASE)


def outcome_of(disposition: Disposition) -> bytes:
    """Return the outcome that confirms a settlement: the client's own. A rejection has no error: that would be a failure."""
    if disposition.state == "accepted":
        return amqp.ACCEPTED
    if disposition.state == "modified" and disposition.modified is not None:
        return amqp.modified(disposition.modified.delivery_failed, disposition.modified.undeliverable_here)
    return amqp.rejected(None) if disposition.state == "rejected" else amqp.RELEASED


def short(value: Any) -> str | None:
    """Return a reason or a description as text that a message can keep."""
    text = text_of(value)
    return None if text is None else text[:MAX_TEXT]
