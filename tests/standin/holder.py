"""The links that receive from a queue, as the queue sees them, and the time. `state` and `links` use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.standin.boxes import Box


class Clock(Protocol):
    def now(self) -> float: ...
    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> Any: ...


class Holder(Protocol):
    """A link that receives from one box."""

    def granted(self, box: Box) -> None:
        """Handle that the waiting link got this session."""

    def wake(self) -> None:
        """Handle that there may be messages to send."""

    def has_credit(self) -> bool:
        """Return whether the client waits for messages."""

    def lost(self) -> None:
        """Handle that the lock of the session expired."""


class _Nobody:
    def wake(self) -> None:
        """Do nothing."""


#: The holder of a session while its messages are returned: it takes none of them.
NOBODY = _Nobody()
