"""`SharedSends`: which sends share a request, what their callers get, and interrupts in the thread that leads."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable

import pytest

from azsession import (
    ConnectionFailedError,
    MessageTooLargeError,
    PermissionDeniedError,
    QueueError,
    ServiceBusProvider,
    ValidationError,
)
from azsession.client import operations, shared_sends
from azsession.client.call import Call
from azsession.client.provider import core_of
from azsession.client.shared_sends import MAX_OWN_SIZE, MAX_RUNNING, MAX_SIZE, SharedSends, _Line, _Request, _Send
from azsession.protocol import REQUEST_ID_HEADER
from tests.broker.embedded.helpers import Background
from tests.conftest import eventually
from tests.interrupts.sweep import BytecodeInterrupter, Handler


class Server:
    """Takes calls. While it is `busy`, calls wait. Like a gateway, it takes the same request id once."""

    def __init__(self) -> None:
        self.sends = SharedSends(operations.send, self.transmit)
        self.free = threading.Event()
        self.free.set()
        self.began: list[bytes] = []
        self.taken: dict[str, bytes] = {}
        self.refuse: Callable[[bytes], BaseException | None] = lambda body: None

    def transmit(self, call: Call[None]) -> None:
        body = call.body or b""
        self.began.append(body)
        assert self.free.is_set() or self.free.wait(20)  # An interrupted `wait` could keep its lock.
        error = self.refuse(body)
        if error is not None:
            raise error
        self.taken[call.headers[REQUEST_ID_HEADER]] = body

    def bodies(self) -> list[bytes]:
        """Return the requests, without repetitions."""
        return list(self.taken.values())

    def occupy(self) -> list[Background[bool]]:
        """Let as many requests wait for `free` as may run."""
        self.free.clear()
        running = [self.start(b"%d" % (number + 90)) for number in range(shared_sends.MAX_RUNNING)]
        eventually(lambda: len(self.began) == len(running))
        return running

    def start(self, item: bytes) -> Background[bool]:
        return Background(lambda: self.sends.send("q", item))

    def queue(self, *items: bytes) -> list[Background[bool]]:
        """Start sends that wait in this order, behind those that run."""
        started = []
        for number, item in enumerate(items, self.waiting() + 1):
            started.append(self.start(item))
            eventually(lambda number=number: self.waiting() == number)
        return started

    def waiting(self) -> int:
        line = self.sends._lines.get("q")
        return 0 if line is None else len(line.waiting)

    def check_taken_once(self, wanted: set[bytes], where: object) -> None:
        """Check that the requests have these messages, and none twice."""
        found = [item for body in self.bodies() for item in body[1:-1].split(b",")]
        assert len(found) == len(set(found)), where
        assert set(found) >= wanted, where

    def check_idle(self, where: object = None) -> None:
        """Check that no send waits or leads."""
        line = self.sends._lines["q"]
        eventually(lambda: not line.leaders)
        assert not line.waiting, where


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(shared_sends, "PATIENCE", 20.0)
    return Server()


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sends, "MAX_RUNNING", 1)


def test_the_first_sends_do_not_wait_for_each_other(server: Server) -> None:
    running = server.occupy()
    assert sorted(server.began) == [b"[%d]" % (number + 90) for number in range(MAX_RUNNING)]
    server.free.set()
    assert all(send.result() for send in running)
    server.check_idle()


@pytest.mark.usefixtures("one_at_a_time")
def test_sends_that_wait_share_the_next_request(server: Server) -> None:
    running = server.occupy()
    waiting = server.queue(b"1", b"2", b"3", b"4")
    server.free.set()
    assert all(send.result() for send in [*running, *waiting])
    assert server.bodies() == [b"[90]", b"[1,2,3,4]"]
    server.check_idle()


def test_among_many_threads_one_request_is_under_way_at_a_time() -> None:
    line, sends = _Line(), [_Send(b"%d" % number) for number in range(12)]

    def lead(send: _Send) -> int:
        send.request = _Request(line.gather(send))
        line.take(send.request)
        return len(send.request.sends)

    def end(send: _Send) -> None:
        assert send.request is not None
        send.request.end(send, None)
        line.pass_on(send)

    assert [line.join(send) for send in sends[:2]] == [True, True]
    assert [lead(send) for send in sends[:2]] == [1, 1]
    assert [line.join(send) for send in sends[2:8]] == [False] * 6
    end(sends[0])
    assert line.leaders == {sends[1], sends[2]}, "few send yet, as far as is known"
    assert lead(sends[2]) == 6
    assert [line.join(send) for send in sends[8:]] == [False] * 4
    end(sends[1])
    assert line.leaders == {sends[2]}, "those that wait get the lead from the other leader"
    end(sends[2])
    assert line.leaders == {sends[8]}
    assert lead(sends[8]) == 4
    end(sends[8])
    assert line.join(sends[0])
    assert not line.join(sends[1])
    assert lead(sends[0]) == 2
    assert line.join(sends[2]), "few send again"


def test_sends_to_other_queues_do_not_wait(server: Server) -> None:
    running = server.occupy()
    other = Background(lambda: server.sends.send("other", b"1"))
    eventually(lambda: b"[1]" in server.began)
    server.free.set()
    assert all(send.result() for send in [*running, other])


@pytest.mark.usefixtures("one_at_a_time")
def test_a_request_has_no_more_bytes_than_its_limit(server: Server) -> None:
    server.occupy()
    waiting = server.queue(*[b"x" * MAX_OWN_SIZE] * (MAX_SIZE // MAX_OWN_SIZE + 2))
    server.free.set()
    assert all(send.result() for send in waiting)
    assert [body.count(b",") + 1 for body in server.bodies()] == [1, MAX_SIZE // MAX_OWN_SIZE, 2]


@pytest.mark.usefixtures("one_at_a_time")
def test_a_request_has_no_more_messages_than_its_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sends, "MAX_BATCH", 3)
    server.occupy()
    waiting = server.queue(b"1", b"2", b"3", b"4")
    server.free.set()
    assert all(send.result() for send in waiting)
    assert server.bodies()[1:] == [b"[1,2,3]", b"[4]"]


def test_a_large_send_gets_a_request_of_its_own(server: Server) -> None:
    assert not server.sends.send("q", b"x" * (MAX_OWN_SIZE + 1))
    assert server.began == []


def test_a_send_does_not_wait_long_for_a_server_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    running = server.occupy()
    line = server.sends._lines["q"]
    line.is_crowded = True
    monkeypatch.setattr(shared_sends, "PATIENCE", 0.01)
    assert not server.sends.send("q", b"1")
    assert not line.is_crowded, "later sends can go beside the request that takes so long"
    server.free.set()
    assert all(send.result() for send in running)
    assert b"[1]" not in server.began
    server.check_idle()


def test_a_call_inside_a_send_of_the_same_thread_does_not_wait_for_it(server: Server) -> None:
    """For example, a call of a signal handler."""
    inner: list[bool] = []

    def refuse(body: bytes) -> None:
        inner.append(server.sends.send("q", b"2"))

    server.refuse = refuse
    assert server.sends.send("q", b"1")
    assert inner == [False]
    assert server.sends.send("q", b"3")


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("refusal", [ValidationError("message 2 is wrong"), MessageTooLargeError("too large")])
def test_after_a_refusal_of_the_contents_each_caller_sends_its_own_messages(server: Server, refusal: QueueError) -> None:
    server.occupy()
    waiting = server.queue(b"1", b"2")
    server.refuse = lambda body: refusal if b"," in body else None
    server.free.set()
    assert [send.result() for send in waiting] == [False, False]
    server.check_idle()


@pytest.mark.usefixtures("one_at_a_time")
def test_a_refusal_of_one_send_alone_is_its_error(server: Server) -> None:
    refusal = ValidationError("message 1 is wrong")
    server.refuse = lambda body: refusal
    with pytest.raises(ValidationError) as caught:
        server.sends.send("q", b"1")
    assert caught.value is refusal


@pytest.mark.usefixtures("one_at_a_time")
def test_another_error_is_raised_for_each_caller_as_an_exception_of_its_own(server: Server) -> None:
    server.occupy()
    waiting = server.queue(b"1", b"2", b"3")
    server.refuse = lambda body: PermissionDeniedError("no right to send") if b"," in body else None
    server.free.set()
    errors = []
    for send in waiting:
        with pytest.raises(PermissionDeniedError, match="no right to send") as caught:
            send.result()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3
    server.check_idle()


@pytest.mark.usefixtures("one_at_a_time")
def test_if_only_some_messages_of_a_request_were_accepted_no_caller_knows_which(server: Server) -> None:
    server.occupy()
    waiting = server.queue(b"1", b"2")
    server.refuse = lambda body: ValidationError("the quota is used up", accepted=1) if b"," in body else None
    server.free.set()
    for send in waiting:
        with pytest.raises(ConnectionFailedError, match="quota") as caught:
            send.result()
        assert (caught.value.maybe_delivered, caught.value.accepted) == (True, 0)


# Interrupts


@pytest.mark.usefixtures("one_at_a_time")
def test_another_thread_repeats_the_request_of_a_thread_that_was_interrupted(server: Server) -> None:
    server.occupy()
    first, second, third = server.queue(b"1", b"2", b"3")
    interrupts = [KeyboardInterrupt()]
    server.refuse = lambda body: interrupts.pop() if interrupts and b"," in body else None
    server.free.set()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    assert (second.result(), third.result()) == (True, True)
    assert server.bodies()[1:] == [b"[1,2,3]"]
    assert server.began[1:] == [b"[1,2,3]", b"[1,2,3]"]
    server.check_idle()


def _sweep(scenario: Callable[[int], bool]) -> None:
    """Run a scenario with an interrupt at each place. It returns whether it had so many places."""
    places = next(at for at in itertools.count(1) if not scenario(at))
    assert places > 20, "the scenario has hardly been interrupted"


@pytest.mark.usefixtures("one_at_a_time")
def test_a_thread_that_leads_alone_can_be_interrupted_anywhere(server: Server) -> None:
    """It is interrupted before, during and after its request. Others wait behind it."""

    def scenario(at: int) -> bool:
        server.__init__()  # type: ignore[misc]
        waiting: list[Background[bool]] = []

        def others_come(body: bytes) -> None:
            if body == b"[1]":
                trace = sys.gettrace()
                sys.settrace(None)  # Only azsession is interrupted, not this function.
                waiting.extend(server.queue(b"2", b"3"))
                sys.settrace(trace)

        server.refuse = others_come
        interrupter = BytecodeInterrupter(at)
        interrupter.run(lambda: server.sends.send("q", b"1"))
        assert all(send.result() for send in waiting), interrupter.where
        assert server.sends.send("q", b"4"), interrupter.where
        assert not server.sends._reentry._threads, interrupter.where
        server.check_taken_once({b"2", b"3", b"4"} if waiting else {b"4"}, interrupter.where)
        server.check_idle(interrupter.where)
        return interrupter.where is not None

    _sweep(scenario)


@pytest.mark.usefixtures("one_at_a_time")
def test_a_thread_that_waits_and_then_leads_others_can_be_interrupted_anywhere(server: Server) -> None:
    def scenario(at: int) -> bool:
        server.__init__()  # type: ignore[misc]
        (running,) = server.occupy()
        interrupter = BytecodeInterrupter(at)
        has_ended = threading.Event()
        behind: list[Background[bool]] = []

        def go_on() -> None:
            eventually(lambda: server.waiting() == 1 or has_ended.is_set())
            behind.extend(server.queue(b"2", b"3"))
            server.free.set()

        others = Background(go_on)
        interrupter.run(lambda: server.sends.send("q", b"1"))
        has_ended.set()
        others.result()
        assert all(send.result() for send in [running, *behind]), interrupter.where
        server.check_taken_once({b"2", b"3"}, interrupter.where)
        server.check_idle(interrupter.where)
        return interrupter.where is not None

    _sweep(scenario)


@pytest.mark.usefixtures("one_at_a_time")
def test_a_signal_handler_can_send_anywhere_in_a_send_of_its_thread(server: Server) -> None:
    def scenario(at: int) -> bool:
        server.__init__()  # type: ignore[misc]
        handler = Handler(at, lambda: server.sends.send("q", b"9"))
        assert handler.run(lambda: server.sends.send("q", b"1")), handler.where
        assert [body for body in server.bodies() if b"1" in body] == [b"[1]"], handler.where
        server.check_idle(handler.where)
        return handler.where is not None

    _sweep(scenario)


def test_a_mark_that_an_interrupt_left_refuses_nothing_and_is_removed(server: Server) -> None:
    server.sends._reentry.mark()
    assert server.sends.send("q", b"1")
    assert not server.sends._reentry._threads


def test_a_forked_child_shares_with_no_thread_of_its_parent() -> None:
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        core = core_of(provider)
        before = core.sends
        core.after_fork()
        assert core.sends is not before
