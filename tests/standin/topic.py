"""A topic, which gives a copy of each message to each of its subscriptions. `server` makes them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.standin.admission import Admission
from tests.standin.boxes import Options
from tests.standin.holder import Clock
from tests.standin.state import Queue
from tests.standin.wire import Content


class Topic:
    """A topic with any number of subscriptions. Without one, its messages are accepted and dropped, as on Azure."""

    def __init__(self, name: str, options: Options, clock: Clock) -> None:
        self.name, self.options = name, options
        self.subscriptions: list[Queue] = []
        self._admission = Admission(options, clock.now, sessions=False)

    def check(self, contents: Sequence[Content], envelope: Content | None = None) -> None:
        """Check messages that are sent together before `enqueue`.

        Raises:
            Refusal: The topic or one of its subscriptions does not accept the messages.
        """
        self._admission.check(contents, envelope)
        for queue in self.subscriptions:
            queue.check(contents, envelope)

    def enqueue(self, content: Content) -> int:
        """Add a checked message to each subscription; return its sequence number in the first, or else in the topic."""
        earlier = self._admission.duplicate_of(content)
        if earlier is not None:
            return earlier
        number = self._admission.number(content)
        numbers = [queue.enqueue(content) for queue in self.subscriptions]
        return numbers[0] if numbers else number
