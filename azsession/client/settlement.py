"""`Settlement`: one way to settle a message, as a request of its own and as a part of a larger request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from . import operations
from .call import Call, SessionTarget


@attrs.frozen(eq=False, repr=False)
class Settlement:
    """A way to settle a message.

    Attributes:
        name: The name for telemetry.
        call: Returns the call that settles the message with a lock token, and nothing else.
        dispositions: Returns the part of a request that settles the message with a lock token.
    """

    name: str
    call: Callable[[SessionTarget, str], Call[None]]
    dispositions: Callable[[str], Mapping[str, Sequence[Any]]]


COMPLETE: Settlement = Settlement("complete", operations.complete, lambda token: {"complete": [token]})
DEFER: Settlement = Settlement("defer", operations.defer, lambda token: {"defer": [token]})


def dead_lettering(reason: str, description: str | None) -> Settlement:
    """Return the settlement that dead-letters a message."""
    return Settlement(
        "dead_letter",
        lambda session, token: operations.dead_letter(session, token, reason, description),
        lambda token: {"deadletter": [{"LockToken": token, **operations.reason_body(reason, description)}]},
    )
