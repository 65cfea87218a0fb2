"""The operations of the protocol on scheduled messages, and purging. See `operations`."""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol import ENVELOPE_TYPE, REQUEST_ID_HEADER
from ..protocol.error_codes import ABOUT_QUEUE
from ..protocol.routes import is_fragile, session_path
from .call import Call
from .ids import new_ordered_id
from .operations import queue_call
from .responses import read_count, read_nothing, read_sequence_numbers


def schedule(entity: str, envelope: bytes) -> Call[list[int]]:
    """Return the call that schedules messages. Its result is their sequence numbers."""
    call = queue_call("POST", entity, read_sequence_numbers, path="/messages/$schedule")
    call.headers = {"Content-Type": ENVELOPE_TYPE, REQUEST_ID_HEADER: new_ordered_id()}
    call.body = envelope
    return call


def cancel_scheduled(entity: str, sequence_numbers: Sequence[int]) -> Call[None]:
    """Return the call that cancels scheduled messages."""
    body = {"SequenceNumbers": list(sequence_numbers)}
    call = queue_call("POST", entity, read_nothing, path="/messages/$cancel", body=body)
    call.missing_is_success = True
    return call


def purge(entity: str, session_id: str | None) -> Call[int]:
    """Return the call that deletes the messages of a session, or of all sessions. Its result is their number."""
    at = "" if session_id is None else session_path("", session_id, escaped=is_fragile(session_id))[1:]
    call = queue_call("POST", entity, read_count, path=f"{at}/messages/$purge")
    call.headers = {REQUEST_ID_HEADER: new_ordered_id()}
    call.about = ABOUT_QUEUE
    return call
