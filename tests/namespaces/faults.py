"""`Faults`: the faults that a test wants from `OwnNamespace`, and the counts of the frames that clients sent."""

from __future__ import annotations

from collections import Counter, deque

from azsession.server.amqp.conditions import BUSY, RefusedError
from tests.standin.refusal import STATUS


class Faults:
    """The faults to inject. Only the event loop of the endpoint uses them.

    Attributes:
        log: How many frames and requests of each kind the clients sent.
        delay: Seconds by which all output is delayed.
        disabled: The paths of the disabled entities.
        sizes: The largest message of each queue, in bytes.
        throttled: How many attaches, sends and management operations will be refused as throttled.
    """

    def __init__(self) -> None:
        self.log: Counter[str] = Counter()
        self.delay = 0.0
        self.disabled: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.throttled = 0
        self._refusals: dict[str, deque[RefusedError]] = {}
        self._swallows: Counter[str] = Counter()

    def refuse(self, operation: str, condition: str, n: int, description: str) -> None:
        """Refuse the next operations of a kind."""
        refusal = RefusedError(condition, description, STATUS.get(condition, 400))
        self._refusals.setdefault(operation, deque()).extend([refusal] * n)

    @property
    def refusals(self) -> int:
        """How many operations will be refused."""
        return sum(map(len, self._refusals.values()))

    def refuse_no_more(self) -> None:
        """Forget the refusals."""
        self._refusals.clear()

    def swallow(self, operation: str, n: int) -> None:
        """Leave out the answers to the next operations of a kind."""
        self._swallows[operation] += n

    def refusal_of(self, operation: str, *, throttled: bool = False) -> RefusedError | None:
        """Return the refusal of an operation, if there is one for it. It counts as used."""
        refusals = self._refusals.get(operation)
        if refusals:
            return refusals.popleft()
        if throttled and self.throttled:
            self.throttled -= 1
            text = "The request was terminated because the entity is being throttled. Wait and try again."
            return RefusedError(BUSY, text, 503)
        return None

    def swallows(self, operation: str) -> bool:
        """Return whether to leave out the answer to an operation. It counts as used."""
        if not self._swallows[operation]:
            return False
        self._swallows[operation] -= 1
        return True
