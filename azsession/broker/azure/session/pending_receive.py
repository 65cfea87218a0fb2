"""`PendingReceive`: one receive that waits for messages. `PendingReceives` has those of a session."""

from __future__ import annotations

from enum import Enum, auto

from ..transport.task import LocalFuture
from .unsettled import UnsettledMessage


class Patience(Enum):
    """How long a receive waits."""

    #: Until there is a message.
    WAITS = auto()
    #: Not any longer: it takes the messages that are there.
    TIME_IS_UP = auto()
    #: Its caller is gone: it must not take a message.
    CANCELLED = auto()


class PendingReceive:
    """A receive that waits for messages.

    Attributes:
        max_count: The most messages that it takes.
        request_id: The id that the caller's retries share; ``""`` for none.
        patience: How long it waits.
        taken: How many messages the caller uses at once. Those behind them are fetched ahead. `None`: all.
        future: Gets the messages.
    """

    __slots__ = ("future", "max_count", "patience", "request_id", "taken")

    def __init__(self, max_count: int, request_id: str, *, waits: bool = True, taken: int | None = None) -> None:
        self.max_count: int = max_count
        self.taken: int | None = taken
        self.request_id: str = request_id
        self.patience: Patience = Patience.WAITS if waits else Patience.TIME_IS_UP
        self.future: LocalFuture[list[UnsettledMessage]] = LocalFuture()
