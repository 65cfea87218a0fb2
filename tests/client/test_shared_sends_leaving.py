"""`SharedSends`: sends that leave the line, and errors with an exception of a signal handler behind them."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from azsession import ConnectionFailedError
from azsession.client import operations
from azsession.client.call import Call
from azsession.client.shared_sends import SharedSends, _Line, _Request, _Send


class InterruptError(Exception):
    pass


@pytest.fixture(autouse=True)
def _signals_raise() -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupted_within(call: Call[None]) -> None:
    try:
        signal.raise_signal(signal.SIGUSR1)
    except InterruptError as interrupt:
        raise ConnectionFailedError("no answer", maybe_delivered=True) from interrupt


def unanswered(call: Call[None]) -> None:
    raise ConnectionFailedError("no answer", maybe_delivered=True)


def test_an_exception_of_a_signal_handler_behind_an_error_reaches_the_caller() -> None:
    with pytest.raises(InterruptError):
        SharedSends(operations.send, interrupted_within).send("q", b"1")


def test_an_exception_of_a_signal_handler_before_the_send_does_not_hide_its_error() -> None:
    try:
        signal.raise_signal(signal.SIGUSR1)
    except InterruptError:
        with pytest.raises(ConnectionFailedError):
            SharedSends(operations.send, unanswered).send("q", b"1")


def line_of(*leaders: _Send, waiting: tuple[_Send, ...] = ()) -> _Line:
    line = _Line()
    line.leaders.update(leaders)
    line.waiting.extend(waiting)
    return line


def test_only_a_send_that_waits_leaves_a_line() -> None:
    leading, waiting, gone = (_Send(b"%d" % number) for number in range(3))
    line = line_of(leading, waiting=(waiting,))
    assert [line.leave(send) for send in (gone, leading, waiting)] == [False, False, True]
    assert (line.leaders, list(line.waiting)) == ({leading}, [])


def test_a_send_that_was_just_chosen_to_lead_does_not_leave_a_line() -> None:
    """An interrupt of the former leader can come before it is removed from those that wait."""
    chosen = _Send(b"1")
    line = line_of(chosen, waiting=(chosen,))
    assert not line.leave(chosen)
    assert (line.leaders, list(line.waiting)) == ({chosen}, [chosen])


def test_a_send_in_the_request_of_another_thread_passes_no_lead_on() -> None:
    sends = SharedSends(operations.send, unanswered)
    leading, passenger, waiting = (_Send(b"%d" % number) for number in range(3))
    line = line_of(leading, waiting=(waiting,))
    leading.request = passenger.request = _Request([leading, passenger])
    leading.request.end(leading, None)
    sends._leave(line, passenger)
    assert (line.leaders, list(line.waiting)) == ({leading}, [waiting])
    sends._leave(line, leading)
    assert (line.leaders, list(line.waiting)) == ({waiting}, [])
