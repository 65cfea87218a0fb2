"""How messages are divided among requests, and what the errors say about those that were accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from azsession import ConnectionFailedError, Message, MessageTooLargeError, QueueError, ThrottledError, ValidationError
from azsession.client import operations, sending
from azsession.client.call import Call
from azsession.client.sending import send_messages, with_id
from azsession.client.shared_sends import SharedSends
from azsession.telemetry import SendOperation, Telemetry


@attrs.define
class Core:
    """The part of a provider that sends. `refuse` returns the error for a request with these bodies, if any."""

    refuse: Callable[[list[str]], QueueError | None] = lambda bodies: None
    sent: list[list[str]] = attrs.field(factory=list)
    telemetry: Telemetry = attrs.field(factory=Telemetry)

    @property
    def transport(self) -> Core:
        return self

    @property
    def sends(self) -> SharedSends:
        return SharedSends(operations.send, self.send)

    def check_open(self) -> None:
        pass

    def require_v1(self, operation: str) -> None:
        assert operation == "send messages"

    def send(self, call: Call[None]) -> None:
        bodies = [item["Body"] for item in json.loads(call.body or b"")]
        error = self.refuse(bodies)
        if error is not None:
            raise error
        self.sent.append(bodies)


def send(core: Core, count: int) -> list[str]:
    messages = [Message(f"{number}", session_id="s") for number in range(count)]
    return send_messages(core, "orders", messages)  # type: ignore[arg-type]


def numbers(start: int, end: int) -> list[str]:
    return [str(number) for number in range(start, end)]


def test_a_message_gets_an_id_and_keeps_its_own() -> None:
    assert with_id(Message("x", session_id="s", message_id="mine")).message_id == "mine"
    assert with_id(Message("x", session_id="s")).message_id != with_id(Message("x", session_id="s")).message_id


@pytest.mark.parametrize(("wrong", "words"), [("text", "not str"), (Message("x"), "needs a session_id")])
def test_a_wrong_message_is_refused_and_nothing_is_sent(wrong: Any, words: str) -> None:
    core = Core()
    with pytest.raises(ValidationError, match=words):
        send_messages(core, "orders", [Message("x", session_id="s"), wrong])  # type: ignore[arg-type]
    assert core.sent == []


def test_no_messages_are_no_request() -> None:
    core = Core()
    assert send(core, 0) == []
    assert core.sent == []


def test_a_request_has_at_most_1000_messages() -> None:
    core = Core()
    assert len(set(send(core, 2001))) == 2001
    assert core.sent == [numbers(0, 1000), numbers(1000, 2000), numbers(2000, 2001)]


def test_a_request_is_bounded_in_size_but_has_at_least_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(sending.encode_item(with_id(Message("0", session_id="s"))))
    core = Core()
    monkeypatch.setattr(sending, "MAX_SEND_SIZE", 3 * size + 2)
    send(core, 7)
    assert core.sent == [numbers(0, 3), numbers(3, 6), numbers(6, 7)]
    monkeypatch.setattr(sending, "MAX_SEND_SIZE", 1)
    send(core, 2)
    assert core.sent[3:] == [["0"], ["1"]]


def test_a_request_that_is_too_large_is_sent_again_in_halves() -> None:
    core = Core(lambda bodies: MessageTooLargeError("too large") if len(bodies) > 2 else None)
    send(core, 7)
    assert core.sent == [["0"], ["1", "2"], ["3", "4"], ["5", "6"]]


def test_a_single_message_that_is_too_large_is_an_error_with_the_number_accepted_before_it() -> None:
    core = Core(lambda bodies: MessageTooLargeError("too large") if "5" in bodies else None)
    with pytest.raises(MessageTooLargeError, match=r"too large \(5 of 7 messages were accepted before that\)") as caught:
        send(core, 7)
    assert caught.value.accepted == 5
    assert [body for bodies in core.sent for body in bodies] == numbers(0, 5)


def test_the_error_of_a_later_request_says_how_many_messages_earlier_ones_sent() -> None:
    core = Core(lambda bodies: ThrottledError("busy") if "1000" in bodies else None)
    with pytest.raises(ThrottledError, match=r"1000 of 1500") as caught:
        send(core, 1500)
    assert caught.value.accepted == 1000


def test_the_error_of_the_first_request_is_unchanged() -> None:
    error = ConnectionFailedError("no answer", maybe_delivered=True)
    with pytest.raises(ConnectionFailedError) as caught:
        send(Core(lambda bodies: error), 3)
    assert caught.value is error
    assert caught.value.accepted == 0


class _Enlarging(Telemetry):
    """Adds something to the bodies, as the trace context adds to the attributes."""

    def send(self, name: str, queue_name: str, messages: Sequence[Message], *, is_batch: bool) -> SendOperation:
        return SendOperation([attrs.evolve(message, body=message.body + b"+") for message in messages])


@pytest.mark.parametrize("count", [1, 3])
def test_messages_that_only_the_trace_context_makes_too_large_are_sent_without_it(count: int) -> None:
    def refuse(bodies: list[str]) -> QueueError | None:
        return MessageTooLargeError("message 1 has 7 bytes") if "0+" in bodies else None

    core = Core(refuse, telemetry=_Enlarging())
    assert len(send(core, count)) == count
    assert core.sent == [numbers(0, count)]


def test_a_message_that_is_too_large_by_itself_is_an_error_also_with_a_trace_context() -> None:
    core = Core(lambda bodies: MessageTooLargeError("message 1 has 7 bytes"), telemetry=_Enlarging())
    with pytest.raises(MessageTooLargeError):
        send(core, 2)
    assert core.sent == []


def test_a_part_that_was_accepted_is_not_sent_again_without_its_trace_context() -> None:
    def refuse(bodies: list[str]) -> QueueError | None:
        return MessageTooLargeError("message 1 has 7 bytes") if "1000+" in bodies else None

    core = Core(refuse, telemetry=_Enlarging())
    with pytest.raises(MessageTooLargeError) as caught:
        send(core, 1001)
    assert caught.value.accepted == 1000
    assert len(core.sent) == 1
