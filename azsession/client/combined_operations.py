"""The operations that take two steps of a session in one request. A server has them if it announces `COMBINED`.

Each function returns its `Call`, as those of `operations` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..protocol import CLIENT_HEADER, LOCK_HELD_HEADER, REQUEST_ID_HEADER
from ..protocol.error_codes import ABOUT_RECEIPT
from .call import Call, SessionTarget
from .client_name import client_name
from .combined_responses import read_settled_and_received, read_settled_and_released
from .operations import session_call, size_of
from .responses import LockGrant

#: The lock tokens of the messages to settle, by disposition: for example ``{"complete": [token]}``.
Dispositions = Mapping[str, Sequence[Any]]


def settle_and_receive(
    session: SessionTarget, dispositions: Dispositions, max_count: int, session_timeout: float, request_id: str
) -> Call[tuple[dict[str, str], LockGrant | None]]:
    """Return the call that settles messages, and then receives messages that are there. The caller has the lock.

    Its result is the error codes of settlements that failed, by lock token, and the messages with the lock. The second part
    is `None` if nothing was received: a settlement failed, or the server only settles.

    Args:
        session: The session.
        dispositions: The messages to settle.
        max_count: The largest number of messages. The caller uses the first next. The others are fetched ahead.
        session_timeout: Seconds that the lock lasts if the server does not say.
        request_id: The value of ``Azsession-Request-Id``. A receive with the same id gets the same messages.
    """
    call = session_call(
        session,
        "POST",
        "/messages/$settle",
        lambda response: read_settled_and_received(response, session, session_timeout),
        body=dispositions,
        about=ABOUT_RECEIPT,
    )
    call.query = lambda _: f"max={max_count}&taken=1"
    call.headers = {**call.headers, REQUEST_ID_HEADER: request_id, CLIENT_HEADER: client_name(), LOCK_HELD_HEADER: "1"}
    call.max_response_size = size_of(max_count)
    return call


def settle_and_release(session: SessionTarget, dispositions: Dispositions) -> Call[dict[str, str]]:
    """Return the call that settles messages and then releases the lock, also if a settlement fails.

    Its result is the error codes of settlements that failed, by lock token.

    Args:
        session: The session.
        dispositions: The messages to settle.
    """
    return session_call(session, "POST", "/release", read_settled_and_released, body=dispositions, about=ABOUT_RECEIPT)
