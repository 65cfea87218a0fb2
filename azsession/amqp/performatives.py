"""AMQP 1.0 performatives and SASL frames: their descriptors, and received frames as named tuples.

`decode_frame` is the entry point. `broker.azure.transport` feeds it with the frames of a connection; `frames` encodes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from .decoding import NONSENSE, READERS, code_of, exactly, read_descriptor
from .fields import UINT_MAX, number, optional, optional_number
from .transfers import any_transfer, usual_transfer
from .types import Described, MalformedFrameError

#: Descriptors of performatives (§2.7) and SASL frames (§5.3.3).
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
#: The code that `decode_frame` returns for a frame without a body, which keeps a connection alive (§2.4.5).
HEARTBEAT = 0

#: The name of Service Bus's filter on a source, which names the message session to lock.
SESSION_FILTER = "com.microsoft:session-filter"

#: Settlement modes (§2.8.2, §2.8.3): the sender settles nothing, everything or either; the receiver settles first or second.
SENDER_UNSETTLED, SENDER_SETTLED, SENDER_MIXED = 0, 1, 2
RECEIVER_FIRST, RECEIVER_SECOND = 0, 1

_USHORT_MAX, _ULONG_MAX = 0xFFFF, 0xFFFFFFFFFFFFFFFF


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"


#: No session filter. A filter of `None` means the next available session.
ABSENT: Final = Absent.ABSENT


class Condition(NamedTuple):
    """An error: a symbol, a text for people, and details (§2.8.14)."""

    condition: str
    description: str
    info: dict[str, Any]


class Open(NamedTuple):
    """Opens a connection (§2.7.1). `hostname` is the name that a client used for the server, `container_id` its own name."""

    max_frame_size: int
    channel_max: int
    idle_timeout_ms: int | None
    hostname: str | None = None
    container_id: str = ""


class Begin(NamedTuple):
    """Begins an AMQP session, or answers a begin: then `remote_channel` is the channel of that begin (§2.7.2)."""

    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int


class Terminus(NamedTuple):
    """The source or target of a link: a node of a container (§3.5.3, §3.5.4), or a coordinator of transactions (§4.5.1)."""

    address: str | None
    is_dynamic: bool
    is_coordinator: bool
    filters: dict[Any, Any]


class Attach(NamedTuple):
    """Attaches a link (§2.7.3). An answer without the peer's source or target refuses it; a detach with the error follows."""

    name: str
    handle: int
    is_receiver: bool
    has_source: bool
    has_target: bool
    session_id: str | Absent | None
    initial_delivery_count: int
    max_message_size: int | None
    properties: dict[str, Any]
    source: Terminus | None = None
    target: Terminus | None = None
    sender_settle_mode: int = SENDER_MIXED
    receiver_settle_mode: int = RECEIVER_FIRST


class Flow(NamedTuple):
    """Reports the windows of an AMQP session and, with a handle, the credit of a link (§2.7.4)."""

    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None
    delivery_count: int | None
    link_credit: int | None
    drain: bool
    echo: bool


class Modified(NamedTuple):
    """The outcome "modified" (§3.4.5). `annotations` has the changes that the receiver wants."""

    delivery_failed: bool
    undeliverable_here: bool
    annotations: dict[Any, Any]


class Disposition(NamedTuple):
    """Reports the state of deliveries `first` to `last`: ``"accepted"``, ``"rejected"`` and so on, or `None` (§2.7.6).

    `error` comes with ``"rejected"``, `modified` with ``"modified"``.
    """

    is_receiver: bool
    first: int
    last: int
    settled: bool
    state: str | None
    error: Condition | None
    modified: Modified | None = None


class Detach(NamedTuple):
    """Detaches a link; `closed` also ends it (§2.7.7)."""

    handle: int
    closed: bool
    error: Condition | None


class End(NamedTuple):
    """Ends an AMQP session (§2.7.8)."""

    error: Condition | None


class Close(NamedTuple):
    """Closes a connection (§2.7.9)."""

    error: Condition | None


class SaslMechanisms(NamedTuple):
    """The mechanisms that the server offers (§5.3.3.1)."""

    mechanisms: list[str]


class SaslInit(NamedTuple):
    """The mechanism that the client chose, and its first message (§5.3.3.2)."""

    mechanism: str
    initial_response: bytes


class SaslOutcome(NamedTuple):
    """The result of authentication; code 0 is success (§5.3.3.5)."""

    code: int


#: Delivery states by descriptor (§3.4).
_STATES = {0x23: "received", 0x24: "accepted", 0x25: "rejected", 0x26: "released", 0x27: "modified"}
_REJECTED, _MODIFIED = 0x25, 0x27
_COORDINATOR = 0x30


def decode_frame(body: bytes | memoryview) -> tuple[int, Any]:
    """Return the descriptor of a frame's performative, and the performative as a named tuple.

    A frame without a body gives `HEARTBEAT` and `None`. A descriptor without a class here gives the list of fields.

    Args:
        body: The frame's bytes from its data offset on (§2.3.1).

    Raises:
        MalformedFrameError: The bytes are not an AMQP 1.0 frame body.
    """
    buf = bytes(body)
    if not buf:
        return HEARTBEAT, None
    try:
        if buf[0] == 0 and buf[1] == 0x53:
            code, pos = buf[2], 3  # A shortcut for descriptors below 256.
        else:
            code, pos = read_descriptor(buf, 0)
        if code == TRANSFER and buf[pos] == 0xC0:
            usual = usual_transfer(buf, pos + 1)
            if usual is not None:
                return code, usual
        fields, pos = READERS[buf[pos]](buf, pos + 1, 0)
        if not isinstance(fields, list):
            raise MalformedFrameError(f"the fields of a frame are a {type(fields).__name__}, not a list")
        if code == TRANSFER:
            return code, any_transfer(fields, buf[pos:])
        make = _MAKERS.get(code)
        return code, fields if make is None else make(fields)
    except NONSENSE as error:
        raise MalformedFrameError(f"a frame is malformed: {error}") from error


