"""The AMQP endpoint with faults: its connections count the frames of clients, and can delay the answers."""

from __future__ import annotations

from collections import deque
from typing import Any

from azsession import amqp
from azsession.amqp import Attach, Begin
from azsession.server.amqp.channel import Channel
from azsession.server.amqp.connection import Connection
from azsession.server.amqp.endpoint import Endpoint
from azsession.server.amqp.link import Link
from azsession.server.amqp.states import ConnectionState
from tests.namespaces.faults import Faults
from tests.namespaces.faulty_links import faulty

#: The names of frames in `Faults.log`.
NAMES = {
    amqp.OPEN: "open",
    amqp.BEGIN: "begin",
    amqp.ATTACH: "attach",
    amqp.FLOW: "flow",
    amqp.TRANSFER: "transfer",
    amqp.DISPOSITION: "disposition",
    amqp.DETACH: "detach",
    amqp.END: "end",
    amqp.CLOSE: "close",
}


class FaultyChannel(Channel):
    def new_link(self, attach: Attach) -> Link:
        return faulty(super().new_link(attach))


class FaultyConnection(Connection):
    """A connection with faults."""

    def __init__(self, owner: FaultyEndpoint, services: Any) -> None:
        super().__init__(owner, services)
        self.faults = owner.faults
        #: The frames that wait for the end of the delay.
        self._late: deque[bytes] = deque()

    def new_channel(self, number: int, begin: Begin) -> Channel:
        return FaultyChannel(self, number, begin)

    def _send_open(self) -> None:
        self.faults.log["open"] += 1
        super()._send_open()

    def _on_opened_frame(self, code: int, performative: Any, number: int) -> None:
        self.faults.log[NAMES.get(code, "unknown")] += 1
        super()._on_opened_frame(code, performative, number)

    # Delays

    def send(self, data: bytes) -> None:
        if not self.faults.delay and not self._late:
            super().send(data)
            return
        self._late.append(data)
        self._loop.call_later(self.faults.delay, self._send_late, 1)

    def hurry(self) -> None:
        """Send the frames that wait for the end of the delay."""
        self._send_late(len(self._late))

    def _send_late(self, count: int) -> None:
        for _ in range(min(count, len(self._late))):
            if self.state is not ConnectionState.CLOSED:
                super().send(self._late.popleft())

    def _finish(self) -> None:
        self.hurry()
        super()._finish()

    def _end(self) -> None:
        self._late.clear()
        super()._end()


class FaultyEndpoint(Endpoint):
    """An endpoint with faults."""

    def __init__(self, faults: Faults, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.faults = faults

    def new_connection(self) -> FaultyConnection:
        return FaultyConnection(self, self._services)

    def locked_dead_letters(self, entity: str) -> list[str]:
        """Return the lock tokens of the dead letters that are locked."""
        locks = self._services.dead_letter_locks
        return [token for token, lock in locks._by_token.items() if lock.entity == entity]

    @property
    def connections(self) -> list[FaultyConnection]:
        """The connections."""
        return [each for each in self._connections if isinstance(each, FaultyConnection)]
