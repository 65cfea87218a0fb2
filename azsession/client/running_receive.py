"""`Receive`: a receive that runs in a thread. `SessionLock` makes one for each, and the functions of `receiving` keep it."""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import ReceivedMessage
from .fetch_turns import Turn


class Receive:
    """A receive that runs in a thread. In a `messages` loop it lasts until the loop goes on.

    Args:
        thread: The thread's id.
        is_prompt: It does not wait for messages.

    Attributes:
        arrived: The messages that came in, with the id of the request that they answer.
        turn: Set when the receive no longer fetches ahead, see `FetchTurns`.
        has_ended: The receive was interrupted or failed, or its loop was left.
        yielded: The lock token of the message that the loop yielded, while the loop's caller has it.
        next_count: How many messages the loop fetches in its next request.
    """

    def __init__(self, thread: int, *, is_prompt: bool = False) -> None:
        self.thread: int = thread
        self.arrived: list[tuple[str, Sequence[ReceivedMessage]]] = []
        self.turn: Turn = Turn(is_prompt=is_prompt)
        self.has_ended: bool = False
        self.yielded: str | None = None
        self.next_count: int = 0
