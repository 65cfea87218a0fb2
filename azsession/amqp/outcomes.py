"""The outcomes of deliveries as encoded delivery states (AMQP 1.0 §3.4). A disposition carries one of them.

Azure's meaning of each outcome is in Microsoft's "AMQP 1.0 in Azure Service Bus: protocol guide".
"""

from __future__ import annotations

from .encoding import FALSE, TRUE, described, encode_value, fields_of, symbol_map
from .types import Symbol

#: Completes a message.
ACCEPTED = described(0x24, b"\x45")
#: Returns a message without counting the delivery.
RELEASED = described(0x26, b"\x45")
#: Returns a message and counts the delivery: "modified", with delivery-failed.
ABANDONED = described(0x27, fields_of((TRUE, FALSE)))
#: Sets a message aside, to be received by its sequence number: "modified", with delivery-failed and undeliverable-here.
DEFERRED = described(0x27, fields_of((TRUE, TRUE)))


def dead_lettered(reason: str | None, description: str | None) -> bytes:
    """Return the outcome that moves a message to the dead-letter queue."""
    info = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
    error = fields_of((encode_value(Symbol("com.microsoft:dead-letter")), encode_value(description), symbol_map(info)))
    return described(0x25, fields_of((described(0x1D, error),)))
