"""The outcomes of deliveries as encoded delivery states (AMQP 1.0 §3.4). A disposition carries one of them.

Azure's meaning of each outcome is in Microsoft's "AMQP 1.0 in Azure Service Bus: protocol guide".
"""

from __future__ import annotations

from .encoding import FALSE, NULL, TRUE, described, encode_value, fields_of, symbol_map
from .performatives import Condition
from .types import Symbol

_ERROR, _REJECTED = 0x1D, 0x25

#: Completes a message.
ACCEPTED = described(0x24, b"\x45")
#: Returns a message without counting the delivery.
RELEASED = described(0x26, b"\x45")
#: Returns a message and counts the delivery: "modified", with delivery-failed.
ABANDONED = described(0x27, fields_of((TRUE, FALSE)))
#: Sets a message aside, to be received by its sequence number: "modified", with delivery-failed and undeliverable-here.
DEFERRED = described(0x27, fields_of((TRUE, TRUE)))


def encode_error(error: Condition | None) -> bytes:
    """Return an encoded error (§2.8.14), or null. All three fields are there: clients of Azure read all three."""
    if error is None:
        return NULL
    text = encode_value(error.description)
    return described(_ERROR, fields_of((encode_value(Symbol(error.condition)), text, symbol_map(error.info))))


def rejected(error: Condition | None) -> bytes:
    """Return the outcome "rejected" (§3.4.3)."""
    return described(_REJECTED, fields_of((encode_error(error),)))


def modified(delivery_failed: bool, undeliverable_here: bool) -> bytes:
    """Return the outcome "modified" (§3.4.5) without changes of annotations."""
    return described(0x27, fields_of((TRUE if delivery_failed else FALSE, TRUE if undeliverable_here else FALSE)))


def dead_lettered(reason: str | None, description: str | None) -> bytes:
    """Return the outcome that moves a message to the dead-letter queue."""
    info = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
    error = fields_of((encode_value(Symbol("com.microsoft:dead-letter")), encode_value(description), symbol_map(info)))
    return described(_REJECTED, fields_of((described(_ERROR, error),)))
