"""The text of a receipt settles its own message and no other, however the text is changed."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azsession import InvalidReceiptError, Message, QueueNotFoundError, ReceiptHandle, ReceivedMessage, ServiceBusProvider
from azsession.server import GatewayService

from ..server.raw import Gateway, serving
from ..support.plain_server import PlainServer, answer

#: The errors for a changed receipt.
REFUSED = (InvalidReceiptError, QueueNotFoundError)

SETTLE = {
    "complete": lambda client, receipt: client.complete_message(receipt),
    "abandon": lambda client, receipt: client.abandon_message(receipt),
    "defer": lambda client, receipt: client.defer_message(receipt),
    "dead-letter": lambda client, receipt: client.dead_letter_message(receipt, "why"),
    "complete many": lambda client, receipt: client.complete_messages([receipt]),
}


def fields_of(receipt: ReceiptHandle) -> list[Any]:
    text = str(receipt).removeprefix("azs1.")
    fields: list[Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return fields


def text_of(fields: Any) -> str:
    return "azs1." + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


class Scene:
    """Two received messages in each of two sessions of two queues, over HTTP."""

    def __init__(self, gateway: Gateway) -> None:
        self.service: GatewayService = gateway.service
        self.provider = ServiceBusProvider.from_connection_string(self.service.connection_string(), retry_attempts=0)
        self.places = list(itertools.product(("orders", "orders2"), ("s", "t")))
        for queue in ("orders", "orders2"):
            self.provider.create_queue(queue)
        self.clients = {}
        self.received: dict[tuple[str, str], list[ReceivedMessage]] = {}
        for queue, session in self.places:
            self.provider.send_messages(queue, [Message(str(number), session_id=session) for number in range(3)])
            self.clients[queue, session] = client = self.provider.create_session_client(queue, session)
            self.received[queue, session] = client.receive_messages(2, timeout=5)

    @property
    def receipts(self) -> list[ReceiptHandle]:
        return [message.receipt for messages in self.received.values() for message in messages]

    def settle(self, text: str, how: str) -> None:
        client = self.provider.session_from_receipt(text)
        try:
            SETTLE[how](client, text)
        finally:
            client.close()

    def standing(self) -> dict[tuple[str, str], list[tuple[int | None, str, int]]]:
        """Return the messages of each session. A settled message is missing or has changed."""
        return {
            place: [(each.sequence_number, each.state, each.delivery_count) for each in self.provider.peek_messages(*place)]
            for place in self.places
        }

    def locked_count(self) -> int:
        core = self.service.broker._core  # type: ignore[attr-defined]
        return sum(len(lock.tokens) for lock in core.locks)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving() as gateway:
        made = Scene(gateway)
        with made.provider:
            yield made


@pytest.mark.parametrize("how", SETTLE)
def test_a_receipt_combined_from_two_settles_nothing(scene: Scene, how: str) -> None:
    before = scene.standing()
    for one, other in itertools.permutations([fields_of(receipt) for receipt in scene.receipts], 2):
        for mixed in ([other[0], *one[1:]], [one[0], other[1], *one[2:]], [*other[:2], *one[2:]]):
            if mixed[:3] in (one[:3], other[:3]):
                continue
            with pytest.raises(InvalidReceiptError):
                scene.settle(text_of(mixed), how)
    assert (scene.standing(), scene.locked_count()) == (before, 8)


#: Values to replace a field of a receipt.
OTHERS: dict[int, list[Any]] = {
    0: ["orders3", "ORDERS", "orders/", "orders/sessions/t", "../orders2", "", None, 5, "orders\r\n", "a" * 261],
    1: ["S", "s ", "s/../t", "t/messages/head?", "..", "", None, 5, "s\r\nx", "\ud800", "a" * 129],
    2: ["", ".", "..", "head", None, 5, True, [], "x", "$settle", "$deferred", "../../t/messages/head", "head?timeout=0",
        "\ud800", "00000000-0000-0000-0000-000000000000", "{}", "x" * 257],
}  # fmt: skip


@pytest.mark.parametrize("how", SETTLE)
@pytest.mark.parametrize("field", OTHERS)
def test_a_receipt_with_another_queue_session_or_token_settles_nothing(scene: Scene, how: str, field: int) -> None:
    before = scene.standing()
    for other in OTHERS[field]:
        fields = fields_of(scene.receipts[0])
        fields[field] = other
        with pytest.raises(REFUSED):
            scene.settle(text_of(fields), how)
        # The delivery counts show that the request did not receive a message either.
        assert (scene.standing(), scene.locked_count()) == (before, 8), other


def test_the_lock_token_of_the_next_message_cannot_be_guessed(scene: Scene) -> None:
    tokens = [receipt.handle.replace("-", "") for receipt in scene.receipts]
    # 40 bits are the sequence number, the other 88 are random.
    assert len({token[10:] for token in tokens}) == len(tokens)
    for receipt in scene.receipts:
        fields = fields_of(receipt)
        digits = fields[2].replace("-", "")
        number = f"{int(digits[:10], 16) + 1:010x}"
        forged = number + digits[10:]
        fields[2] = "-".join((forged[:8], forged[8:12], forged[12:16], forged[16:20], forged[20:]))
        with pytest.raises(InvalidReceiptError):
            scene.settle(text_of(fields), "complete")
    assert scene.locked_count() == 8


@given(st.data())
@settings(max_examples=60)
def test_a_receipt_with_any_character_changed_settles_its_own_message_or_nothing(scene: Scene, data: st.DataObject) -> None:
    receipts = scene.receipts
    text = str(data.draw(st.sampled_from(receipts)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        kind = data.draw(st.sampled_from(["change", "leave out", "double"]))
        piece = data.draw(st.sampled_from("ABab01-_=.+/ \u00e9"))
        text = text[:at] + {"change": piece, "leave out": "", "double": text[at] * 2}[kind] + text[at + 1 :]
    try:
        parsed = ReceiptHandle.parse(text)
    except InvalidReceiptError:
        return
    own = {(receipt.queue_name, receipt.session_id, receipt.handle) for receipt in receipts}
    if (parsed.queue_name, parsed.session_id, parsed.handle) in own:
        # Only the expiry or the route changed: it is still the receipt of the same message.
        return
    before = scene.standing()
    with pytest.raises(REFUSED):
        scene.settle(text, "complete")
    assert (scene.standing(), scene.locked_count()) == (before, 8)


def test_a_changed_expiry_or_route_does_not_extend_a_lock() -> None:
    with serving() as gateway, ServiceBusProvider.from_connection_string(gateway.service.connection_string()) as provider:
        queue = gateway.queue()
        provider.send_message(queue, Message("x", session_id="s"))
        with provider.create_session_client(queue, "s", auto_renew=False) as client:
            message = client.receive_message(timeout=5)
            assert message is not None
            fields = fields_of(message.receipt)
            gateway.clock.forward(61)
            longer = text_of([*fields[:3], 4e9, "elsewhere"])
            with provider.session_from_receipt(longer) as there, pytest.raises(InvalidReceiptError):
                there.complete_message(longer)
        assert [each.state for each in provider.peek_messages(queue, "s")] == ["Active"]


def test_a_client_from_one_receipt_refuses_the_receipt_of_another_session(scene: Scene) -> None:
    one, other, *_ = scene.received["orders", "s"]
    (elsewhere, _) = scene.received["orders2", "t"]
    with scene.provider.session_from_receipt(one.receipt) as client:
        for receipt in (other, other.receipt, str(other.receipt), elsewhere, str(elsewhere.receipt)):
            with pytest.raises(InvalidReceiptError):
                client.complete_message(receipt)
    assert scene.locked_count() == 8


@pytest.mark.parametrize("token", ["head", "..", ".", ""])
def test_a_lock_token_that_means_another_operation_is_refused(token: str) -> None:
    with PlainServer() as server:
        server.next(answer(201, {"BrokerProperties": json.dumps({"LockToken": token})}, b"x"))
        with (
            ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider,
            provider.create_session_client("orders", "s", auto_renew=False) as session,
            suppress(Exception),
        ):
            message = session.receive_message(timeout=0)
            assert message is not None
            session.complete_message(message)
        assert len(server.requests()) == 1