def _names(value: Any) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _condition(value: Any) -> Condition | None:
    if not isinstance(value, Described) or not isinstance(value.value, list):
        return None
    condition, description, info = exactly(value.value, 3)
    return Condition(str(condition or ""), str(description or ""), _names(info))


def _open(fields: list[Any]) -> Open:
    container, hostname, size, channels, idle = exactly(fields, 5)
    name = None if hostname is None else str(hostname)
    largest, highest = number(size, UINT_MAX), number(channels, _USHORT_MAX, _USHORT_MAX)
    return Open(largest, highest, optional_number(idle), name, str(container or ""))


def _begin(fields: list[Any]) -> Begin:
    channel, next_id, incoming, outgoing, handles = exactly(fields, 5)
    return Begin(optional_number(channel), number(next_id), number(incoming), number(outgoing), number(handles, UINT_MAX))


def _attach(fields: list[Any]) -> Attach:
    (
        name, handle, role, sender_mode, receiver_mode, source, target, _, _, count, size, _, _, properties
    ) = exactly(fields, 14)  # fmt: skip
    return Attach(
        str(name),
        number(handle),
        bool(role),
        source is not None,
        target is not None,
        _session_of(source),
        number(count, 0),
        optional_number(size, _ULONG_MAX),
        _names(properties),
        _terminus(source),
        _terminus(target),
        number(sender_mode, SENDER_MIXED, SENDER_MIXED),
        number(receiver_mode, RECEIVER_FIRST, RECEIVER_SECOND),
    )


def _terminus(value: Any) -> Terminus | None:
    if not isinstance(value, Described) or not isinstance(value.value, list):
        return None
    if code_of(value.descriptor) == _COORDINATOR:
        return Terminus(None, False, True, {})
    address, _, _, _, is_dynamic, _, _, filters = exactly(value.value, 8)
    return Terminus(
        None if address is None else str(address), bool(is_dynamic), False, filters if isinstance(filters, dict) else {}
    )


def _session_of(source: Any) -> str | Absent | None:
    """Return the message session in a source's filter (§3.5.3, field "filter")."""
    if not isinstance(source, Described) or not isinstance(source.value, list):
        return ABSENT
    filters = exactly(source.value, 8)[7]
    if not isinstance(filters, dict) or SESSION_FILTER not in filters:
        return ABSENT
    value = filters[SESSION_FILTER]
    value = value.value if isinstance(value, Described) else value
    return None if value is None else str(value)


def _flow(fields: list[Any]) -> Flow:
    next_incoming, incoming, next_outgoing, outgoing, handle, count, credit, _, drain, echo = exactly(fields, 10)
    return Flow(
        optional_number(next_incoming),
        number(incoming),
        number(next_outgoing),
        number(outgoing),
        optional_number(handle),
        optional_number(count),
        optional_number(credit),
        bool(drain),
        bool(echo),
    )


def _disposition(fields: list[Any]) -> Disposition:
    role, first, last, settled, state = exactly(fields, 5)
    first = number(first)
    name, error, modified = None, None, None
    if isinstance(state, Described):
        code = code_of(state.descriptor)
        name = _STATES.get(code)
        if code == _REJECTED and isinstance(state.value, list) and state.value:
            error = _condition(state.value[0])
        elif code == _MODIFIED and isinstance(state.value, list):
            failed, undeliverable, changes = exactly(state.value, 3)
            modified = Modified(bool(failed), bool(undeliverable), changes if isinstance(changes, dict) else {})
    return Disposition(bool(role), first, number(last, first), bool(settled), name, error, modified)


def _detach(fields: list[Any]) -> Detach:
    handle, closed, error = exactly(fields, 3)
    return Detach(number(handle), bool(closed), _condition(error))


def _mechanisms(fields: list[Any]) -> SaslMechanisms:
    (names,) = exactly(fields, 1)
    # A single value may come without its array (§1.4).
    return SaslMechanisms([str(name) for name in names] if isinstance(names, list) else [str(names or "")])


def _sasl_init(fields: list[Any]) -> SaslInit:
    mechanism, response, _ = exactly(fields, 3)
    return SaslInit(str(mechanism or ""), optional(response, bytes) or b"")


_MAKERS: dict[int, Callable[[list[Any]], Any]] = {
    OPEN: _open,
    BEGIN: _begin,
    ATTACH: _attach,
    FLOW: _flow,
    DISPOSITION: _disposition,
    DETACH: _detach,
    END: lambda fields: End(_condition(exactly(fields, 1)[0])),
    CLOSE: lambda fields: Close(_condition(exactly(fields, 1)[0])),
    SASL_MECHANISMS: _mechanisms,
    SASL_INIT: _sasl_init,
    SASL_OUTCOME: lambda fields: SaslOutcome(number(exactly(fields, 1)[0])),
}
