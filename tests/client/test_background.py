"""Operations on a whole session wait for the settlements that a processor sends from other threads."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from azsession import ServiceBusProvider, SessionClient
from azsession.client.session import holder_of

from .orders import send, take


class Settlements:
    """Settlements in the background. They are confirmed when somebody waits for them."""

    def __init__(self, session: SessionClient) -> None:
        self._session = session
        self.waits = 0
        self.unconfirmed = 1
        self.were_early = True

    def finish(self) -> None:
        self.waits += 1
        self.unconfirmed = 0
        self.were_early = self.were_early and not self._session.closed


OPERATIONS: dict[str, Callable[[SessionClient], object]] = {
    "close": lambda session: session.close(),
    "close_session": lambda session: session.close_session(),
    "detach": lambda session: session.detach(),
    "dead_letter_session": lambda session: session.dead_letter_session("why"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_the_whole_session_waits(
    azsession_provider: ServiceBusProvider, session: SessionClient, name: str
) -> None:
    send(azsession_provider, b"0")
    take(session)
    settlements = Settlements(session)
    holder_of(session).lock.background = settlements
    OPERATIONS[name](session)
    assert (settlements.waits, settlements.were_early) == (1, True)


def test_a_signal_handler_that_interrupted_the_package_does_not_wait(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    """The interrupted code could hold a lock that the other threads need."""

    class Interrupted(Settlements):
        def finish(self) -> None:
            super().finish()
            if self.waits == 1:
                signal.raise_signal(signal.SIGUSR1)

    settlements = Interrupted(session)
    holder_of(session).lock.background = settlements
    before = signal.signal(signal.SIGUSR1, lambda *_: session.close_session())
    try:
        session.close_session()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert settlements.waits == 1


def test_messages_that_are_being_settled_are_not_in_use(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, b"0", b"1", b"2")
    next(session.messages(timeout=10, prefetch=3))
    lock = holder_of(session).lock
    lock.background = Settlements(session)
    assert [lock.take_ahead(1)[1] for _ in range(2)] == [False, True]
    lock.background = None
