"""The frames that only a server sends: SASL's offer and outcome, and the answers to attaches (AMQP 1.0 §2.7.3, §5.3.3).

`server.amqp` sends them. `frames` has the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .encoding import FALSE, NULL, TRUE, compound, encode_value, symbol_map, ubyte
from .frames import SASL_FRAME, SOURCE, TARGET, frame, terminus
from .performatives import ATTACH, SASL_MECHANISMS, SASL_OUTCOME, SESSION_FILTER, Attach
from .types import Array, Described, Symbol, Uint, Ulong


def sasl_mechanisms(*names: str) -> bytes:
    """Return the SASL frame that offers mechanisms."""
    return frame(0, SASL_MECHANISMS, encode_value(Array(Symbol(name) for name in names)), kind=SASL_FRAME)


def sasl_outcome(code: int) -> bytes:
    """Return the SASL frame with the result of authentication: 0 is success, 1 a refusal."""
    return frame(0, SASL_OUTCOME, ubyte(code), kind=SASL_FRAME)


def attach_answer(
    channel: int,
    attach: Attach,
    *,
    granted: bool = True,
    session_id: str | None = None,
    max_message_size: int | None = None,
    properties: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the frame that answers an attach. The link gets the same handle and settlement modes as in the client's frame.

    Args:
        channel: The channel of the AMQP session.
        attach: The client's frame.
        granted: Whether the link is there. Otherwise the frame lacks the server's own end, and a detach must follow (§2.6.3).
        session_id: The message session that the link locked. It becomes the filter of the source.
        max_message_size: The largest message that the server accepts, in bytes; `None` for no limit.
        properties: Link properties, for example ``com.microsoft:locked-until-utc``.
    """
    is_sender = attach.is_receiver  # The server sends to a client that receives.
    filters = NULL if session_id is None else _session_filter(attach, session_id)
    source, target = _end(SOURCE, attach, filters), _end(TARGET, attach)
    if not granted:
        source, target = (NULL, target) if is_sender else (source, NULL)
    return frame(
        channel,
        ATTACH,
        encode_value(attach.name),
        encode_value(Uint(attach.handle)),
        FALSE if is_sender else TRUE,
        ubyte(attach.sender_settle_mode),
        ubyte(attach.receiver_settle_mode),
        source,
        target,
        NULL,
        NULL,
        encode_value(Uint(0)) if is_sender else NULL,
        NULL if max_message_size is None else encode_value(Ulong(max_message_size)),
        NULL,
        NULL,
        symbol_map(properties) if properties else NULL,
    )


def _session_filter(attach: Attach, session_id: str) -> bytes:
    """Return the filter of a locked session, in the client's form.

    It is a described value by §3.5.8, and Azure's library for Go reads no other. Other clients send and read the bare id.
    """
    asked = None if attach.source is None else attach.source.filters.get(SESSION_FILTER)
    value = encode_value(session_id)
    if isinstance(asked, Described):
        descriptor = Ulong(asked.descriptor) if isinstance(asked.descriptor, int) else Symbol(str(asked.descriptor))
        value = b"\x00" + encode_value(descriptor) + value
    return compound(0xC1, [encode_value(Symbol(SESSION_FILTER)), value])


def _end(code: int, attach: Attach, filters: bytes = NULL) -> bytes:
    """Return the client's source or target again."""
    end = attach.source if code == SOURCE else attach.target
    return NULL if end is None or end.is_coordinator else terminus(code, end.address, filters)
